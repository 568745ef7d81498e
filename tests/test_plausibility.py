"""Is it a breast? What shows none is marked, and real thermograms pass."""

import csv

import not_breasts
import numpy as np
import pytest
from PIL import Image

from thermo_jax import main
from thermo_jax.configs import predict
from thermo_jax.data import layouts, phantom
from thermo_jax.data.picture import Picture, load_pixels, read_one
from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.inference.plausibility import UNSTABLE, PlausibilityCheck, implausible_places
from thermo_jax.inference.predictor import Predictor
from thermo_jax.inference.trained_models import SHIPPED, load_model

SIZE = 8


@pytest.fixture(scope="module")
def check():
    """Return a function: pictures -> the reasons for doubt of each."""
    checks = PlausibilityCheck(load_model(SHIPPED))

    def check(pictures):
        parts = (pictures[k : k + SIZE] for k in range(0, len(pictures), SIZE))
        return [reasons for part in parts for reasons in checks(part, size=SIZE)]

    return check


def picture_of(array):
    return Picture(**{"levels" if array.dtype == np.uint8 else "temperatures": array})


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """Gray pictures [480,640] of four synthetic patients."""
    folder = phantom.write_phantom(
        tmp_path_factory.mktemp("data") / "phantom", patients=4, seed=5, version=2
    )
    records, _ = layouts.scan(folder)
    return [load_pixels(record, wanted=("gray",)).gray[..., 0] for record in records][:4]


def test_none_of_twenty_pictures_without_a_breast_passes(check):
    reasons = check([picture_of(not_breasts.picture(make)) for make in not_breasts.PICTURES])
    passed = [
        make.__name__ for make, why in zip(not_breasts.PICTURES, reasons, strict=True) if not why
    ]
    assert len(reasons) == 20 and passed == []


def test_synthetic_bodies_pass_and_upside_down_or_sideways_they_do_not(check, bodies):
    assert check([Picture(levels=body) for body in bodies]) == [[]] * 4
    turned = [np.rot90(body, turns).copy() for body in bodies for turns in (1, 2, 3)]
    assert all(check([Picture(levels=body) for body in turned]))


def test_colours_of_no_known_palette_are_checked_by_how_warm_they_look(check, bodies):
    # A palette that nobody uses: from blue over gray to red, with a constant green.
    levels = bodies[0]
    colours = np.stack([levels, np.full_like(levels, 90), 255 - levels], axis=-1)
    mug = picture_of(not_breasts.picture(not_breasts.cup)).gray
    of_mug = np.stack([mug, np.full_like(mug, 90), 255 - mug], axis=-1)
    first, second = check([Picture(colour=colours), Picture(colour=of_mug)])
    assert not first and second


def test_a_batch_may_be_smaller_than_its_size(check, bodies):
    assert check([Picture(levels=bodies[0])]) == [[]]


def test_real_frontal_thermograms_pass(check, sample_dir):
    records, _ = layouts.scan(sample_dir / "site")
    pictures = [
        Picture(levels=load_pixels(record, wanted=("gray",)).gray[..., 0])
        for record in records
        if record.view == 1
    ]
    marked = [reasons for reasons in check(pictures) if reasons]
    assert len(pictures) == 72 and len(marked) <= 0.05 * 72


def test_a_real_mug_and_a_picture_on_its_side_do_not_pass(check, foreign_dir):
    names = ("not-a-breast/mug.jpg", "flir/DJI_H20T.jpg", "pictures/sideways.png")
    assert all(check([read_one(foreign_dir / name) for name in names]))
    assert check([read_one(foreign_dir / "pictures" / "gray.png")]) == [[]]


# --------------------------------------------------------------------------------------------------
# Places of regions
# --------------------------------------------------------------------------------------------------


def label_map(**boxes):
    """A map of 60x80 with boxes (top, bottom, left, right); breasts are where they should be."""
    places = {"left_breast": (25, 45, 15, 35), "right_breast": (25, 45, 45, 65)} | boxes
    drawn = np.full((60, 80), CLASS_NAMES.index("background"), np.uint8)
    for name, (top, bottom, left, right) in places.items():
        drawn[top:bottom, left:right] = CLASS_NAMES.index(name)
    return drawn


EMPTY = (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ({}, None),
        ({"neck": (0, 10, 35, 45), "left_armpit": (5, 15, 5, 15)}, None),
        ({"left_breast": EMPTY, "right_breast": EMPTY}, "no breasts were found"),
        ({"left_breast": (25, 27, 15, 20)}, "only one breast was found"),
        ({"left_breast": (25, 45, 45, 65), "right_breast": (25, 45, 15, 35)}, "side by side"),
        ({"left_breast": (5, 25, 15, 35)}, "side by side"),
        ({"left_breast": (25, 35, 25, 35)}, "one breast is 4.0 times as large as the other"),
        ({"left_breast": (0, 60, 0, 40)}, "a breast covers 50 % of the picture"),
        ({"neck": (50, 60, 35, 45)}, "neck below a breast"),
        ({"right_armpit": (50, 60, 70, 80)}, "armpit below a breast"),
    ],
)
def test_regions_where_none_can_be_are_named(boxes, reason):
    reasons = implausible_places(label_map(**boxes))
    assert reasons == [] if reason is None else any(reason in text for text in reasons)


# --------------------------------------------------------------------------------------------------
# What follows from a doubt
# --------------------------------------------------------------------------------------------------


def test_a_prediction_in_doubt_says_so_and_does_not_count(bodies):
    predictor = Predictor(batch_size=2)
    room = not_breasts.picture(not_breasts.room)
    body = 25 + bodies[0].astype(np.float32) / 25.5
    doubtful, certain = predictor.predict([room, body])
    assert doubtful.doubts and not doubtful.counts and doubtful.differences == {}
    assert doubtful.notes[0].startswith("this may not be a frontal view of two breasts (")
    assert "in doubt" in repr(doubtful)
    assert not certain.doubts and certain.counts and "breasts, mean" in certain.differences
    (unchecked,) = Predictor(batch_size=2, check=False).predict(room)
    assert unchecked.doubts == () and unchecked.counts


def test_other_views_are_not_checked(bodies, tmp_path):
    upside_down = Image.fromarray(np.rot90(bodies[0], 2).copy())
    for view in (1, 2):
        upside_down.save(tmp_path / f"T0001.1.{view}.S.2012-10-08.00.png")
    frontal, side = Predictor(batch_size=2).predict(tmp_path)
    assert frontal.doubts == (UNSTABLE,) and side.doubts == () and side.differences == {}


def test_tables_and_pages_mark_what_is_in_doubt_and_leave_it_out(bodies, tmp_path, capsys):
    for frame, array in enumerate([*bodies[:2], None]):
        celsius = not_breasts.picture(not_breasts.lamp) if array is None else 25 + array / 25.5
        np.save(tmp_path / f"T0007.1.1.D.2012-10-08.{frame:02d}.npy", np.float32(celsius))
    config = predict.get_config()
    config.input, config.batch_size = str(tmp_path), 2
    main.run(config, tmp_path / "out")
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["in_doubt"] for row in rows] == ["no", "no", "yes"]
    name = "breasts_image_left_minus_right_mean_c"
    of_bodies = [float(row[name]) for row in rows[:2]]
    assert rows[2][name] == "" and "may not be a frontal view" in rows[2]["notes"]
    with (tmp_path / "out" / "patients.csv").open() as file:
        (patient,) = csv.DictReader(file)
    assert (patient["thermograms"], patient["in_doubt"]) == ("3", "1")
    assert float(patient[name]) == pytest.approx(np.mean(of_bodies))
    index = (tmp_path / "out" / "index.html").read_text()
    assert "1 in doubt" in index and f"{np.mean(of_bodies):+.2f}" in index
    assert "in doubt" in capsys.readouterr().out
