"""The charts of scores are drawn, even if values are missing."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from thermo_jax.data.thermogram import CLASS_NAMES
from thermo_jax.evaluation import charts
from thermo_jax.evaluation.tables import Estimate

DIAGNOSES = ("healthy", "sick")


def _pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(np.int64)


def _count_color(pixels, color):
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return (np.abs(pixels - wanted).max(axis=-1) <= 2).sum()


def _curve(shift=0.0):
    score = np.linspace(0.1, 0.9, 5)
    return score, np.clip(score + shift, 0, 1), np.array([40, 10, 5, 10, 30])


def test_importing_the_charts_does_not_import_matplotlib():
    code = (
        "import sys, thermo_jax.evaluation.charts; "
        "sys.exit(any(name.split('.')[0] == 'matplotlib' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reliability_figure_draws_a_line_per_row(tmp_path):
    curves = {"model": _curve(), "acquisition year": _curve(0.1)}
    pixels = _pixels(charts.reliability_figure(tmp_path / "new" / "r.png", curves, title="R"))
    assert all(_count_color(pixels, color) > 500 for color in charts.COLORS[:2])
    assert not _count_color(pixels, charts.COLORS[2])


def test_reliability_figure_leaves_empty_bins_out(tmp_path):
    nan = np.nan
    full = {"model": (np.array([0.2, 0.8]), np.array([0.1, 0.9]), np.array([3, 4]))}
    gaps = {
        "model": (np.array([0.2, nan, 0.8]), np.array([0.1, nan, 0.9]), np.array([3, 0, 4])),
    }
    without_bins = _pixels(charts.reliability_figure(tmp_path / "full.png", full))
    with_empty_bins = _pixels(charts.reliability_figure(tmp_path / "gaps.png", gaps))
    np.testing.assert_array_equal(without_bins, with_empty_bins)


def test_confusion_figure_shades_by_the_share_of_the_true_class(tmp_path):
    """A class with ten times the cases has the same colour; only the digits in its cell differ."""
    darkest = []
    for healthy in (1000, 100):
        matrices = {"at 0.5": np.array([[healthy, 0], [0, 100]])}
        path = charts.confusion_figure(tmp_path / "c.png", matrices, class_names=DIAGNOSES)
        darkest.append(_count_color(_pixels(path), "#08306b"))  # the end of matplotlib's Blues
    assert darkest[0] > 10_000
    assert darkest[0] == pytest.approx(darkest[1], rel=0.02)


def test_confusion_figure_draws_eight_classes_of_which_one_is_absent(tmp_path):
    matrix = np.diag(np.arange(8)) * 10_000 + 1
    matrix[3] = 0
    path = charts.confusion_figure(tmp_path / "c.png", {"120x160": matrix}, class_names=CLASS_NAMES)
    assert _pixels(path).std() > 20


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0"), (0.001, "<1"), (0.25, "25"), (0.997, ">99"), (1, "100"), (np.nan, "-")],
)
def test_only_exact_shares_are_shown_as_0_and_100_percent(share, text):
    assert charts._percent(share) == text


def test_few_shot_figure_draws_a_line_per_encoder_in_any_order_of_points(tmp_path):
    points = [(1, [0.3, 0.35]), (5, [0.5, 0.6]), (42, [0.8])]
    forward = {"CUTS": points, "none": [(1, [0.1]), (5, [0.2])]}
    backward = {"CUTS": points[::-1], "none": [(5, [0.2]), (1, [0.1])]}
    forward = _pixels(charts.few_shot_figure(tmp_path / "a.png", forward, measure="mIoU"))
    backward = _pixels(charts.few_shot_figure(tmp_path / "b.png", backward, measure="mIoU"))
    np.testing.assert_array_equal(forward, backward)
    assert all(_count_color(forward, color) > 500 for color in charts.COLORS[:2])


def test_few_shot_figure_draws_a_reference_across_all_numbers(tmp_path):
    points = {"CUTS": [(1, [0.3]), (42, [0.8])]}
    path = tmp_path / "a.png"
    plain = _pixels(charts.few_shot_figure(path, points, measure="mIoU"))
    marked = {"as it is": 0.5}
    drawn = _pixels(charts.few_shot_figure(path, points, measure="mIoU", reference=marked))
    assert _count_color(drawn, charts.GRAY) > _count_color(plain, charts.GRAY) + 300


def test_interval_figure_grows_by_the_row_and_marks_the_paper(tmp_path):
    rows = {"H/H": (0.9, 0.8, 0.95), "G/G": (np.nan, np.nan, np.nan), "majority": (0.5, np.nan, 0)}
    plain = _pixels(charts.interval_figure(tmp_path / "a.png", {"H/H": rows["H/H"]}, measure="F1"))
    path = charts.interval_figure(tmp_path / "b.png", rows, reference={"H/H": 0.93}, measure="F1")
    marked = _pixels(path)
    assert len(marked) > len(plain) + 0.5 * charts.DPI
    assert _count_color(plain, charts.REFERENCE_COLOR) == 0
    assert _count_color(marked, charts.REFERENCE_COLOR) > 100


def test_a_name_with_dollar_signs_is_not_read_as_a_formula(tmp_path):
    rows = {r"a$\frac$b" + "c" * 60: (0.5, 0.4, 0.6)}
    assert charts.interval_figure(tmp_path / "i.png", rows, measure="$").exists()


def _forest(path, groups, **options):
    return _pixels(charts.forest_figure(path, groups, measure="AUROC", **options))


def _shift(mask):
    """The first and last column of the pixels of a mask."""
    return np.flatnonzero(mask.any(axis=0))[[0, -1]]


ROWS = {name: Estimate(0.7, 0.6, 0.8) for name in ("one", "two", "three")}


def test_forest_figure_grows_by_a_row_for_each_model_and_each_family(tmp_path):
    path = tmp_path / "new" / "f.png"
    one = _forest(path, {"A": ROWS})
    three = _forest(path, {"A": {"one": ROWS["one"]}, "B": {"two": ROWS["two"]}, "C": {}})
    two = _forest(path, {"A": ROWS, "B": {"four": ROWS["one"]}})
    rows = [4, 5, 6]
    heights = [len(pixels) for pixels in (one, three, two)]
    np.testing.assert_allclose(np.diff(heights), 0.22 * charts.DPI * np.diff(rows), atol=1.5)


def test_forest_figure_keeps_the_given_order(tmp_path):
    low, high = Estimate(0.3, 0.2, 0.4), Estimate(0.9, 0.8, 0.95)
    drawn = []
    for groups in ({"A": {"a": low, "b": high}}, {"A": {"b": high, "a": low}}):
        pixels = _forest(tmp_path / "f.png", groups)
        blue = np.abs(pixels - [0x00, 0x72, 0xB2]).max(axis=-1) <= 2
        lines = np.flatnonzero(blue.any(axis=1))
        drawn.append(_shift(blue[lines[-20] :])[0])  # the last row
    assert drawn[0] > drawn[1] + 100


def test_forest_figure_draws_ours_as_a_line_and_published_values_as_gray_diamonds(tmp_path):
    path, gray = tmp_path / "f.png", charts.PUBLISHED_COLOR
    plain = _forest(path, {"A": ROWS})
    assert not _count_color(plain, charts.REFERENCE_COLOR) and not _count_color(plain, gray)
    line = _forest(path, {"A": ROWS}, reference=0.738)
    orange = np.abs(line - [0xD5, 0x5E, 0x00]).max(axis=-1) <= 2
    assert orange.sum(axis=0).max() > 0.4 * 4 * 0.22 * charts.DPI  # dashes across four lines
    published = {"one": 0.99, "two": None, "three": np.nan}
    one = _count_color(_forest(path, {"A": ROWS}, published=published), gray)
    two = _count_color(_forest(path, {"A": ROWS}, published=published | {"two": 0.98}), gray)
    # One diamond of a row and one of the legend, then another one of a row.
    assert one > 20 and two == pytest.approx(1.5 * one, rel=0.35)


@pytest.mark.parametrize("name", ["W" * 90, "a model " * 12, r"$\frac$" * 9])
def test_forest_figure_leaves_room_for_long_names_and_wide_estimates(tmp_path, name):
    """Nothing reaches the edges of the picture, and the axes keep their width."""
    rows = ROWS | {name: Estimate(-0.123, -0.456, 0.789), "undefined": Estimate(np.nan)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = _forest(tmp_path / "f.png", {name: rows}, reference=0.7)
    dark = pixels.max(axis=-1) < 250
    assert not dark[:, :4].any() and not dark[:, -4:].any() and not dark[:4].any()
    # The horizontal axis is the longest gray line.
    axis = np.abs(pixels - [0x66, 0x66, 0x66]).max(axis=-1) <= 2
    assert axis.sum(axis=1).max() > 2.5 * charts.DPI


def _roc(area):
    rate = np.linspace(0, 1, 11)
    sensitivity = rate ** (1 / area - 1)
    return rate, sensitivity, np.maximum(sensitivity - 0.1, 0), np.minimum(sensitivity + 0.1, 1)


def _roc_pixels(path, curves, *, point=(0.3, 0.8)):
    aurocs = {name: Estimate(0.8, 0.7, 0.9) for name in curves}
    points = dict.fromkeys(curves, point)
    return _pixels(charts.roc_figure(path, curves, aurocs=aurocs, points=points, title="R"))


def test_roc_figure_draws_a_line_per_row_and_marks_its_operating_point(tmp_path):
    both = _roc_pixels(tmp_path / "a.png", {"H/H": _roc(0.8), "G/G": _roc(0.7)})
    assert all(_count_color(both, color) > 500 for color in charts.COLORS[:2])
    elsewhere = _roc_pixels(tmp_path / "b.png", {"H/H": _roc(0.8)}, point=(0.5, 0.5))
    absent = _roc_pixels(tmp_path / "c.png", {"H/H": _roc(0.8)}, point=(np.nan, np.nan))
    extra = _count_color(elsewhere, charts.COLORS[0]) - _count_color(absent, charts.COLORS[0])
    assert extra > 100


def test_roc_figure_of_one_diagnosis_draws_chance_only(tmp_path):
    undefined = tuple(np.full(11, np.nan) for _ in range(4))
    drawn = _roc_pixels(tmp_path / "a.png", {"H/H": _roc(0.8)})
    without = _roc_pixels(tmp_path / "b.png", {"H/H": undefined}, point=(np.nan, 0.5))
    blue = [_count_color(pixels, charts.COLORS[0]) for pixels in (drawn, without)]
    assert blue[0] > blue[1] + 500
    assert _count_color(without, charts.GRAY) > 500
