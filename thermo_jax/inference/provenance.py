"""What a reader of predictions must know about each model: where it comes from, how good it was.

    checkpoint or file of weights -> Provenance -> models.csv, every row of predictions.csv, pages

A number without its model is worth little: a table that is shared must still say what made it.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from thermo_jax.data.dataset import PAPER
from thermo_jax.evaluation.assessment import TUNED
from thermo_jax.evaluation.wording import OPTIMISTIC
from thermo_jax.files import folder_path
from thermo_jax.inference.trained_models import Model
from thermo_jax.training.weights_file import is_weights_file

SYNTHETIC = "synthetic bodies only"
NOT_RECORDED = "not recorded"
PERMUTED = "diagnoses permuted at random: a control"
# Of real patients, from the model card (a test compares them). The file's own scores are of
# synthetic ones.
SHIPPED_SCORE = "mIoU .645 (95 % interval .606 to .683; 11 real patients)"
ABOUT_PHANTOMS = (
    "was trained on synthetic bodies, whose sickness is no disease: its probability says how much "
    "a picture resembles the sick synthetic bodies, and nothing about a patient"
)


class Provenance(NamedTuple):
    """Facts about one model, as text; "not recorded" if its file does not contain them.

    Attributes:
      name: short, such as "classify_HH".
      title: the name, in words for the model of the package.
      task: "classify" or "segment".
      trained_on: such as "54 patients, 27 sick".
      trained: the date, ISO.
      version: of thermo_jax that trained it, such as "0.1.0".
      score: on test patients, with its 95 % interval.
      threshold: of a classifier, above which its run called a patient sick; None for a segmenter.
      learned_phantoms: whether all its labels were those of synthetic bodies.
    """

    name: str
    title: str
    task: str
    trained_on: str
    trained: str
    version: str
    score: str
    threshold: float | None
    learned_phantoms: bool

    @property
    def sentence(self) -> str:
        """All facts on one line."""
        kind = "classifier" if self.task == "classify" else "segmenter"
        parts = [
            f"trained on {self.trained_on}",
            self.made,
            f"on test patients: {self.score}",
        ]
        if self.threshold is not None:
            parts.append(f"sick above {self.threshold:.3f}")
        return f"{self.name} ({kind}; {'; '.join(parts)})"

    @property
    def made(self) -> str:
        """When, and by which version."""
        date = f"date {NOT_RECORDED}" if self.trained == NOT_RECORDED else self.trained
        return f"{date}, thermo_jax {self.version}"

    def row(self) -> dict[str, Any]:
        """The row of models.csv, and the entry in config.json."""
        return {
            "model": self.name,
            "task": self.task,
            "trained_on": self.trained_on,
            "trained": self.trained,
            "thermo_jax": self.version,
            "test_score": self.score,
            "threshold": self.threshold,
        }


def describe(model: Model) -> Provenance:
    """The provenance of a model; its results are read from its workdir or file."""
    rows = measured_rows(scores_of(model))
    learned_phantoms = model.is_shipped or _learned_phantoms(model.meta)
    return Provenance(
        name=model.name,
        title="the segmenter that comes with thermo_jax" if model.is_shipped else model.name,
        task=model.task,
        trained_on=SYNTHETIC if model.is_shipped else _trained_on(model.meta),
        trained=model.meta.get("date") or NOT_RECORDED,
        version=model.meta.get("version") or NOT_RECORDED,
        score=SHIPPED_SCORE if model.is_shipped else _score(rows, model, learned_phantoms),
        threshold=_threshold(rows) if model.task == "classify" else None,
        learned_phantoms=learned_phantoms,
    )


def scores_of(model: Model) -> Mapping[str, Any]:
    """The measures in the results of the model's run, {} if there are none."""
    scores = model.meta.get("scores")
    if scores is None and not is_weights_file(model.source):
        with contextlib.suppress(OSError, ValueError):
            file = folder_path(model.source) / "results.json"
            scores = json.loads(file.read_text(encoding="utf-8"))
    return scores if isinstance(scores, Mapping) else {}


def measured_rows(scores: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The rows of results, by table ("image", "patient", or "segmentation") and name.

    What is damaged is left out, because a file may contain anything.
    """
    tables = {}
    by_unit = scores.get("classification")
    if isinstance(by_unit, Mapping):
        tables |= by_unit
    tables["segmentation"] = scores.get("segmentation")
    return {
        str(table): {str(k): row for k, row in rows.items() if isinstance(row, Mapping)}
        for table, rows in tables.items()
        if isinstance(rows, Mapping)
    }


def note_on(models: Sequence[Provenance], *, task: str) -> str:
    """A sentence about the models of a task that learned from synthetic bodies; "" if none did."""
    of_phantoms, others = (
        [model for model in models if model.task == task and model.learned_phantoms is wanted]
        for wanted in (True, False)
    )
    if not of_phantoms:
        return ""
    if task == "classify":
        return " ".join(f"{model.title} {ABOUT_PHANTOMS}." for model in of_phantoms)
    names = [f"{model.title}, trained on {model.trained_on}" for model in of_phantoms]
    names += [model.title for model in others]
    if len(names) == 1:
        return f"Regions were drawn by {names[0]}."
    return f"Regions are the mean of several models: {'; '.join(names)}."


def _learned_phantoms(meta: Mapping[str, Any]) -> bool:
    return all(one is not None and one["synthetic"] for one in meta.get("trained_on") or [None])


def _trained_on(meta: Mapping[str, Any]) -> str:
    """Whose labels the model has seen, and whose images its encoder has."""
    seen = meta.get("trained_on")
    if not seen:
        return "data of the published weights" if "imported" in meta else NOT_RECORDED
    if _learned_phantoms(meta):
        encoder = meta.get("encoder", {})
        has_seen_bodies = encoder.get("kind") not in ("random", "none")
        if not has_seen_bodies or encoder.get("synthetic"):
            return SYNTHETIC
        whose = NOT_RECORDED if encoder.get("synthetic") is None else "other images"
        return f"labels of {SYNTHETIC}; images of its encoder: {whose}"
    first, *before = map(_patients, seen)
    text = f"{first}; before that, on {' and '.join(before)}" if before else first
    return f"{text}; {PERMUTED}" if _configured(meta, "data", "shuffle_labels") else text


def _patients(seen: Mapping[str, Any] | None) -> str:
    if seen is None:
        return "patients who are not recorded"
    if seen["synthetic"]:
        return "synthetic bodies"
    sick = seen.get("sick")
    count = f"{len(seen['patients'])} patients"
    return count if sick is None else f"{count}, {sick} sick"


def _configured(meta: Mapping[str, Any], section: str, field: str) -> Any:
    fields = meta.get("config", {}).get(section)
    return fields.get(field) if isinstance(fields, Mapping) else None


def _score(rows: Mapping[str, Mapping], model: Model, learned_phantoms: bool) -> str:
    """The AUROC per patient or the mean IoU, with its interval."""
    title, key, table, position = (
        ("AUROC", "auroc", "patient", 0)
        if model.task == "classify"
        else ("mIoU", "miou", "segmentation", -1)
    )
    try:
        name, measures = list(rows[table].items())[position]
        value, (low, high) = measures[key], measures["interval"][key]
        size = f"at {name}" if key == "miou" else f"{int(measures['patients'])} patients"
        numbers = [_short(number) for number in (value, low, high)]
    except (KeyError, TypeError, ValueError, IndexError):  # absent, undefined or damaged
        return NOT_RECORDED
    facts = [f"95 % interval {numbers[1]} to {numbers[2]}", size]
    facts += ["synthetic bodies"] * learned_phantoms
    facts += [OPTIMISTIC] * (_configured(model.meta, "split", "protocol") == PAPER)
    return f"{title} {numbers[0]} ({'; '.join(facts)})"


def _short(value: float) -> str:
    """A number from 0 to 1 with three digits, such as .645. Raises ValueError for any other."""
    if not 0 <= value <= 1:
        raise ValueError(f"{value} is no score")
    return f"{value:.3f}".removeprefix("0")


def _threshold(rows: Mapping[str, Mapping]) -> float:
    """The threshold per patient that validation patients chose; 0.5 if none did."""
    for name, measures in rows.get("patient", {}).items():
        threshold = measures.get("threshold")
        if name.endswith(f" at {TUNED}") and isinstance(threshold, float):
            return threshold
    return 0.5
