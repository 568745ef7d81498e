"""Predicted regions are annotations: predict, correct in LabelMe or CVAT, train."""

import json
import shutil

import numpy as np
import pytest
import tiny_training as tiny
from PIL import Image
from saved_decoders import save_decoder
from thermogram_files import gray_pixels, matrix, write_gray, write_matrix

from thermo_jax import main
from thermo_jax.configs import predict
from thermo_jax.data import annotations, layouts
from thermo_jax.data.label_map_files import read_label_map

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
NAMES = ("a/T0001.1.1.S.2012-10-08.00", "a/photo", "b/photo")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A DMR-IR name, a picture of 320x240 and temperatures of another, in two folders."""
    data = tmp_path_factory.mktemp("data")
    write_gray(data / f"{NAMES[0]}.jpg")
    Image.fromarray(gray_pixels(3)[::2, ::2]).save(data / "a" / "photo.png")
    write_matrix(data / "b" / "photo.csv", matrix()[::2, ::2], separator=";", comma=True)
    return data


@pytest.fixture(scope="module")
def workdir(data, tmp_path_factory):
    """The workdir of a prediction; these weights predict no region with a hole."""
    folder = tmp_path_factory.mktemp("runs")
    config = predict.get_config()
    config.input, config.reports, config.labelme = str(data), False, True
    config.check = False
    with tiny.shallow_decoders():
        config.models = str(save_decoder(folder / "segment", "segment", seed=8))
        main.run(config, folder / "predictions")
    return folder / "predictions"


@pytest.mark.parametrize("kept", ["labelme", "label_maps", "regions_coco.json"])
def test_predicted_regions_are_read_as_annotations(data, workdir, tmp_path, kept):
    root = shutil.copytree(data, tmp_path / "root")
    copy = shutil.copytree if (workdir / kept).is_dir() else shutil.copy
    copy(workdir / kept, root / kept)
    records, report = layouts.scan(root, layout="folder")
    assert [record.name for record in records] == list(NAMES) and not report.num_bad
    for record in records:
        expected = read_label_map(workdir / "label_maps" / f"{record.name}.png")
        assert expected.shape == record.shape and len(np.unique(expected)) >= 3
        drawn = annotations.label_map(record.regions, record.regions_shape)
        np.testing.assert_array_equal(drawn, expected)


def test_a_corrected_labelme_file_replaces_the_prediction(data, workdir, tmp_path):
    root = shutil.copytree(data, tmp_path / "root")
    shutil.copy(workdir / "regions_coco.json", root)
    shutil.copytree(workdir / "labelme" / "b", root / "corrected")
    file = root / "corrected" / "photo.json"
    document = json.loads(file.read_text())
    box = {"label": "neck", "points": [[10.5, 20.5], [30.5, 40.5]], "shape_type": "rectangle"}
    document["shapes"] = [box]
    file.write_text(json.dumps(document))
    records, _ = layouts.scan(root, layout="folder")
    corrected = next(record for record in records if record.name == "b/photo")
    neck = annotations.label_map(corrected.regions, corrected.regions_shape) == 7
    assert neck.sum() == 21 * 21 and neck[20:41, 10:31].all()


def test_pictures_of_label_maps_show_in_every_viewer_what_classes_json_names(workdir):
    image = Image.open(workdir / "label_maps" / f"{NAMES[0]}.png")
    assert image.mode == "P" and len({tuple(color) for _, color in colors(image)}) >= 3
    classes = json.loads((workdir / "label_maps" / "classes.json").read_text())
    assert classes["background"] == 0 and classes["neck"] == 7


def colors(image):
    return image.convert("RGB").getcolors()
