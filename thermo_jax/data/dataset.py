"""Opens a data set: a folder, read directly or through TFDS, or synthetic ("phantom") data."""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from thermo_jax.data import examples, layouts, phantom, prepared, splits
from thermo_jax.data.reader import ReaderSettings
from thermo_jax.data.splits import Split
from thermo_jax.data.streamed import memory_for_examples, num_bytes
from thermo_jax.data.thermogram import UNLABELLED, Thermogram
from thermo_jax.errors import UserError
from thermo_jax.files import cache_dir, digest, folder_path, is_remote, writing

PHANTOM = "phantom"
PAPER, TRANSDUCTIVE = "paper", "transductive"
SPLIT_PROTOCOLS = ("honest", TRANSDUCTIVE, PAPER)
SPLIT_FILE = "split.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(examples.Selection):
    """What to read: the fields of `config.data`, which configs/common.py explains, and a seed.

    Attributes:
      emissivity: `config.flir.emissivity`.
      endless: the training images are rendered in each step, see `train_decoder.train_step`.
      seed: the seed of the permutation of diagnoses; used only if `shuffle_labels` is True.
    """

    root: str
    type: str
    layout: str = "auto"
    strict: bool = False
    downscale: int = 1
    colormap: str = "jet"
    loader: str = "tf.data"
    prepared_dir: str = ""
    memory_gb: float = -1.0
    streamed: bool = False
    unit: str = "auto"
    render: str = "auto"
    emissivity: float = 0.0
    shuffle_labels: bool = False
    phantom_patients: int = 40
    phantom_version: int = 1
    endless: bool = False
    seed: int = 0

    @property
    def reader(self) -> ReaderSettings:
        """How files are read."""
        return ReaderSettings(unit=self.unit, emissivity=self.emissivity)

    def find_root(self) -> pathlib.Path:
        """The folder to read; writes the phantom data set if it is configured and missing.

        Raises:
          UserError: no folder is configured, or the phantom's folder cannot be written.
        """
        if not self.root:
            raise UserError(
                "config.data.root is empty: give --config.data.root=/path/to/dmr-ir, or use the "
                "preset 'phantom' (such as --config=configs/encoder.py:heat,phantom) for synthetic "
                "data"
            )
        if is_remote(self.root):
            raise UserError(
                f"config.data.root={self.root} is not on this machine: copy the data set to a "
                "folder here (gcloud storage cp -r ...), and give that one"
            )
        if self.root != PHANTOM:
            return pathlib.Path(self.root).expanduser()
        folder = cache_dir() / PHANTOM
        with writing(folder):
            version = "" if self.phantom_version == 1 else f"version{self.phantom_version}_"
            return phantom.write_phantom(
                folder / f"{version}patients{self.phantom_patients}",
                patients=self.phantom_patients,
                version=self.phantom_version,
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How patients are split into three sets: the fields of `config.split` (configs/common.py)."""

    folds: int = 5
    fold: int = 0
    val_fraction: float = 0.2
    seed: int = 0
    file: str = ""
    protocol: str = "honest"
    max_train_patients: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """An opened data set.

    Attributes:
      records: every usable thermogram.
      settings: how it was opened.
      read_pixels: reads the pixels of one of them.
      stream_pixels: () -> a function like `read_pixels` that is fast enough to be used in training;
        it may have to prepare the data. None if `read_pixels` is.
      write_report: writes the files of the data report to a folder.
      all_cautions: of the data report.
    """

    records: Sequence[Thermogram]
    settings: DataSettings
    read_pixels: examples.ReadPixels
    write_report: Callable[[epath.Path], object]
    stream_pixels: Callable[[], examples.ReadPixels] | None = None
    all_cautions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    _loaded: dict[tuple[str, str], examples.Examples] = dataclasses.field(
        default_factory=dict, init=False
    )

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the names and patients, which is the same for a copy of the files elsewhere."""
        return digest(sorted([record.name, record.patient] for record in self.records))

    @functools.cached_property
    def known_patients(self) -> set[str]:
        """The patients whose number is known."""
        return {record.patient for record in self._of_known_patients()}

    @property
    def cautions(self) -> list[str]:
        """What every page of results must say about the data of this type."""
        other = {"gray": "mixed-heat", "heat": "mixed-gray"}[self.settings.type]
        return [text for kind, text in self.all_cautions.items() if kind != other]

    def load(self, task: str, data_type: str = "") -> examples.Examples:
        """The examples of a task, "pretrain", "classify" or "segment".

        If they are of the data set's own type (data_type "" or `settings.type`), they stay in
        memory for the next stage of a study, until other examples of this type are loaded. If they
        are larger than the memory that they may use, they are streamed.
        """
        data_type = data_type or self.settings.type
        if (task, data_type) in self._loaded:
            return self._loaded[task, data_type]
        is_own = data_type == self.settings.type
        if is_own:
            self._loaded.clear()  # before the next ones need memory
        chosen = self.select(task, data_type)
        downscale = self.settings.downscale
        shapes = examples.column_shapes(data_type, task, downscale=downscale)
        stream = self._must_stream(num_bytes(len(chosen), shapes))
        read_pixels = self.read_pixels
        if stream and self.stream_pixels is not None:
            read_pixels = self.stream_pixels()
        loaded = examples.load_examples(
            chosen,
            data_type=data_type,
            task=task,
            downscale=downscale,
            read_pixels=read_pixels,
            stream=stream,
        )
        if is_own:
            self._loaded[task, data_type] = loaded
        return loaded

    def _must_stream(self, size: int) -> bool:
        """Whether examples of so many bytes are not kept in memory; a log message says so."""
        limit = memory_for_examples(self.settings.memory_gb)
        if self.settings.streamed:
            logging.info("The images are streamed, as config.data.streamed asks.")
        elif size > limit:
            logging.info(
                "The images are streamed: they would need %.2f GB of memory, and may use %.2f GB "
                "(config.data.memory_gb).",
                size / 1e9,
                limit / 1e9,
            )
        return self.settings.streamed or size > limit

    def select(self, task: str, data_type: str = "") -> list[Thermogram]:
        """The thermograms that `load` reads."""
        return examples.select(
            self.records, self.settings, task=task, data_type=data_type or self.settings.type
        )

    def split(self, settings: SplitSettings) -> Split:
        """The sets of patients for training, validation and testing.

        The split does not depend on the task, so an encoder and its decoders have the same test
        patients. If diagnoses are shuffled, it depends on the seed of the shuffling. With
        `val_fraction` 0, a given file's validation patients are training patients.

        Raises:
          UserError: no patient is known, or the given file does not contain all of them.
        """
        if not self.known_patients:
            raise UserError(
                "no thermogram has a known patient, so no patients can be kept for validation: "
                "name files as T<patient>.<visit>.<view>... (see the README)"
            )
        if settings.file:
            split = Split.load(folder_path(settings.file))
            split.check_names(self.known_patients, path=settings.file)
            return split if settings.val_fraction else split.without_validation()
        return splits.three_way_split(
            self._of_known_patients(),
            folds=settings.folds,
            fold=settings.fold,
            val_fraction=0 if settings.protocol == PAPER else settings.val_fraction,
            seed=settings.seed,
        )

    def with_more_validation(self, split: Split, settings: SplitSettings) -> Split:
        """The decoder's split, with some training patients moved to validation for the encoder.

        Args:
          split: the decoder's split.
          settings: the encoder's settings.
        """
        if settings.protocol == PAPER:  # the encoder is validated on images, not on patients
            return split
        return splits.with_more_validation(
            split,
            self._of_known_patients(),
            val_fraction=settings.val_fraction,
            seed=settings.seed,
        )

    def with_shuffled_labels(self, seed: int) -> "Dataset":
        """The same data set, with the diagnoses permuted among the patients who have one."""
        records = _with_shuffled_labels(self.records, seed=seed)
        return dataclasses.replace(self, records=records)

    def _of_known_patients(self) -> list[Thermogram]:
        return [record for record in self.records if record.patient_known]


def open_dataset(settings: DataSettings) -> Dataset:
    """Scans or prepares the folder.

    With the loader "tf.data", the folder is prepared once, that is, written to ArrayRecord files of
    TFDS. The loader "numpy" reads the source files, or the prepared data if they are up to date, or
    if examples must be streamed. Both give the same examples.
    """
    root = settings.find_root()
    options = {
        "layout": settings.layout,
        "prepared_dir": settings.prepared_dir or None,
        "colormap": settings.colormap,
        "render": settings.render,
        "reader": settings.reader,
    }
    stream_pixels = None
    if settings.loader == "numpy" and not (settings.streamed or _is_prepared(root, **options)):
        records, report = layouts.scan(
            root,
            layout=settings.layout,
            strict=settings.strict,
            render=settings.render,
            reader=settings.reader,
        )
        logging.info("%s: %s", root, report.summary())
        read_pixels = functools.partial(
            examples.read_pixels, colormap=settings.colormap, settings=settings.reader
        )

        @functools.cache
        def stream_pixels() -> examples.ReadPixels:
            scanned = records, report
            return _open_prepared(root, strict=settings.strict, scanned=scanned, **options)[2]

        write_report = functools.partial(report.write, records=records)
        cautions = report.cautions
    else:
        stored, records, read_pixels = _open_prepared(root, strict=settings.strict, **options)
        write_report = stored.copy_report
        cautions = stored.cautions
    if settings.shuffle_labels:
        records = _with_shuffled_labels(records, seed=settings.seed)
    return Dataset(
        records=records,
        settings=settings,
        read_pixels=read_pixels,
        write_report=write_report,
        stream_pixels=stream_pixels,
        all_cautions=cautions,
    )


def _open_prepared(
    root: pathlib.Path, **options: Any
) -> tuple[prepared.Prepared, list[Thermogram], examples.ReadPixels]:
    """The prepared set, which is made if there is none; its records; what reads their pixels.

    Raises:
      UserError: TFDS is not installed.
    """
    try:
        from thermo_jax.data import dmr_ir, preparing  # these import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            "prepared data, from which images are streamed, need packages that cannot be imported "
            f"({error}): run `pip install tensorflow-datasets array-record`; or set "
            "config.data.loader='numpy', config.data.streamed=False and a config.data.memory_gb "
            "that is large enough"
        ) from error
    stored = preparing.prepare(root, **options)
    logging.info("reading the prepared data in %s", stored.directory)
    records = dmr_ir.load_records(stored)
    return stored, records, dmr_ir.pixel_reader(stored, records)


def _is_prepared(root: pathlib.Path, **options: Any) -> bool:
    """Whether there is an up-to-date prepared set (see `prepared.locate`) and TFDS to read it."""
    wanted = prepared.locate(root, **options)
    if not wanted.is_prepared():
        return False
    if importlib.util.find_spec("tensorflow_datasets"):
        return True
    logging.info("%s is not read, because TFDS is not installed", wanted.directory)
    return False


def _with_shuffled_labels(records: Sequence[Thermogram], *, seed: int) -> list[Thermogram]:
    """The same thermograms, with the diagnoses permuted among the patients who have one.

    This happens before the split, so that folds are stratified by the permuted diagnoses. Otherwise
    a fold with many sick patients would leave few for training, which lowers pooled scores.
    """
    label_of = {r.patient: r.label for r in records if r.label != UNLABELLED}
    patients = sorted(label_of)
    order = np.random.default_rng(seed).permutation(len(patients))
    shuffled = {patient: label_of[patients[i]] for patient, i in zip(patients, order, strict=True)}
    return [
        dataclasses.replace(record, label=shuffled.get(record.patient, record.label))
        for record in records
    ]


def check_not_empty(sets: Mapping[str, Sequence | np.ndarray], *, of: int) -> None:
    """Raises UserError, which names the set, if a set contains no row; `of` images are usable."""
    for name, rows in sets.items():
        if not len(rows):
            raise UserError(
                f"none of {of} usable images is of a {'training' if name == 'train' else name} "
                "patient: choose other config.split.folds, fold or val_fraction, or add data"
            )
