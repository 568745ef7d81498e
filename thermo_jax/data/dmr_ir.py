"""DMR-IR as a TFDS data set: the source files are read and checked once, then the prepared copy.

`prepare` turns a source folder of any layout into ArrayRecord files, and repeats this when the
source or the settings change. `load_records` and `read_pixels` read these files.

TFDS (TensorFlow Datasets) needs no TensorFlow to write and read ArrayRecord files. Silva et al.
2014, doi 10.1166/jmihi.2014.1226. Nothing is downloaded: users get the database from its owners.
"""

import contextlib
import datetime
import functools
import io
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from thermo_jax.data import annotations, examples, layouts
from thermo_jax.data.picture import load_pixels
from thermo_jax.data.prepared import (
    DATASET_NAME,
    DATASET_VERSION,
    Prepared,
    Wanted,
    find,
    locate,
    lock,
    make_prepared_dir,
)
from thermo_jax.data.reader import AS_RECOGNISED, ReaderSettings, ordered_map
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, Annotation, Thermogram

# TFDS cannot store None: a missing image is stored with 0 rows, and a flag says that it is missing.
# Only the number of rows is unknown: with two unknown sizes, TFDS would also store each shape.
_ARRAYS = {
    "gray": ((None, 640, 1), np.uint8),
    "heat": ((None, 160, 3), np.uint8),
    "temperatures": ((None, 640), np.float32),  # degrees C
    "label_map": ((None, 640), np.uint8),
}
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
_REGISTERED = getattr(tfds.core.registered, "_DATASET_REGISTRY", {})


# TFDS registers a name only once; importing this module again (in a notebook) must not fail.
class DmrIr(tfds.core.GeneratorBasedBuilder, skip_registration=DATASET_NAME in _REGISTERED):
    """TFDS builder `dmr_ir`: one record per thermogram, in the order of `layouts.scan`.

    Features: the metadata of `Thermogram`, `_FLAGS`, `_ARRAYS`, and `draw_order` int8 [8], which
    `annotations.draw_order` explains.
    """

    VERSION = tfds.core.Version(DATASET_VERSION)
    RELEASE_NOTES = {DATASET_VERSION: "Mean temperatures.", "1.0.0": "First version."}
    # TFDS must not look for checksums beside the code: this imports importlib_resources, which
    # TFDS 4.9.10 does not install: https://github.com/tensorflow/datasets/issues/11212
    code_path = None
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Get DMR-IR from its owners (http://visual.ic.uff.br/dmi) and pass its folder as manual_dir"
    )

    def __init__(
        self,
        *,
        records: Sequence[Thermogram] | None = None,
        colormap: str = "jet",
        reader: ReaderSettings = AS_RECOGNISED,
        **kwargs: Any,
    ):
        """Sets the records to write (default: a scan of manual_dir) and how pixels are read."""
        self._records, self._colormap, self._reader = records, colormap, reader
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            name: tfds.features.Text() if dtype is np.str_ else tfds.features.Scalar(dtype=dtype)
            for name, dtype in _METADATA.items()
        }
        # TFDS stores a Scalar of this type in 32 bits.
        features["mean_temperature"] = tfds.features.Tensor(
            shape=(), dtype=np.float64, encoding="bytes"
        )
        features |= {name: tfds.features.Scalar(dtype=np.bool_) for name in _FLAGS}
        features |= {
            name: tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")
            for name, (shape, dtype) in _ARRAYS.items()
        }
        features["draw_order"] = tfds.features.Tensor(shape=(len(CLASS_NAMES),), dtype=np.int8)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Breast thermograms of the Database for Mastology Research (DMR-IR).",
            homepage="http://visual.ic.uff.br/dmi",
            citation="Silva et al. 2014, doi 10.1166/jmihi.2014.1226",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        records = self._records
        if records is None:
            records, _ = layouts.scan(dl_manager.manual_dir)
        return {"train": self._generate_examples(records)}

    def _generate_examples(self, records: Sequence[Thermogram]) -> Iterator[tuple[int, dict]]:
        encode = functools.partial(_encode, settings=self._reader, colormap=self._colormap)
        yield from enumerate(ordered_map(encode, records, description="preparing"))


def prepare(
    root: str | os.PathLike,
    *,
    layout: str = "auto",
    strict: bool = False,
    prepared_dir: str | os.PathLike | None = None,
    colormap: str = "jet",
    render: str = "auto",
    reader: ReaderSettings = AS_RECOGNISED,
) -> Prepared:
    """Prepares a source folder, unless this was done before.

    Args:
      root, layout, strict, render, reader: as in `layouts.scan`.
      prepared_dir: the folder of prepared sets; default `prepared` in `files.cache_dir()`.
      colormap: matplotlib colour map for heatmaps rendered from temperatures.
    Raises:
      FileNotFoundError: there is no such root.
      UserError: no usable thermogram, an unknown layout, or `prepared_dir` is inside the root.
      DataError: a bad file, if `strict`.
    """
    wanted = locate(
        root,
        layout=layout,
        prepared_dir=prepared_dir,
        colormap=colormap,
        render=render,
        reader=reader,
    )
    fingerprint = wanted.fingerprint()
    make_prepared_dir(prepared_dir, root=wanted.root)
    prepared = find(wanted.directory, fingerprint)
    if prepared is None:
        with lock(wanted.directory):
            # Another process may have prepared it by now.
            prepared = find(wanted.directory, fingerprint) or _write(
                wanted, fingerprint, strict=strict, reader=reader
            )
    if strict and prepared.num_bad:
        layouts.scan(root, layout=layout, strict=True, reader=reader)  # raises the file's error
    if prepared.num_oddities:
        logging.warning(
            "%d oddities in the data, %d files skipped; see %s",
            prepared.num_oddities,
            prepared.num_skipped,
            prepared.report_path,
        )
    return prepared


def load_records(prepared: Prepared) -> list[Thermogram]:
    """The metadata of every prepared thermogram, in the order of `layouts.scan`.

    Each path of a record is the folder of the prepared set. Regions have classes and an order, but
    no outlines: the stored label map shows these.
    """
    names = [*_METADATA, *_FLAGS, "draw_order"]
    return [_decode_record(row, prepared.dataset_dir) for row in _open(prepared, names)]


def read_pixels(
    records: Sequence[Thermogram], *, prepared: Prepared, data_type: str, task: str
) -> examples.ReadPixels:
    """Reads the stored pixels of some prepared thermograms, in order.

    The pixels are bit-equal to those that `examples.read_pixels` reads from the source.
    """
    names = [data_type, "label_map"] if task == "segment" else [data_type]
    row_of = {record.name: row for row, record in enumerate(load_records(prepared))}
    stored = _open(prepared, names)

    def read(record: Thermogram) -> tuple[np.ndarray, np.ndarray | None]:
        values = stored[row_of[record.name]]
        return values[data_type], values.get("label_map")

    return ordered_map(read, records, description=f"reading {data_type}")


def _open(prepared: Prepared, names: Sequence[str]) -> Sequence[dict[str, Any]]:
    """The records in order, each read when it is indexed; only the named features are decoded."""
    with _quiet():
        builder = tfds.builder_from_directory(prepared.dataset_dir)
        others = builder.info.features.keys() - set(names)
        skip = {name: tfds.decode.SkipDecoding() for name in others}  # decompression is slow
        return builder.as_data_source(split="train", decoders=skip)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS, which logs every step, deprecations, and downloads though there are none."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)


def _encode(record: Thermogram, *, settings: ReaderSettings, colormap: str) -> dict[str, Any]:
    arrays = load_pixels(record, settings, colormap=colormap)._asdict()
    arrays["label_map"] = annotations.label_map_480x640(record) if record.regions else None
    encoded = {name: getattr(record, name) for name in _METADATA}
    for name, value in encoded.items():
        if isinstance(value, str):
            encoded[name] = value.encode("utf-8", "surrogateescape")  # file names need not be UTF-8
    if record.mean_temperature is None:
        encoded["mean_temperature"] = math.nan
    for name, (shape, dtype) in _ARRAYS.items():
        flag = "annotated" if name == "label_map" else f"has_{name}"
        encoded[flag] = arrays[name] is not None
        missing = np.zeros((0, *shape[1:]), dtype)
        encoded[name] = missing if arrays[name] is None else arrays[name]
    encoded["draw_order"] = np.array(annotations.draw_order(record.regions), np.int8)
    return encoded


def _decode_record(row: dict[str, Any], stored: pathlib.Path) -> Thermogram:
    values = {
        name: row[name].decode("utf-8", "surrogateescape")
        if dtype is np.str_
        else dtype(row[name]).item()
        for name, dtype in _METADATA.items()
    }
    if math.isnan(values["mean_temperature"]):
        values["mean_temperature"] = None
    ranks = row["draw_order"]
    drawn = sorted(np.flatnonzero(ranks).tolist(), key=lambda index: ranks[index])
    # Background is never drawn. It is added so that an annotated image has at least one region.
    classes = [BACKGROUND, *drawn] if row["annotated"] else []
    return Thermogram(
        **values,
        gray_path=stored if row["has_gray"] else None,
        heat_path=stored if row["has_heat"] else None,
        temperature_path=stored if row["has_temperatures"] else None,
        regions=tuple(Annotation(class_index=index, rings=()) for index in classes),
    )


def _write(wanted: Wanted, fingerprint: str, *, strict: bool, reader: ReaderSettings) -> Prepared:
    """Prepares in a folder beside the wanted one, and renames it when it is complete."""
    directory, read_as = wanted.directory, wanted.read_as
    if directory.exists():
        logging.warning(
            "%s is incomplete, was prepared by an earlier version, or its source has changed: "
            "preparing it again",
            directory,
        )
    logging.info("preparing %s in %s", wanted.root, directory)
    records, report = layouts.scan(
        wanted.root,
        layout=read_as["layout"],
        strict=strict,
        render=read_as["render"],
        reader=reader,
    )
    staging = directory.with_name(f"{directory.name}.incomplete")
    shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
    try:
        tfds.disable_progress_bar()  # `ordered_map` shows one
        builder = DmrIr(
            records=records, colormap=read_as["colormap"], reader=reader, data_dir=staging
        )
        downloads = staging / "downloads"  # TFDS makes this folder, though nothing is downloaded
        with _quiet():
            builder.download_and_prepare(file_format="array_record", download_dir=downloads)
        shutil.rmtree(downloads, ignore_errors=True)
        report.write(staging, records)
        facts = {
            "fingerprint": fingerprint,
            "num_oddities": len(report.oddities),
            "num_skipped": len(report.skipped),
            "num_bad": report.num_bad,
            "cautions": report.cautions,
        }
        when = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        others = {"num_records": len(records), "root": str(wanted.root), **read_as}
        others["prepared_at"] = when
        text = json.dumps(facts | others, indent=2)
        (staging / "prepared.json").write_text(text + "\n")
        shutil.rmtree(directory, ignore_errors=True)
        staging.rename(directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    logging.info("prepared %d thermograms in %s", len(records), directory)
    return Prepared(directory=directory, **facts)
