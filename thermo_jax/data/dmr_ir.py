"""What a prepared set contains, as TFDS data sets of ArrayRecord files, and how it is read.

A prepared set is one TFDS data set for each of `KINDS`. Row i of each is about thermogram i, so a
run reads only the kinds that it needs. A record contains raw bytes: ArrayRecord compresses them
with zstd, which is read faster than zlib. `preparing.py` writes the files.

TFDS (TensorFlow Datasets) needs no TensorFlow for this. Silva et al. 2014, doi
10.1166/jmihi.2014.1226, describe DMR-IR. Nothing is downloaded: users get it from its owners.
"""

import contextlib
import functools
import io
import itertools
import math
import pathlib
import resource
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.proto import tf_example_pb2

from thermo_jax.data import annotations, examples
from thermo_jax.data.picture import load_pixels
from thermo_jax.data.prepared import DATASET_NAME, KINDS, Prepared, find
from thermo_jax.data.reader import ReaderSettings
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, Annotation, Thermogram
from thermo_jax.errors import UserError

_METADATA = {
    "name": np.str_,
    "patient": np.str_,
    "patient_known": np.bool_,
    "visit": np.int32,
    "view": np.int32,
    "protocol": np.str_,
    "date": np.str_,
    "frame": np.int32,
    "mirrored": np.bool_,
    "label": np.int32,
    "mean_temperature": np.float64,  # NaN = None
}
_FLAGS = ("has_gray", "has_heat", "has_temperatures", "annotated")
_OPEN_FILES = 8192  # more than the shards of all kinds
# TFDS cannot store None: a missing image is stored with 0 rows. Only the number of rows is unknown:
# with two unknown sizes, TFDS would also store each shape.
_PIXELS = {"gray": (-1, 640, 1), "heat": (-1, 160, 3), "label_map": (-1, 640)}


@functools.cache
def features(kind: str) -> tfds.features.FeaturesDict:
    """The features of one of `KINDS`.

    "thermograms" has the metadata of `Thermogram`, `_FLAGS`, and `draw_order` int8 [8], which
    `annotations.draw_order` explains. The others have one array of bytes, of their own name.
    """
    if kind != "thermograms":
        shape = (None, *_PIXELS[kind][1:])
        pixels = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
        return tfds.features.FeaturesDict({kind: pixels})
    scalars = {
        name: tfds.features.Text() if dtype is np.str_ else tfds.features.Scalar(dtype=dtype)
        for name, dtype in _METADATA.items()
    }
    # TFDS stores a Scalar of this type in 32 bits.
    scalars["mean_temperature"] = tfds.features.Tensor(shape=(), dtype=np.float64, encoding="bytes")
    scalars |= {name: tfds.features.Scalar(dtype=np.bool_) for name in _FLAGS}
    scalars["draw_order"] = tfds.features.Tensor(shape=(len(CLASS_NAMES),), dtype=np.int8)
    return tfds.features.FeaturesDict(scalars)


# --------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------


def load_records(prepared: Prepared) -> list[Thermogram]:
    """The metadata of every prepared thermogram, in the order of `layouts.scan`.

    Each path of a record is the folder of the prepared set. Regions have classes and an order, but
    no outlines: the stored label map shows these.
    """
    records = _open(prepared, "thermograms")
    return [_decode_record(_features(record), prepared.directory) for record in records]


def pixel_reader(prepared: Prepared, records: Sequence[Thermogram]) -> examples.ReadPixels:
    """A function that reads the stored pixels of a prepared thermogram.

    They are bit-equal to those that `examples.read_pixels` reads from the source.

    Args:
      records: those of `load_records`.
    Raises:
      UserError: the function raises it if a record cannot be read, or if the set was replaced.
    """
    rows = {record.name: row for row, record in enumerate(records)}
    opened: dict[str, Sequence[bytes]] = {}
    lock = threading.Lock()

    def stored(kind: str) -> Sequence[bytes]:
        with lock:  # the first threads must not open it at the same time
            if kind not in opened:
                opened[kind] = _open(prepared, kind)
        return opened[kind]

    def read(record: Thermogram, kind: str) -> np.ndarray:
        try:
            value = _features(stored(kind)[rows[record.name]])[kind].bytes_list.value[0]
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError, LookupError) as error:
            raise UserError(
                f"{prepared.directory}: the {kind} of {record.name} cannot be read ({error}). If "
                "its files are damaged, delete this folder: the next run prepares the data again"
            ) from error
        return np.frombuffer(value, np.uint8).reshape(_PIXELS[kind])

    return read


def _open(prepared: Prepared, kind: str) -> Sequence[bytes]:
    """The records of one of `KINDS` in order, each read when it is indexed.

    Raises:
      UserError: another set is in the folder since the records were listed.
    """
    _allow_open_files(_OPEN_FILES)
    with quiet():
        builder = tfds.builder_from_directory(prepared.folder_of(kind))
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        records = builder.as_data_source(split="train", deserialize_method=raw)
        lengths = builder.info.splits["train"].shard_lengths
    # A run may prepare a changed source again while this one reads. Files that are open then stay
    # as they are. Reading a record of a shard opens its file.
    for start in itertools.accumulate(lengths[:-1], initial=0):
        records[start]
    if find(prepared.directory, prepared.fingerprint) is None:
        raise UserError(
            f"{prepared.directory} was prepared again, because its source has changed: start again"
        )
    return records


def _allow_open_files(count: int) -> None:
    """Raises the number of files that this process may open, as far as the system allows."""
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if most == resource.RLIM_INFINITY else min(count, most)
    if least != resource.RLIM_INFINITY and least < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _features(record: bytes) -> Mapping[str, Any]:
    """The features of a record, which is a tf.train.Example.

    TFDS would decode them to the same values, but takes 0.08 ms for an image and 0.4 ms for the
    metadata, in which other threads wait.
    """
    return tf_example_pb2.Example.FromString(record).features.feature


def _decode_record(row: Mapping[str, Any], stored: pathlib.Path) -> Thermogram:
    values: dict[str, Any] = {}
    for name, dtype in _METADATA.items():
        if dtype is np.str_:
            values[name] = row[name].bytes_list.value[0].decode("utf-8", "surrogateescape")
        elif dtype is not np.float64:
            values[name] = dtype(row[name].int64_list.value[0]).item()
    (mean,) = np.frombuffer(row["mean_temperature"].bytes_list.value[0]).tolist()
    values["mean_temperature"] = None if math.isnan(mean) else mean
    flags = {name: bool(row[name].int64_list.value[0]) for name in _FLAGS}
    ranks = row["draw_order"].int64_list.value
    drawn = sorted(np.flatnonzero(ranks).tolist(), key=lambda index: ranks[index])
    # Background is never drawn. It is added so that an annotated image has at least one region.
    classes = [BACKGROUND, *drawn] if flags["annotated"] else []
    return Thermogram(
        **values,
        gray_path=stored if flags["has_gray"] else None,
        heat_path=stored if flags["has_heat"] else None,
        temperature_path=stored if flags["has_temperatures"] else None,
        regions=tuple(Annotation(class_index=index, rings=()) for index in classes),
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences TFDS, which logs every step, and deprecations."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)


# --------------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------------


def encode(record: Thermogram, *, reader: ReaderSettings, colormap: str) -> dict[str, bytes]:
    """Reads the files of a thermogram; returns its record of each of `KINDS`.

    Args:
      reader, colormap: see `preparing.prepare`.
    """
    arrays = load_pixels(record, reader, colormap=colormap, wanted=("gray", "heat"))._asdict()
    arrays["label_map"] = annotations.label_map_480x640(record) if record.regions else None
    metadata = {name: getattr(record, name) for name in _METADATA}
    for name, value in metadata.items():
        if isinstance(value, str):
            metadata[name] = value.encode("utf-8", "surrogateescape")  # names need not be UTF-8
    if record.mean_temperature is None:
        metadata["mean_temperature"] = math.nan
    metadata |= {
        "has_gray": arrays["gray"] is not None,
        "has_heat": arrays["heat"] is not None,
        "has_temperatures": record.temperature_path is not None,
        "annotated": bool(record.regions),
        "draw_order": np.array(annotations.draw_order(record.regions), np.int8),
    }
    values = {"thermograms": metadata}
    for kind, (_, *rest) in _PIXELS.items():
        missing = np.zeros((0, *rest), np.uint8)
        values[kind] = {kind: missing if arrays[kind] is None else arrays[kind]}
    return {kind: features(kind).serialize_example(values[kind]) for kind in KINDS}


def write_metadata(folder: pathlib.Path, kind: str, *, shard_lengths: Sequence[int]) -> None:
    """Writes what TFDS must know to read the shards of one of `KINDS` in a folder."""
    template = _shard_names(folder)
    size = sum(path.stat().st_size for path in shard_files(folder, len(shard_lengths)))
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=list(shard_lengths),
        num_bytes=size,
        filename_template=template,
    )
    with quiet():
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=features(kind),
            split_infos=[split],
            filename_template=template,
            check_data=False,
            description=f"Breast thermograms ({kind}), prepared by thermo_jax.",
            homepage="http://visual.ic.uff.br/dmi",
            citation="Silva et al. 2014, doi 10.1166/jmihi.2014.1226",
            disable_shuffling=True,
        )


def shard_files(folder: pathlib.Path, num_shards: int) -> list[pathlib.Path]:
    """The files of all shards in a folder, as TFDS names them."""
    return [pathlib.Path(path) for path in _shard_names(folder).sharded_filepaths(num_shards)]


def _shard_names(folder: pathlib.Path) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=DATASET_NAME, split="train", filetype_suffix="array_record"
    )
