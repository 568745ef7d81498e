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

    def make(task="classify", *, results=None, name="classify_HH", is_shipped=False, **meta):
        if results is not None:
            (tmp_path / "results.json").write_text(json.dumps(results))
        meta = {"encoder": {"kind": "none"}} | meta
        return SimpleNamespace(
            name=name, task=task, meta=meta, source=tmp_path, is_shipped=is_shipped
        )

    return make


def test_a_classifier_is_described_by_its_checkpoint_and_its_results(run):
    model = describe(run(results=CLASSIFIED, trained_on=[REAL], date="2026-11-28", version="0.1.0"))
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
    assert not model.learned_phantoms


def test_a_segmenter_is_described_by_its_score_at_full_size(run):
    model = describe(run("segment", results=SEGMENTED, trained_on=[REAL]))
    assert model.score == "mIoU .645 (95 % interval .606 to .683; at 480x640)"
    assert model.threshold is None and "sick above" not in model.sentence


def test_what_is_not_recorded_is_said_to_be_so(run):
    model = describe(run(results={"classification": {"patient": {}}}))
    assert (model.trained_on, model.trained, model.version, model.score) == (NOT_RECORDED,) * 4
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
    assert (model.trained_on, model.learned_phantoms) == (text, synthetic)


@pytest.mark.parametrize(
    ("encoder", "text"),
    [
        ({"kind": "random"}, provenance.SYNTHETIC),
        ({"synthetic": True}, provenance.SYNTHETIC),
        (
            {"synthetic": False},
            "labels of synthetic bodies only; images of its encoder: other images",
        ),
        ({}, "labels of synthetic bodies only; images of its encoder: not recorded"),
    ],
)
def test_an_encoder_that_saw_people_is_no_model_of_synthetic_bodies_only(run, encoder, text):
    model = describe(run(trained_on=[PHANTOM], encoder=encoder))
    assert model.trained_on == text and model.learned_phantoms


def test_a_score_that_chose_its_model_and_permuted_diagnoses_are_marked(run):
    paper = {"split": {"protocol": "paper"}, "data": {"shuffle_labels": True}}
    model = describe(run(results=CLASSIFIED, trained_on=[REAL], config=paper))
    assert model.score.endswith("; 15 patients; optimistic: selected on test)")
    assert model.trained_on == "3 patients, 1 sick; diagnoses permuted at random: a control"


@pytest.mark.parametrize(
    "scores",
    [
        [],
        "abc",
        {"classification": []},
        {"classification": {"patient": [1]}},
        {"classification": {"patient": {"H/H": "abc"}}},
        {"classification": {"patient": {"H/H": {**PATIENTS["H/H"], "auroc": "high"}}}},
        {"classification": {"patient": {"H/H": {**PATIENTS["H/H"], "interval": {"auroc": 3}}}}},
        {"classification": {"patient": {"H/H": {**PATIENTS["H/H"], "auroc": 7.0}}}},
        {"classification": {"patient": {"a at best balanced accuracy": {"threshold": "high"}}}},
    ],
)
def test_damaged_scores_are_not_recorded(run, scores):
    for model in (describe(run(scores=scores)), describe(run(results=scores))):
        assert model.score == NOT_RECORDED and model.threshold == 0.5


def test_notes_name_the_models_that_saw_only_synthetic_bodies(run):
    phantoms = describe(run(trained_on=[PHANTOM], name="A"))
    patients = describe(run(trained_on=[REAL], name="B"))
    assert note_on([phantoms, patients], task="classify") == f"A {ABOUT_PHANTOMS}."
    assert note_on([patients], task="classify") == note_on([phantoms], task="segment") == ""
    shipped = describe(run("segment", trained_on=[PHANTOM], name="shipped", is_shipped=True))
    own = describe(run("segment", trained_on=[REAL], name="own"))
    note = "the segmenter that comes with thermo_jax, trained on synthetic bodies only"
    assert note_on([shipped], task="segment") == f"Regions were drawn by {note}."
    both = note_on([shipped, own], task="segment")
    assert both == f"Regions are the mean of several models: {note}; own."
    namesake = describe(run("segment", trained_on=[PHANTOM], name="shipped"))
    assert "comes with" not in note_on([namesake], task="segment")


def test_scores_of_phantoms_are_said_to_be_of_phantoms(run):
    classifier = describe(run(results=CLASSIFIED, trained_on=[PHANTOM]))
    assert classifier.score.endswith("; 15 patients; synthetic bodies)")
    segmenter = describe(run("segment", results=SEGMENTED, trained_on=[PHANTOM]))
    assert segmenter.score.endswith("; at 480x640; synthetic bodies)")
