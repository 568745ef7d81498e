import json

import numpy as np
import pytest
from PIL import Image
from thermogram_files import BOX, coco

from thermo_jax.data import layouts
from thermo_jax.data.annotations import draw_order, label_map, scored_label_map
from thermo_jax.data.coco_reader import read_coco
from thermo_jax.data.data_report import DataReport
from thermo_jax.data.thermogram import BACKGROUND, CLASS_NAMES, Annotation

LEFT_BREAST, LEFT_NIPPLE, NECK = (
    CLASS_NAMES.index(name) for name in ("left_breast", "left_nipple", "neck")
)


def box(index, left, top, right, bottom):
    ring = ((left, top), (right, top), (right, bottom), (left, bottom))
    return Annotation(class_index=index, rings=(tuple((float(x), float(y)) for x, y in ring),))


def read(tmp_path, document):
    report = DataReport(tmp_path)
    of_image = report.collect(read_coco(json.loads(json.dumps(document)), "coco.json"))
    return {str(image): annotated.regions for image, annotated in of_image.items()}, report


def test_label_maps_of_the_sample_agree_pixel_for_pixel(sample_dir):
    records, _ = layouts.scan(sample_dir / "site")
    annotated = {f"T{record.patient}": record for record in records if record.regions}
    expected = {path.stem: path for path in (sample_dir / "label_maps").glob("*.png")}
    assert annotated.keys() == expected.keys() and expected
    for stem, path in expected.items():
        actual = label_map(annotated[stem].regions)
        np.testing.assert_array_equal(actual, np.asarray(Image.open(path)), err_msg=stem)


def test_later_regions_cover_earlier_ones_and_the_rest_is_background():
    labels = label_map([box(LEFT_BREAST, 10, 10, 50, 50), box(LEFT_NIPPLE, 20, 20, 30, 30)])
    assert labels.shape == (480, 640) and labels.dtype == np.uint8
    assert labels[15, 15] == LEFT_BREAST
    assert labels[25, 25] == LEFT_NIPPLE
    assert labels[100, 100] == BACKGROUND


def test_first_coordinate_is_the_column():
    labels = label_map([box(NECK, 600, 10, 630, 20)])
    assert labels[15, 615] == NECK and (labels == NECK).sum() == 31 * 11


def test_vertices_are_truncated():
    exact = label_map([box(NECK, 10, 10, 20, 20)])
    np.testing.assert_array_equal(exact, label_map([box(NECK, 10.9, 10.9, 20.9, 20.9)]))


def test_region_of_interest_is_never_drawn():
    covered = [box(NECK, 10, 10, 20, 20), box(BACKGROUND, 0, 0, 639, 479)]
    np.testing.assert_array_equal(label_map(covered), label_map(covered[:1]))


def test_rings_of_one_region_add_up_even_where_they_overlap():
    inner, outer = box(NECK, 20, 20, 30, 30), box(NECK, 10, 10, 50, 50)
    both = Annotation(class_index=NECK, rings=outer.rings + inner.rings)
    np.testing.assert_array_equal(label_map([both]), label_map([outer]))


def test_polygons_leaving_the_image_are_clipped():
    assert (label_map([box(NECK, -50, -50, 9, 9)]) == NECK).sum() == 100


def test_draw_order_ranks_classes_by_their_last_drawing():
    regions = [box(index, 0, 0, 9, 9) for index in (NECK, LEFT_BREAST, BACKGROUND, NECK)]
    ranks = draw_order(regions)
    assert ranks[LEFT_BREAST] == 1 and ranks[NECK] == 2
    assert sum(ranks) == 3  # no other class was drawn; background has rank 0


def tied_cell(first, second):
    labels = np.full((480, 640), BACKGROUND, np.uint8)
    labels[:4, :2], labels[:4, 2:4] = first, second
    return labels


@pytest.mark.parametrize("order", [(NECK, LEFT_BREAST), (LEFT_BREAST, NECK)])
def test_ties_go_to_the_later_drawn_class(order):
    regions = [box(index, 0, 0, 9, 9) for index in order]
    labels = tied_cell(LEFT_BREAST, NECK)
    assert scored_label_map(labels, regions, factor=4)[0, 0] == order[-1]


def test_background_loses_every_tie():
    scored = scored_label_map(tied_cell(BACKGROUND, NECK), [box(NECK, 0, 0, 9, 9)], factor=4)
    assert scored.shape == (120, 160) and scored[0, 0] == NECK


def test_a_majority_wins_whatever_was_drawn_last():
    labels = tied_cell(LEFT_BREAST, NECK)
    labels[0, 2] = LEFT_BREAST
    regions = [box(LEFT_BREAST, 0, 0, 9, 9), box(NECK, 0, 0, 9, 9)]
    assert scored_label_map(labels, regions, factor=4)[0, 0] == LEFT_BREAST


def test_at_full_resolution_the_scored_map_is_the_label_map():
    regions = [box(LEFT_BREAST, 10, 10, 50, 50), box(LEFT_NIPPLE, 20, 20, 30, 30)]
    labels = label_map(regions)
    np.testing.assert_array_equal(scored_label_map(labels, regions, factor=1), labels)


def test_ids_need_not_be_contiguous_and_file_order_is_kept(tmp_path):
    document = coco({70: "a.jpg", 3: "b.jpg"}, [])
    document["categories"] = [{"id": 900, "name": "neck"}, {"id": 5, "name": "Left_Breast"}]
    document["annotations"] = [
        {"id": i, "image_id": image, "category_id": category, "segmentation": [BOX]}
        for i, image, category in [(9, 70, 900), (2, 3, 5), (1, 70, 5)]
    ]
    regions, report = read(tmp_path, document)
    assert [r.class_index for r in regions["a"]] == [NECK, LEFT_BREAST]
    assert [r.class_index for r in regions["b"]] == [LEFT_BREAST]
    assert not report.oddities


def test_folders_of_file_names_are_kept_in_either_notation(tmp_path):
    regions, report = read(tmp_path, coco({1: "0001/a.jpg", 2: "0002\\a.1.00.jpg", 3: ".."}, []))
    assert set(regions) == {"0001/a", "0002/a.1.00"}
    assert report.count("unreadable-annotations") == 1  # the image whose name is '..'


@pytest.mark.parametrize("section, field", [("images", "file_name"), ("categories", "name")])
def test_an_id_that_means_two_things_makes_the_file_unreadable(tmp_path, section, field):
    document = coco({1: "a.jpg"}, [{"image_id": 1, "category_id": 8}])
    document[section].append(document[section][0] | {field: "other"})
    regions, report = read(tmp_path, document)
    assert not regions
    assert "'other'" in report.oddities[0].detail
    assert report.count("unreadable-annotations") == 1


def test_category_names_may_be_written_with_spaces_or_hyphens(tmp_path):
    entries = [{"image_id": 1, "category_id": c} for c in (1, 2)]
    document = coco({1: "a.jpg"}, entries)
    document["categories"] = [{"id": 1, "name": "Left breast"}, {"id": 2, "name": "right-nipple"}]
    regions, report = read(tmp_path, document)
    assert [CLASS_NAMES[r.class_index] for r in regions["a"]] == ["left_breast", "right_nipple"]
    assert not report.oddities


@pytest.mark.parametrize("document", [[], None, {"images": 3}, {"images": [1]}])
def test_a_document_of_another_form_is_reported_by_name(tmp_path, document):
    regions, report = read(tmp_path, document)
    assert not regions
    assert report.count("unreadable-annotations") == 1
    assert report.oddities[0].file == "coco.json"


def test_several_rings_are_kept_and_noted(tmp_path):
    entry = {"image_id": 1, "category_id": 8, "segmentation": [BOX, [1, 1, 9, 1, 9, 9]]}
    regions, report = read(tmp_path, coco({1: "a.jpg"}, [entry]))
    assert len(regions["a"][0].rings) == 2
    assert report.count("several-rings") == 1


def test_an_unknown_category_loses_only_its_region(tmp_path):
    document = coco(
        {1: "a.jpg"}, [{"image_id": 1, "category_id": 77}, {"image_id": 1, "category_id": 8}]
    )
    document["categories"].append({"id": 77, "name": "scar"})
    regions, report = read(tmp_path, document)
    assert [r.class_index for r in regions["a"]] == [NECK]
    assert report.count("unknown-category") == 2  # the category and its region
    assert "scar" in report.oddities[0].detail


def test_an_annotation_of_an_unlisted_image_is_noted(tmp_path):
    regions, report = read(tmp_path, coco({1: "a.jpg"}, [{"image_id": 2, "category_id": 8}]))
    assert regions == {"a": ()}
    assert report.count("unknown-image-id") == 1


@pytest.mark.parametrize("size", [("640", 480), (-1, 480), (640.5, 480), (10**6, 10**6)])
def test_an_image_of_an_impossible_size_is_left_out(tmp_path, size):
    document = coco({1: "a.jpg"}, [{"image_id": 1, "category_id": 8}], size=size)
    regions, report = read(tmp_path, document)
    assert regions == {}
    assert [(o.kind, o.file) for o in report.oddities] == [("annotation-size", "a.jpg")]


@pytest.mark.parametrize(
    "segmentation",
    [
        {"counts": "abc", "size": [480, 640]},
        {"counts": [480 * 640], "size": [640, 480]},
        {"counts": [480 * 640]},
        {"counts": [7], "size": [480, 640]},
        {"counts": [480 * 640, -1, 1], "size": [480, 640]},
        {"counts": [[]], "size": [480, 640]},
        {"counts": "o" * 100, "size": [480, 640]},
        {"counts": [10**12], "size": [10**6, 10**6]},
        [],
        None,
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, "6"]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, 1e12]],
        [[1, 2, 3, 4, 5, 10**400]],
    ],
)
def test_an_image_with_a_polygon_that_cannot_be_drawn_counts_as_not_annotated(
    tmp_path, segmentation
):
    entries = [{"image_id": 1, "category_id": c} for c in (1, 8)]
    entries[1]["segmentation"] = segmentation
    regions, report = read(tmp_path, coco({1: "a.jpg"}, entries))
    assert regions == {"a": ()}  # else the label map would show the neck as background
    assert report.count("unusable-polygon") == 1


def test_an_image_listed_twice_keeps_the_first(tmp_path):
    entries = [{"image_id": 1, "category_id": 8}, {"image_id": 2, "category_id": 1}]
    regions, report = read(tmp_path, coco({1: "a.jpg", 2: "a.jpg"}, entries))
    assert [r.class_index for r in regions["a"]] == [NECK]
    assert report.count("repeated-image") == 1
