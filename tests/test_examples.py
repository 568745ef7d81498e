"""Which thermograms a run uses, and the table it makes of them."""

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from thermo_jax.data import annotations, examples
from thermo_jax.data.thermogram import BACKGROUND, HEALTHY, SICK, UNLABELLED, Annotation, Thermogram

SQUARE = ((100.0, 100.0), (203.0, 100.0), (203.0, 203.0), (100.0, 203.0))
ANNOTATION = (Annotation(class_index=0, rings=(SQUARE,)),)


def record(name: str, **fields) -> Thermogram:
    defaults = {
        "patient": "0001",
        "patient_known": True,
        "visit": 1,
        "view": 1,
        "protocol": "D",
        "date": "2012-10-08",
        "frame": 0,
        "label": HEALTHY,
        "gray_path": pathlib.Path("gray.jpg"),
    }
    return Thermogram(name=name, **{**defaults, **fields})


def names(records, task="classify", data_type=None, **selection) -> str:
    chosen = examples.Selection(**selection)
    kept = examples.select(records, chosen, task=task, data_type=data_type)
    return " ".join(kept_record.name for kept_record in kept)


def test_the_default_is_the_first_frame_of_each_frontal_visit_and_protocol():
    records = [
        record("second", frame=1),
        record("first", frame=0),
        record("static", protocol="S"),
        record("next_visit", visit=2, frame=3),
        record("lateral", view=2),
        record("other_patient", patient="0002", frame=5),
    ]
    assert names(records) == "first static next_visit other_patient"


def test_all_frames_keeps_the_order_given():
    records = [record("b", frame=1), record("a", frame=0)]
    assert names(records, frames="all") == "b a"


def test_the_first_frame_is_the_first_that_can_be_used():
    records = [record("a", frame=0), record("b", frame=1, heat_path=pathlib.Path("heat.jpg"))]
    assert names(records, data_type="heat") == "b"
    annotated = [record("a", frame=0), record("b", frame=1, regions=ANNOTATION)]
    assert names(annotated, task="segment") == "b"


def test_dates_distinguish_visits_of_old_names_and_images_of_unknown_frame_are_kept():
    records = [
        record("a", visit=0, date="2013-01-01"),
        record("b", visit=0, date="2014-01-01"),
        record("c", frame=-1),
        record("d", frame=-1),
        record("e", frame=0),
    ]
    assert names(records) == "a b c d e"


def test_mirrored_copies_are_left_out_by_default():
    records = [record("a"), record("b", mirrored=True)]
    assert names(records) == "a"
    assert names(records, mirrored=True) == "a b"


def test_only_pretraining_uses_unknown_patients_and_views():
    records = [
        record("known"),
        record("stranger", patient="folder:x", patient_known=False),
        record("unknown_view", view=0, visit=2),
        record("lateral", view=3),
    ]
    assert names(records, task="classify") == "known"
    assert names(records, task="pretrain") == "known stranger unknown_view"


def test_classification_needs_a_diagnosis_and_segmentation_an_annotation():
    records = [record("a", label=UNLABELLED, regions=ANNOTATION), record("b", visit=2, label=SICK)]
    assert names(records, task="classify") == "b"
    assert names(records, task="segment") == "a"
    assert names(records, task="pretrain") == "a b"


def test_if_there_are_only_gray_images_the_remedy_names_the_gray_presets():
    records = [record("a", heat_path=None, gray_path=pathlib.Path("a.jpg"))]
    for task in ("pretrain", "classify"):
        with pytest.raises(ValueError, match="1 without heat pixels.*or choose gray presets"):
            names(records, task=task, data_type="heat")


def test_an_unknown_protocol_is_left_out_only_if_protocols_are_chosen():
    records = [record("a", protocol=""), record("b", protocol="S")]
    assert names(records) == "a b"
    assert names(records, protocols=("S",)) == "b"


def test_the_error_of_an_empty_selection_counts_what_each_filter_removed():
    records = [record("a", view=2), record("b", view=3), record("c", label=UNLABELLED)]
    message = r"none of the 3 thermograms: removed 1 without a diagnosis, 2 of a view not in \(1,\)"
    with pytest.raises(ValueError, match=message):
        examples.select(records, examples.Selection(), task="classify")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": "last"}, "frames='last': choose one of 'first', 'all'"),
        ({"views": (7,)}, r"views=\(7,\): choose one or more of \[0, 1, 2, 3, 4, 5\]"),
        ({"protocols": ()}, r"protocols=\(\)"),
    ],
)
def test_a_selection_of_unknown_things_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        examples.Selection(**fields)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory) -> list[Thermogram]:
    """Three thermograms with both kinds of JPEG; the first and the last are annotated."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    records = []
    for number in range(3):
        levels = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
        gray, heat = folder / f"{number}.jpg", folder / f"{number}_snap.jpg"
        Image.fromarray(levels).save(heat)
        Image.fromarray(levels[..., 0]).resize((640, 480)).save(gray)
        records.append(
            record(
                f"image{number}",
                patient=f"{number:04d}",
                label=number % 2,
                date=f"{2012 + number}-01-02" if number else "",
                gray_path=gray,
                heat_path=heat,
                regions=() if number == 1 else ANNOTATION,
            )
        )
    return records


@pytest.mark.parametrize(("data_type", "shape"), [("gray", (480, 640, 1)), ("heat", (120, 160, 3))])
def test_a_table_contains_one_data_type_and_the_facts_for_reports(on_disk, data_type, shape):
    table = examples.load_examples(on_disk, data_type=data_type, task="classify")
    assert len(table) == 3
    assert table.columns["images"].shape == (3, *shape)
    assert table.columns["images"].dtype == np.uint8
    path = on_disk[1].gray_path if data_type == "gray" else on_disk[1].heat_path
    pixels = np.asarray(Image.open(path)).reshape(shape)
    np.testing.assert_array_equal(table.columns["images"][1], pixels)
    assert table.columns["labels"].tolist() == [0, 1, 0]
    assert table.columns["labels"].dtype == np.int32
    assert sorted(table.columns) == ["images", "labels"]
    assert table.names.tolist() == ["image0", "image1", "image2"]
    assert table.patients.tolist() == ["0000", "0001", "0002"]
    assert [date[:4] for date in table.dates] == ["", "2013", "2014"]


@pytest.mark.parametrize(("downscale", "factor"), [(1, 4), (5, 20)])
def test_label_maps_come_at_full_size_and_at_the_images_size(on_disk, downscale, factor):
    annotated = [on_disk[0], on_disk[2]]
    table = examples.load_examples(annotated, data_type="heat", task="segment", downscale=downscale)
    full, scored = table.columns["label_maps"], table.columns["scored_label_maps"]
    assert full.shape == (2, 480, 640)
    assert scored.shape == table.columns["images"].shape[:3]
    expected = annotations.scored_label_map(full[1], ANNOTATION, factor=factor)
    np.testing.assert_array_equal(scored[1], expected)
    assert set(np.unique(scored)) == {0, BACKGROUND}


def test_segmentation_of_an_image_without_annotation_is_refused_by_name(on_disk):
    with pytest.raises(ValueError, match="image1 is not annotated"):
        examples.load_examples(on_disk, data_type="heat", task="segment")


def test_downscaling_averages_blocks_and_rounds():
    image = np.array([[0, 1, 10, 20], [1, 1, 30, 41]], np.uint8)[..., np.newaxis]
    np.testing.assert_array_equal(examples.block_mean(image, factor=2)[..., 0], [[1, 25]])


def test_a_downscale_that_does_not_divide_the_image_is_refused_with_those_that_do(on_disk):
    message = "downscale=7 does not divide an image of 120x160 pixels: .* 1, 2, 4, 5, 8, 10, 20, 40"
    with pytest.raises(ValueError, match=message):
        examples.load_examples(on_disk, data_type="heat", task="classify", downscale=7)


def test_thermograms_without_the_data_type_are_left_out(on_disk):
    no_heat = dataclasses.replace(on_disk[0], name="no_heat", heat_path=None)
    assert names([no_heat, on_disk[1]], task="pretrain", data_type="heat") == "image1"


def test_rows_are_selected_by_index(on_disk):
    table = examples.load_examples(on_disk, data_type="heat", task="classify")
    taken = table.take([2, 0])
    assert taken.names.tolist() == ["image2", "image0"]
    assert taken.dates.tolist() == ["2014-01-02", ""]
    images = table.columns["images"]
    np.testing.assert_array_equal(taken.columns["images"], images[[2, 0]])


def test_an_error_while_reading_names_the_file(on_disk, tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(on_disk[0].heat_path.read_bytes()[:200])
    broken = dataclasses.replace(on_disk[1], heat_path=path)
    with pytest.raises(ValueError, match="cut.jpg"):
        examples.load_examples([on_disk[0], broken], data_type="heat", task="pretrain")
