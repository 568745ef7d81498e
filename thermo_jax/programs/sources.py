"""Where thermograms come from: a folder, prepared by TFDS or read directly, or a phantom."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from thermo_jax.data import examples, layouts, phantom, splits
from thermo_jax.data.thermogram import UNLABELLED, Thermogram
from thermo_jax.errors import UserError
from thermo_jax.files import cache_dir, digest, folder_path, writing
from thermo_jax.training import timeline

PHANTOM = "phantom"
PAPER, TRANSDUCTIVE = "paper", "transductive"
PROTOCOLS = ("honest", TRANSDUCTIVE, PAPER)
SPLIT = "split.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """An opened data set.

    Attributes:
      records: every usable thermogram.
      fingerprint: of their names and patients; the same for a copy of the files elsewhere.
      load: (task, data type = the configured one) -> the selected examples; tasks are "pretrain",
        "classify" and "segment".
      write_report: writes the data report's files to a folder.
    """

    records: Sequence[Thermogram]
    fingerprint: str
    load: Callable[..., examples.Examples]
    write_report: Callable[[epath.Path], object]


def root_of(data: ConfigDict) -> Path:
    """The folder to read; writes the phantom data set if it is asked for and not there yet.

    Raises:
      UserError: no folder is configured, or the phantom's cannot be written.
    """
    if not data.root:
        raise UserError(
            "config.data.root is empty: give --config.data.root=/path/to/dmr-ir, or use the preset "
            "'phantom' (such as --config=configs/encoder.py:heat,phantom) for synthetic data"
        )
    if data.root != PHANTOM:
        return Path(data.root).expanduser()
    count, folder = data.phantom_patients, cache_dir() / PHANTOM
    with writing(folder):
        return phantom.write_phantom(folder / f"patients{count}", patients=count)


def open_source(data: ConfigDict, *, seed: int = 0) -> Source:
    """Scans or prepares `config.data.root`.

    With loader "tf.data" the folder is prepared once by TFDS; with "numpy" it is read directly, and
    TensorFlow is not needed. Both give the same examples.

    Args:
      seed: deals the diagnoses where `config.data.shuffle_labels` asks for that.
    """
    reading = timeline.part("data")
    source = reading(_open)(data)
    source = dataclasses.replace(source, load=reading(source.load))
    return _shuffled(source, seed=seed) if data.shuffle_labels else source


def _shuffled(source: Source, *, seed: int) -> Source:
    """The same thermograms, their diagnoses dealt anew among the patients who have one.

    Folds are stratified by the dealt ones: otherwise a fold with many sick patients would leave few
    to train on, and scores pooled over folds would be too low for it.
    """
    label_of = {r.patient: r.label for r in source.records if r.label != UNLABELLED}
    patients = sorted(label_of)
    order = np.random.default_rng(seed).permutation(len(patients))
    dealt = {patient: label_of[patients[i]] for patient, i in zip(patients, order, strict=True)}

    def load(*args, **kwargs) -> examples.Examples:
        found = source.load(*args, **kwargs)
        labels = found.columns["labels"]
        pairs = zip(found.patients, labels.tolist(), strict=True)
        new = np.array([dealt.get(patient, label) for patient, label in pairs], labels.dtype)
        return dataclasses.replace(found, columns=found.columns | {"labels": new})

    records = [
        dataclasses.replace(record, label=dealt.get(record.patient, record.label))
        for record in source.records
    ]
    return dataclasses.replace(source, records=records, load=load)


def _open(data: ConfigDict) -> Source:
    root = root_of(data)
    if data.loader == "numpy":
        records, report = layouts.scan(root, layout=data.layout, strict=data.strict)
        logging.info("%s: %s", root, report.summary())
        return Source(
            records=records,
            fingerprint=_fingerprint(records),
            load=lambda task, data_type=data.type: examples.load_examples(
                examples.select(records, _selection(data), task=task, data_type=data_type),
                data_type=data_type,
                task=task,
                downscale=data.downscale,
                colormap=data.colormap,
            ),
            write_report=lambda folder: report.write(folder, records),
        )
    from thermo_jax.data import dmr_ir  # imports tensorflow_datasets

    prepared = dmr_ir.prepare(
        root,
        layout=data.layout,
        strict=data.strict,
        prepared_dir=data.prepared_dir or None,
        colormap=data.colormap,
    )
    records = dmr_ir.load_records(prepared)
    return Source(
        records=records,
        fingerprint=_fingerprint(records),
        load=lambda task, data_type=data.type: dmr_ir.load_examples(
            prepared,
            data_type=data_type,
            task=task,
            selection=_selection(data),
            downscale=data.downscale,
        ),
        write_report=lambda folder: [
            (folder / path.name).write_bytes(path.read_bytes()) for path in prepared.report_files
        ],
    )


def _fingerprint(records: Sequence[Thermogram]) -> str:
    return digest(sorted([record.name, record.patient] for record in records))


def selected(source: Source, data: ConfigDict, *, task: str) -> list[Thermogram]:
    """The thermograms that `source.load(task)` reads, without reading them."""
    return examples.select(source.records, _selection(data), task=task, data_type=data.type)


def split_of(split: ConfigDict, source: Source) -> splits.Split:
    """The run's patients.

    They depend on the data set and `config.split` alone, not on the task, so that an encoder and
    its decoders agree on the test patients. (Where diagnoses are dealt anew, also on that seed.)

    Raises:
      UserError: no patient is known, or the given file does not name all of them.
    """
    known = _known(source)
    if not known["patients"]:
        raise UserError(
            "no thermogram has a known patient, so that no patients can be kept for validation: "
            "name files as T<patient>.<visit>.<view>... (see the README)"
        )
    if split.file:
        found = splits.Split.load(folder_path(split.file))
        found.check_names(known["patients"], path=split.file)
    else:
        found = splits.three_way_split(
            **known,
            folds=split.folds,
            fold=split.fold,
            val_fraction=0 if split.protocol == PAPER else split.val_fraction,
            seed=split.seed,
        )
    return found


def with_more_validation(split: splits.Split, config: ConfigDict, source: Source) -> splits.Split:
    """A decoder's split for its encoder: more of the training patients validate, no others train.

    Args:
      config: the encoder's `config.split`.
    """
    if config.protocol == PAPER:  # the encoder is validated by image
        return split
    return splits.with_more_validation(
        split, **_known(source), val_fraction=config.val_fraction, seed=config.seed
    )


def _known(source: Source) -> dict[str, list]:
    """What splits need of the thermograms whose patient is known."""
    known = [record for record in source.records if record.patient_known]
    return {
        "patients": [record.patient for record in known],
        "labels": [record.label for record in known],
        "annotated": [bool(record.regions) for record in known],
    }


def _selection(data: ConfigDict) -> examples.Selection:
    return examples.Selection(
        views=data.views,
        protocols=data.protocols,
        frames=data.frames,
        mirrored=data.mirrored,
    )
