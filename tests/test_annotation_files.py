"""Annotation files of every form, matched with thermograms by the names of their images."""

import base64
import io

import numpy as np
import pytest
from annotated_folders import (
    CLASSES,
    LEFT_BREAST,
    LEFT_NIPPLE,
    NECK,
    SHAPE,
    annotated,
    drawn,
    instances,
    kinds,
    labelme,
    only,
    square,
    write_json,
    write_mask,
)
from PIL import Image

from thermo_jax.data import annotation_files, annotations, file_listing
from thermo_jax.data.data_report import DataReport
from thermo_jax.data.thermogram import BACKGROUND, Thermogram

# --------------------------------------------------------------------------------------------------
# The files of the foreign sample
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["labelme", "cvat_folder", "masks"])
def test_the_forms_of_the_foreign_sample_give_the_label_maps_of_dmr_ir(
    foreign_dir, sample_dir, form
):
    root = foreign_dir / "annotations" / form
    files = file_listing.list_files(root)
    records = [
        Thermogram(name=files.relative(path)[:-4], patient="0001", patient_known=True)
        for path in files.pixels
    ]
    report = DataReport(root)
    records = report.collect(annotation_files.annotate(records, files))
    assert len(records) == 6 and not report.oddities
    for record in records:
        stem = record.name.rpartition("/")[2][:5]
        expected = np.asarray(Image.open(sample_dir / "label_maps" / f"{stem}.png"))
        np.testing.assert_array_equal(annotations.label_map_480x640(record), expected, stem)


# --------------------------------------------------------------------------------------------------
# COCO
# --------------------------------------------------------------------------------------------------


def test_coco_files_of_any_name_and_folder_are_read(tmp_path):
    write_json(tmp_path / "export" / "labels.json", instances("a.jpg"))
    record, report = only(tmp_path, "pictures/a.png")
    np.testing.assert_array_equal(drawn(record), square())
    assert not report.oddities


def test_a_file_of_a_subset_annotates_the_images_in_its_folder(tmp_path):
    write_json(tmp_path / "annotations" / "instances_Train.json", instances("a.jpg"))
    names = {"images/Train/a.jpg": SHAPE, "images/Test/a.jpg": SHAPE}
    records, report = annotated(tmp_path, names)
    assert records["images/Train/a"].regions and not records["images/Test/a"].regions
    assert not report.oddities


def test_an_image_may_be_annotated_at_another_size_of_the_same_aspect(tmp_path):
    write_json(tmp_path / "c.json", instances("a.jpg", size=(64, 48)))
    record, _ = only(tmp_path)
    assert record.regions_shape == (48, 64)
    expected = np.repeat(np.repeat(square(shape=(48, 64)), 10, 0), 10, 1)
    np.testing.assert_array_equal(annotations.label_map_480x640(record), expected)


def test_another_aspect_than_the_thermograms_is_refused(tmp_path):
    write_json(tmp_path / "c.json", instances("a.jpg", size=(32, 32)))
    record, report = only(tmp_path)
    assert not record.regions and kinds(report) == ["annotation-size"]


def test_without_a_size_the_annotated_image_has_that_of_the_thermogram(tmp_path):
    document = instances("a.jpg")
    del document["images"][0]["width"]
    write_json(tmp_path / "c.json", document)
    assert only(tmp_path)[0].regions_shape == SHAPE


@pytest.mark.parametrize("form", ["list", "string"])
def test_run_length_masks_are_read(tmp_path, form):
    inside = np.random.default_rng(0).random(SHAPE) < 0.5
    pixels = inside.ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff([0, *([0] if pixels[0] else []), *edges, pixels.size]).tolist()
    if form == "string":
        coder = pytest.importorskip("pycocotools.mask")
        counts = coder.encode(np.asfortranarray(inside.astype(np.uint8)))["counts"].decode()
    segmentation = {"counts": counts, "size": list(SHAPE)}
    write_json(tmp_path / "c.json", instances("a.jpg", segmentation=segmentation))
    record, report = only(tmp_path)
    assert not report.oddities
    np.testing.assert_array_equal(drawn(record) == NECK, inside)


def test_an_image_with_too_many_masks_counts_as_not_annotated(tmp_path):
    document = instances("a.jpg", segmentation={"counts": [0, 768], "size": list(SHAPE)})
    document["annotations"] *= 101
    write_json(tmp_path / "c.json", document)
    record, report = only(tmp_path)
    assert not record.regions and kinds(report) == ["unusable-polygon"]


# --------------------------------------------------------------------------------------------------
# LabelMe
# --------------------------------------------------------------------------------------------------


def test_a_labelme_file_annotates_the_image_beside_it(tmp_path):
    write_json(tmp_path / "1" / "a.json", labelme())
    records, report = annotated(tmp_path, {"1/a.jpg": SHAPE, "1/x/a.jpg": SHAPE, "2/a.jpg": SHAPE})
    np.testing.assert_array_equal(drawn(records["1/a"]), square())
    assert not (records["1/x/a"].regions or records["2/a"].regions or report.oddities)


@pytest.mark.parametrize(
    "image", ["..\\2\\a.jpg", "C:\\Users\\me\\2\\a.jpg", "/home/me/2/a.jpg", "../../x/2/a.png"]
)
def test_a_path_of_elsewhere_means_the_image_with_the_same_end(tmp_path, image):
    write_json(tmp_path / "labels" / "a.json", labelme(image=image))
    records, _ = annotated(tmp_path, {"1/a.jpg": SHAPE, "2/a.jpg": SHAPE})
    assert records["2/a"].regions and not records["1/a"].regions


def test_a_path_of_another_machine_with_no_known_folder_means_the_name(tmp_path):
    write_json(tmp_path / "labels" / "other.json", labelme(image="/home/me/x/a.jpg"))
    assert only(tmp_path, "1/a.jpg")[0].regions


def test_an_image_that_was_left_out_does_not_give_its_regions_to_another(tmp_path):
    write_json(tmp_path / "labels" / "a.json", labelme(image="/home/me/2/a.jpg"))
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "a.jpg").touch()
    record, report = only(tmp_path, "1/a.jpg")
    assert not record.regions and kinds(report) == ["absent-image"]


@pytest.mark.parametrize("image", ["renamed.jpg", "", None, 3])
def test_the_labelme_files_own_name_is_used_if_its_image_path_is_not(tmp_path, image):
    write_json(tmp_path / "a.json", labelme(image=image))
    assert only(tmp_path)[0].regions


def test_rectangles_circles_and_masks_are_regions(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.ones((6, 6), np.uint8)).save(file, "PNG")
    mask = base64.b64encode(file.getvalue()).decode()
    write_json(
        tmp_path / "a.json",
        labelme(
            {"label": "left_breast", "shape_type": "circle", "points": [[20, 12], [28, 12]]},
            {"label": "Left Nipple", "shape_type": "rectangle", "points": [[22, 12], [18, 11]]},
            {"shape_type": "mask", "points": [[4, 4], [9, 9]], "mask": mask},
        ),
    )
    record, report = only(tmp_path)
    labels = drawn(record)
    assert not report.oddities
    np.testing.assert_array_equal(labels == NECK, square() == NECK)
    assert (labels[11:13, 18:23] == LEFT_NIPPLE).all() and (labels == LEFT_NIPPLE).sum() == 10
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    disc = (rows - 12) ** 2 + (columns - 20) ** 2
    assert (labels[disc <= 6**2] != BACKGROUND).all() and (
        labels[disc > 10**2] != LEFT_BREAST
    ).all()


def test_a_line_is_noted_and_an_unknown_label_too(tmp_path):
    shapes = {"shape_type": "line"}, {"label": "scar"}, {"label": None}, {"label": "scar"}, {}
    write_json(tmp_path / "a.json", labelme(*shapes))
    record, report = only(tmp_path)
    np.testing.assert_array_equal(drawn(record), square())
    assert sorted(kinds(report)) == ["unknown-category", "unknown-category", "unused-shape"]


@pytest.mark.parametrize("points", [[[1, 1], [2, 2]], [[1, 1], [2, 2], [3, "3"]], None, [1, 2, 3]])
def test_a_shape_that_cannot_be_drawn_makes_the_image_not_annotated(tmp_path, points):
    write_json(tmp_path / "a.json", labelme({}, {"points": points}))
    record, report = only(tmp_path)
    assert not record.regions and kinds(report) == ["unusable-polygon"]


# --------------------------------------------------------------------------------------------------
# All forms
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ROI", "background", "None", "0", "_background_"])
@pytest.mark.parametrize("form", ["coco", "labelme", "mask"])
def test_a_region_called_roi_is_never_drawn(tmp_path, form, name):
    write_form(tmp_path, form, name)
    record, report = only(tmp_path)
    np.testing.assert_array_equal(drawn(record), square())
    assert not report.oddities


@pytest.mark.parametrize("form", ["coco", "labelme", "mask"])
def test_a_name_of_no_class_is_noted_and_not_drawn(tmp_path, form):
    write_form(tmp_path, form, "scar")
    record, report = only(tmp_path)
    np.testing.assert_array_equal(drawn(record), square())
    assert set(kinds(report)) == {"unknown-category"}


def write_form(root, form, name):
    """Writes a neck, and then a region of this name that covers the right half of the image."""
    half = [[16, 0], [31, 0], [31, 23], [16, 23]]
    if form == "labelme":
        write_json(root / "a.json", labelme({}, {"label": name, "points": half}))
    elif form == "coco":
        document = instances("a.jpg")
        document["categories"].append({"id": 99, "name": name})
        more = {
            "id": 9,
            "image_id": 1,
            "category_id": 99,
            "segmentation": [np.ravel(half).tolist()],
        }
        document["annotations"].append(more)
        write_json(root / "c.json", document)
    else:
        values = (square() == NECK).astype(np.uint8)
        values[:, 16:] = 2
        write_json(root / "masks" / "classes.json", {"neck": 1, name: 2})
        write_mask(root / "masks" / "a.png", values)


def test_corrections_come_before_what_they_correct(tmp_path):
    write_json(tmp_path / "c.json", instances("a.jpg"))
    write_json(tmp_path / "masks" / "classes.json", CLASSES)
    write_mask(tmp_path / "masks" / "a.png", np.ones(SHAPE, np.uint8))
    record, report = only(tmp_path)
    assert [r.class_index for r in record.regions] == [LEFT_BREAST]
    assert kinds(report) == ["repeated-image"]
    write_json(tmp_path / "fixed" / "a.json", labelme({"label": "left_nipple"}))
    record, report = only(tmp_path)
    assert [r.class_index for r in record.regions] == [LEFT_NIPPLE]
    assert kinds(report) == ["repeated-image"] * 2


def test_a_file_that_the_table_names_comes_first_and_annotates_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", labelme())
    path = write_json(tmp_path / "best.json", instances("a.jpg", "b.jpg", segmentation=[[0] * 6]))
    shapes = {"a.jpg": SHAPE, "b.jpg": SHAPE}
    records, report = annotated(tmp_path, shapes, {"a": path, "absent": path})
    assert drawn(records["a"])[0, 0] == NECK and not records["b"].regions
    assert kinds(report) == ["repeated-image"]


@pytest.mark.parametrize("name", ["m.json", "m.png", "c.json"])
def test_a_file_that_the_table_names_and_that_cannot_be_used_is_reported(tmp_path, name):
    if name == "c.json":
        write_json(tmp_path / name, instances("other.jpg", "another.jpg"))
    records, report = annotated(tmp_path, {"a.jpg": SHAPE}, {"a": tmp_path / name})
    assert not records["a"].regions and len(report.oddities) == 1


def test_an_image_without_regions_does_not_hide_another_file(tmp_path):
    write_json(tmp_path / "a.json", labelme() | {"shapes": []})
    write_json(tmp_path / "c.json", instances("a.jpg"))
    record, report = only(tmp_path)
    assert record.regions and not report.oddities


@pytest.mark.parametrize("name", ["T0001.1.1.S.2012-10-08.00", "a"])
def test_of_several_images_with_the_name_those_near_the_file_are_meant(tmp_path, name):
    write_json(tmp_path / "1" / "annotations" / "instances_default.json", instances(f"{name}.jpg"))
    shapes = {f"{folder}/images/{name}.jpg": SHAPE for folder in "12"}
    records, report = annotated(tmp_path, shapes)
    assert [bool(r.regions) for r in records.values()] == [True, False] and not report.oddities


@pytest.mark.parametrize(
    "content, kind",
    [
        ('{"version": 1}', "ignored-file"),
        ("[3]", "ignored-file"),
        ("{", "unreadable-annotations"),
        ("", "unreadable-annotations"),
        ("[" * 200_000, "unreadable-annotations"),
        ("1" * 5000, "unreadable-annotations"),
        ("[" + "[]," * 4_000_000 + "0]", "unreadable-annotations"),
    ],
)
def test_other_json_is_ignored_and_broken_json_reported(tmp_path, content, kind):
    write_json(tmp_path / "x" / "settings.json", content)
    _, report = only(tmp_path)
    assert [(oddity.kind, oddity.file) for oddity in report.oddities] == [(kind, "x/settings.json")]


def test_json_of_another_encoding_is_reported(tmp_path):
    (tmp_path / "x.json").write_bytes('{"shapes": "é"}'.encode("latin-1"))
    assert kinds(only(tmp_path)[1]) == ["unreadable-annotations"]


def test_edges_of_a_label_map_are_repeated_like_those_of_the_pixels(tmp_path):
    write_json(
        tmp_path / "a.json", labelme({"points": [[0, 0], [0, 7], [3, 7], [3, 0]]}, size=(8, 8))
    )
    record, _ = only(tmp_path, shape=(48, 48))
    labels = annotations.label_map_480x640(record)
    assert (labels[:, :320] == NECK).all() and (labels[:, 320:] == BACKGROUND).all()


def test_the_annotations_of_a_file_of_several_frames_belong_to_the_first(tmp_path):
    write_json(tmp_path / "a.json", labelme(image="a.tif"))
    path = tmp_path / "a.tif"
    path.touch()
    records = [
        Thermogram(
            name=f"a.frame{frame:02d}",
            files=(path,),
            frame_in_file=frame,
            patient="0001",
            patient_known=True,
            shape=SHAPE,
        )
        for frame in range(2)
    ]
    files = file_listing.list_files(tmp_path)
    records = DataReport(tmp_path).collect(annotation_files.annotate(records, files))
    assert [bool(record.regions) for record in records] == [True, False]
