"""What is said about a model: whom it was trained on, when, how good it was, its threshold."""

import json
from types import SimpleNamespace

import pytest

from thermo_jax.inference import provenance
from thermo_jax.inference.provenance import ABOUT_PHANTOMS, NOT_RECORDED, describe, note_on

REAL = {"data": "d", "synthetic": False, "patients": ["a", "b", "c"], "sick": 1}
PHANTOM = {"data": "p", "synthetic": True, "patients": ["x"]}
PATIENTS = {
    "H/H": {
        "auroc": 0.883,
        "interval": {"auroc": [0.792, 0.959]},
        "patients": 15,
        "threshold": 0.5,
    },
    "H/H at best balanced accuracy": {"threshold": 0.41},
}
CLASSIFIED = {"classification": {"image": {}, "patient": PATIENTS}}
SEGMENTED = {
    "segmentation": {
        "120x160": {"miou": 0.6, "interval": {"miou": [0.5, 0.7]}},
        "480x640": {"miou": 0.645, "interval": {"miou": [0.606, 0.683]}},
    }
}


@pytest.fixture
def run(tmp_path):
    """Return a function that makes a model and its workdir."""

    def make(task="classify", *, results=None, name="classify_HH", version="0.1.0", **meta):
        saved = {"config": {"task": task}, "versions": {"thermo_jax": version}}
        (tmp_path / "config.json").write_text(json.dumps(saved))
        if results is not None:
            (tmp_path / "results.json").write_text(json.dumps(results))
        return SimpleNamespace(name=name, task=task, meta=meta, source=tmp_path, is_shipped=False)

    return make


def test_a_classifier_is_described_by_its_checkpoint_and_its_results(run):
    model = describe(run(results=CLASSIFIED, trained_on=[REAL], date="2026-11-28"))
    assert model.row() == {
        "model": "classify_HH",
        "task": "classify",
        "trained_on": "3 patients, 1 sick",
        "trained": "2026-11-28",
        "thermo_jax": "0.1.0",
        "test_score": "AUROC .883 (95 % interval .792 to .959; 15 patients)",
        "threshold": 0.41,
    }
    for text in ("3 patients, 1 sick; 2026-11-28, thermo_jax 0.1.0", "sick above 0.410"):
        assert text in model.sentence
    assert not model.is_synthetic


def test_a_segmenter_is_described_by_its_score_at_full_size(run):
    model = describe(run("segment", results=SEGMENTED, trained_on=[REAL]))
    assert model.score == "mIoU .645 (95 % interval .606 to .683; at 480x640)"
    assert model.threshold is None and "sick above" not in model.sentence


def test_what_is_not_recorded_is_said_to_be_so(run):
    model = describe(run(results={"classification": {"patient": {}}}))
    assert (model.trained_on, model.trained, model.score) == (NOT_RECORDED,) * 3
    assert model.threshold == 0.5 and f"date {NOT_RECORDED}" in model.sentence
    undefined = {"classification": {"patient": {"H/H": {**PATIENTS["H/H"], "auroc": None}}}}
    assert describe(run(results=undefined)).score == NOT_RECORDED


@pytest.mark.parametrize(
    ("trained_on", "text", "synthetic"),
    [
        ([PHANTOM], provenance.SYNTHETIC, True),
        ([REAL, PHANTOM], "3 patients, 1 sick; before that, on synthetic bodies", False),
        (
            [{**REAL, "sick": None}, None],
            "3 patients; before that, on patients who are not recorded",
            False,
        ),
        ([PHANTOM, REAL], "synthetic bodies; before that, on 3 patients, 1 sick", False),
    ],
)
def test_all_data_that_a_model_saw_are_named(run, trained_on, text, synthetic):
    model = describe(run(trained_on=trained_on))
    assert (model.trained_on, model.is_synthetic) == (text, synthetic)


def test_notes_name_the_models_that_saw_only_synthetic_bodies(run):
    phantoms = describe(run(trained_on=[PHANTOM], name="A"))
    patients = describe(run(trained_on=[REAL], name="B"))
    assert note_on([phantoms, patients], task="classify") == f"A {ABOUT_PHANTOMS}."
    assert note_on([patients], task="classify") == note_on([phantoms], task="segment") == ""
    shipped = describe(run("segment", trained_on=[PHANTOM], name="shipped"))
    own = describe(run("segment", trained_on=[REAL], name="own"))
    assert note_on([shipped, own], task="segment") == (
        "Regions were drawn by the segmenter that comes with thermo_jax, trained on synthetic "
        "bodies only, with own."
    )


def test_scores_of_phantoms_are_said_to_be_of_phantoms(run):
    assert describe(run(results=CLASSIFIED, trained_on=[PHANTOM])).score.endswith(
        "15 synthetic patients)"
    )
    segmenter = describe(run("segment", results=SEGMENTED, trained_on=[PHANTOM]))
    assert segmenter.score.endswith("synthetic, at 480x640)")
