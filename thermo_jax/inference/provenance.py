"""What a reader of predictions must know about each model: where it comes from, how good it was.

    checkpoint or file of weights -> Provenance -> models.csv, every row of predictions.csv, pages

A number without its model is worth little: a table that is shared must still say what made it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from thermo_jax.evaluation.assessment import TUNED
from thermo_jax.files import CONFIG, folder_path
from thermo_jax.inference.trained_models import SHIPPED, Model
from thermo_jax.training.weights_file import is_weights_file

SYNTHETIC = "synthetic bodies only"
NOT_RECORDED = "not recorded"
# Of real patients, from the model card (a test compares them). The file's own scores are of
# synthetic ones.
SHIPPED_SCORE = "mIoU .645 (95 % interval .606 to .683; 11 real patients)"
ABOUT_PHANTOMS = (
    "was trained on synthetic bodies, whose sickness is no disease: its probability says how a "
    "picture resembles the sick synthetic bodies, and nothing about a patient"
)


class Provenance(NamedTuple):
    """Facts about one model, as text; "not recorded" if its file does not contain them.

    Attributes:
      task: "classify" or "segment".
      trained_on: such as "54 patients, 27 sick".
      trained: the date, ISO.
      version: of thermo_jax that trained it, such as "0.1.0".
      score: on test patients, with its 95 % interval.
      threshold: of a classifier, above which its run called a patient sick; None for a segmenter.
      is_synthetic: whether no image of a person was used in training.
    """

    name: str
    task: str
    trained_on: str
    trained: str
    version: str
    score: str
    threshold: float | None
    is_synthetic: bool

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
    scores = scores_of(model)
    is_synthetic = model.is_shipped or _is_synthetic(model.meta)
    return Provenance(
        name=model.name,
        task=model.task,
        trained_on=SYNTHETIC if is_synthetic else _trained_on(model.meta),
        trained=model.meta.get("date") or NOT_RECORDED,
        version=_version(model),
        score=SHIPPED_SCORE if model.is_shipped else _score(scores, is_synthetic=is_synthetic),
        threshold=_threshold(scores) if model.task == "classify" else None,
        is_synthetic=is_synthetic,
    )


def scores_of(model: Model) -> Mapping[str, Any]:
    """The measures in the results of the model's run, {} if there are none."""
    if "scores" in model.meta or is_weights_file(model.source):
        return model.meta.get("scores", {})
    try:
        file = folder_path(model.source) / "results.json"
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def note_on(models: Sequence[Provenance], *, task: str) -> str:
    """A sentence about the models of a task that saw synthetic bodies only; "" if none did."""
    synthetic, others = (
        [_title(model) for model in models if model.task == task and model.is_synthetic is wanted]
        for wanted in (True, False)
    )
    if not synthetic:
        return ""
    if task == "classify":
        return " ".join(f"{name} {ABOUT_PHANTOMS}." for name in synthetic)
    with_others = f", with {' and '.join(others)}" if others else ""
    return f"Regions were drawn by {' and '.join(synthetic)}, trained on {SYNTHETIC}{with_others}."


def _title(model: Provenance) -> str:
    return "the segmenter that comes with thermo_jax" if model.name == SHIPPED else model.name


def _is_synthetic(meta: Mapping[str, Any]) -> bool:
    seen = meta.get("trained_on") or [None]
    return all(one is not None and one["synthetic"] for one in seen)


def _trained_on(meta: Mapping[str, Any]) -> str:
    """Whose labels the model has seen."""
    seen = meta.get("trained_on")
    if not seen:
        return "published weights" if "imported" in meta else NOT_RECORDED
    parts = []
    for one in seen:
        if one is None:
            parts.append("patients who are not recorded")
        elif one["synthetic"]:
            parts.append("synthetic bodies")
        else:
            sick = one.get("sick")
            count = f"{len(one['patients'])} patients"
            parts.append(count if sick is None else f"{count}, {sick} sick")
    first, *before = parts
    return f"{first}; before that, on {' and '.join(before)}" if before else first


def _version(model: Model) -> str:
    if "thermo_jax" in model.meta:  # of a file of weights
        return model.meta["thermo_jax"]
    try:
        saved = json.loads((folder_path(model.source) / CONFIG).read_text(encoding="utf-8"))
        return str(saved["versions"]["thermo_jax"])
    except (OSError, ValueError, KeyError, TypeError):
        return NOT_RECORDED


def _score(scores: Mapping[str, Any], *, is_synthetic: bool) -> str:
    """The AUROC per patient or the mean IoU, with its interval."""
    try:
        if "classification" in scores:
            measures = next(iter(scores["classification"]["patient"].values()))
            title, key = "AUROC", "auroc"
            tested = f"{measures['patients']}{' synthetic' * is_synthetic} patients"
        else:
            size, measures = list(scores["segmentation"].items())[-1]
            title, key, tested = "mIoU", "miou", f"{'synthetic, ' * is_synthetic}at {size}"
        value, (low, high) = measures[key], measures["interval"][key]
    except (KeyError, TypeError, ValueError, IndexError, StopIteration):
        return NOT_RECORDED
    if value is None or not math.isfinite(value):
        return NOT_RECORDED
    interval = "" if low is None else f"95 % interval {_short(low)} to {_short(high)}; "
    return f"{title} {_short(value)} ({interval}{tested})"


def _short(value: float) -> str:
    """A number from 0 to 1 with three digits, such as .645."""
    return f"{value:.3f}".removeprefix("0")


def _threshold(scores: Mapping[str, Any]) -> float:
    """The threshold per patient that validation patients chose; 0.5 if none did."""
    rows = scores.get("classification", {}).get("patient", {})
    for name, measures in rows.items():
        if name.endswith(TUNED) and measures.get("threshold") is not None:
            return float(measures["threshold"])
    return 0.5
