"""The phantom data set: readable, reproducible, plausible, and it overwrites nothing."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from thermo_jax.data import annotations, layouts, phantom, radiometry
from thermo_jax.data.picture import read_one
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, HEALTHY, SICK, split_name


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four patients (two sick, three annotated) with two dynamic frames and a static image each."""
    return phantom.write_phantom(
        tmp_path_factory.mktemp("data") / "phantom",
        patients=4,
        annotated_fraction=0.75,
        frames=2,
        static=True,
        temperatures=True,
    )


@pytest.fixture(scope="module")
def scanned(root):
    return layouts.scan(root)


@pytest.fixture(scope="module")
def records(scanned):
    return scanned[0]


def small(root, **changes):
    return phantom.write_phantom(root, **({"patients": 2} | changes))


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_scan_reads_every_image_and_finds_nothing_odd(scanned):
    records, report = scanned
    assert report.oddities == []
    assert len(records) == 4 * 3
    assert {r.patient for r in records} == {f"{n:04d}" for n in range(1, 5)}
    assert {(r.protocol, r.frame) for r in records} == {("D", 0), ("D", 1), ("S", 0)}
    assert all(r.patient_known and r.view == 1 and r.visit == 1 and r.date for r in records)
    assert {r.patient for r in records if r.label == SICK} | {
        r.patient for r in records if r.label == HEALTHY
    } == {r.patient for r in records}
    assert sum(r.label == SICK for r in records) == 2 * 3


def test_first_dynamic_frames_are_annotated_with_all_regions(records):
    annotated = [r for r in records if r.regions]
    assert len(annotated) == 3
    assert all((r.protocol, r.frame) == ("D", 0) for r in annotated)
    for record in annotated:
        labels = annotations.label_map(record.regions)
        assert set(np.unique(labels)) == set(range(len(CLASS_NAMES)))
        share = np.bincount(labels.ravel()) / labels.size
        # DMR-IR: breasts .09-.21, nipples .004-.011, armpits .036-.092, neck .028-.058.
        assert all(0.08 < s < 0.23 for s in share[:2]) and all(
            0.003 < s < 0.013 for s in share[2:4]
        )
        assert all(0.03 < s < 0.1 for s in share[4:6]) and 0.025 < share[7] < 0.07
        assert share[BACKGROUND] > 0.35


def test_left_is_image_left(records):
    for record in records:
        if record.regions:
            labels = annotations.label_map(record.regions)
            middle = [np.nonzero(labels == i)[1].mean() for i in range(6)]
            assert max(middle[0::2]) < 320 < min(middle[1::2])


def test_annotation_file_lists_roi_but_never_draws_it(root):
    coco = json.loads((root / phantom.COCO_NAME).read_text())
    assert [c["id"] for c in coco["categories"]] == list(range(1, 9))
    assert coco["categories"][BACKGROUND]["name"] == "ROI"
    drawn = [a["category_id"] - 1 for a in coco["annotations"]]
    assert sorted(set(drawn)) == sorted(set(range(8)) - {BACKGROUND}) and len(drawn) == 3 * 7


def test_images_have_the_sizes_and_modes_of_the_database(root):
    for path in sorted((root / "0001").glob("*.jpg")):
        with Image.open(path) as image:
            _, snap = split_name(path.name)
            assert image.mode == "RGB" and image.size == ((160, 120) if snap else (640, 480))


def test_temperatures_are_those_of_a_body_in_a_cool_room(records):
    for record in records[::3]:
        temperatures = read_one(record.temperature_path).temperatures
        cool, warm = np.percentile(temperatures, (2, 98))
        assert 18 < cool < 26 and 32 < warm < 37


def test_jpegs_show_the_temperatures(records):
    record = records[0]
    shown = read_one(record.gray_path).model_image("gray").astype(int)
    rendered = radiometry.render_gray(read_one(record.temperature_path).temperatures)
    assert np.abs(shown - rendered).mean() < 2


def test_frames_are_near_copies_that_rewarm(records):
    mean = {}
    for record in records:
        if record.patient == "0001":
            temperatures = read_one(record.temperature_path).temperatures
            mean[record.protocol, record.frame] = temperatures.mean()
    assert mean["D", 0] < mean["D", 1] < mean["S", 0] < mean["D", 0] + 1


def test_sick_patients_have_a_hot_spot_in_one_breast(tmp_path):
    def read(sick):
        root = small(tmp_path / str(sick), sick_fraction=sick, temperatures=True)
        return layouts.scan(root)[0]

    for healthy, sick in zip(read(0), read(1), strict=True):  # the same bodies
        assert (healthy.label, sick.label) == (HEALTHY, SICK)
        warm = [read_one(r.temperature_path).temperatures for r in (sick, healthy)]
        labels = annotations.label_map(sick.regions)
        warmer = (warm[0] - warm[1]).reshape(24, 20, 32, 20).mean((1, 3))
        sides = [(labels == c).reshape(24, 20, 32, 20).all((1, 3)) for c in (0, 1)]
        well, ill = sorted((warmer[side] for side in sides), key=np.max)
        assert np.abs(well).max() < 0.1
        assert ill.max() > 2 and ill.min() > 0.3


def test_same_arguments_give_the_same_bytes(tmp_path):
    roots = small(tmp_path / "a"), small(tmp_path / "b")
    assert contents(roots[0]) == contents(roots[1])


def test_another_seed_gives_other_images(tmp_path):
    first, second = small(tmp_path / "a", patients=1), small(tmp_path / "b", patients=1, seed=1)
    assert not set(contents(first).values()) & {
        data for path, data in contents(second).items() if path.suffix == ".jpg"
    }


def test_a_patient_does_not_depend_on_the_number_of_patients(tmp_path):
    few = contents(small(tmp_path / "a", sick_fraction=0))
    many = contents(small(tmp_path / "b", sick_fraction=0, patients=3))
    images = [path for path in few if path.parent.name]
    assert images and all(few[path] == many[path] for path in images)


def test_labels_are_shuffled_over_patient_numbers():
    order = [phantom.choose_patients(40, fraction=0.5, seed=seed, stream=0) for seed in range(50)]
    assert all(len(chosen) == 20 for chosen in order)
    share = np.mean([[n in chosen for n in range(1, 41)] for chosen in order], 0)
    assert share.min() > 0.2 and share.max() < 0.8


def test_writing_again_leaves_the_folder_alone(tmp_path):
    root = small(tmp_path / "phantom")
    stamps = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert small(root) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == stamps


def test_a_folder_written_with_other_arguments_is_refused(tmp_path):
    root = small(tmp_path / "phantom", patients=1)
    with pytest.raises(ValueError, match="patients=1 there, 2 wanted.*choose another folder"):
        small(root)


def test_a_folder_with_other_files_is_refused_and_left_unchanged(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty and contains no complete phantom"):
        small(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="is a file"):
        small(tmp_path / "file")


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "empty").mkdir()
    assert (small(tmp_path / "empty", patients=1) / phantom.MARKER).is_file()


def test_interrupted_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(phantom.radiometry, "render_heat", interrupt)
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path / "phantom")
    assert list(tmp_path.iterdir()) == []
    assert (small(tmp_path / "phantom") / phantom.MARKER).is_file()


def test_a_folder_without_its_marker_is_refused(tmp_path):
    root = small(tmp_path / "phantom", patients=1)
    (root / phantom.MARKER).unlink()
    with pytest.raises(ValueError, match="contains no complete phantom"):
        small(root, patients=1)
    shutil.rmtree(root)
    assert small(root, patients=1) == root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients": 0}, "patients=0 must be between 1 and 9999"),
        ({"frames": 21}, "frames=21 must be between 1 and 20"),
        ({"seed": -1}, "seed=-1"),
        ({"sick_fraction": 1.5}, "sick_fraction=1.5 must be between 0 and 1"),
        ({"annotated_fraction": float("nan")}, "annotated_fraction=nan"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        small(tmp_path / "phantom", **change)
    assert list(tmp_path.iterdir()) == []
