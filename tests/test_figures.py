"""The figures are drawn, not blank, and as large as their content, for any count and size."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from thermo_jax.evaluation import canvas, figures

PIXELS = canvas.DPI * canvas.PANEL_INCHES


def _images(count, shape=(30, 40), channels=1):
    y, x = np.mgrid[: shape[0], : shape[1]]
    body = 60 + 120 * np.exp(-(((x / shape[1] - 0.5) / 0.4) ** 4)) + 20 * np.sin(y / 9)
    image = np.repeat(body[..., None], channels, axis=-1).astype(np.uint8)
    return np.repeat(image[None], count, axis=0)


def _label_maps(count, shape=(30, 40)):
    y, x = np.mgrid[: shape[0], : shape[1]]
    maps = 8 * x // shape[1]
    return np.repeat(maps[None], count, axis=0), np.repeat(np.roll(maps, 2, axis=1)[None], count, 0)


def _names(count):
    return [f"0001/T000{index}.1.1.D.2012-10-08.00" for index in range(count)]


def _pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(np.float64)


def _has_color(pixels, color):
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return (np.abs(pixels - wanted).max(axis=-1) <= 1).any()


def test_importing_the_figures_does_not_import_matplotlib():
    code = (
        "import sys, thermo_jax.evaluation.figures; "
        "sys.exit(any(name.split('.')[0] == 'matplotlib' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("count", "shape", "channels"), [(1, (30, 40), 1), (6, (30, 40), 3), (2, (480, 640), 1)]
)
def test_segmentation_figure_has_four_pictures_a_row(tmp_path, count, shape, channels):
    truth, predicted = _label_maps(count, shape)
    path = figures.segmentation_figure(
        tmp_path / "new" / "seg.png",
        _images(count, shape, channels),
        truth,
        predicted,
        _names(count),
        title="",
    )
    pixels = _pixels(path)
    assert 4 * PIXELS < pixels.shape[1] < 4.4 * PIXELS
    assert pixels.shape[0] > count * 0.75 * PIXELS
    assert pixels.std() > 20


def test_segmentation_figure_paints_every_class_and_the_errors(tmp_path):
    truth, predicted = _label_maps(1)
    path = figures.segmentation_figure(
        tmp_path / "seg.png", _images(1), truth, predicted, _names(1), title="H/H"
    )
    pixels = _pixels(path)
    for color in (*figures.CLASS_COLORS, figures.WRONG_COLOR):
        assert _has_color(pixels, color)


def test_segmentation_figure_accepts_label_maps_of_another_resolution(tmp_path):
    truth, predicted = _label_maps(1, (120, 160))
    small, large = (
        figures.segmentation_figure(tmp_path / "a.png", _images(1), *maps, _names(1), title="")
        for maps in (_label_maps(1), (truth, predicted))
    )
    assert _pixels(small).shape == _pixels(large).shape


def test_class_colours_are_all_different():
    colors = {*figures.CLASS_COLORS, figures.WRONG_COLOR}
    assert len(colors) == len(figures.CLASS_COLORS) + 1 == 9


@pytest.mark.parametrize("count", [1, 2, 3])
def test_evidence_figure_shows_pairs(tmp_path, count):
    evidence = np.zeros((count, 30, 40), np.float32)
    evidence[:, 8:14, 8:14], evidence[:, 20:26, 25:31] = 1, -1
    path = figures.evidence_figure(
        tmp_path / "evidence.png",
        _images(count, channels=3),
        evidence,
        np.full(count, 0.7),
        np.arange(count) - 1,
        _names(count),
        title="",
    )
    pixels = _pixels(path)
    columns = 2 * min(count, 2)
    assert columns * PIXELS < pixels.shape[1] < (columns + 0.4) * PIXELS
    warm, cold = pixels[..., 0] - pixels[..., 2] > 60, pixels[..., 2] - pixels[..., 0] > 20
    assert warm.sum() > 100 and cold.sum() > 100


def test_evidence_figure_of_zero_evidence_is_drawn(tmp_path):
    nothing = np.zeros((1, 30, 40))
    path = figures.evidence_figure(
        tmp_path / "e.png", _images(1), nothing, [0.5], [0], _names(1), title=""
    )
    assert _pixels(path).std() > 20


def _latents(count, length, dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 30, 40, length)).astype(dtype)


@pytest.mark.parametrize("length", [1, 2, 16])
def test_latents_figure_draws_any_number_of_channels(tmp_path, length):
    path = figures.latents_figure(
        tmp_path / "l.png", _images(2), _latents(2, length), names=_names(2)
    )
    pixels = _pixels(path)
    assert pixels.std() > 20
    assert 4 * PIXELS < pixels.shape[1] < 4.4 * PIXELS


def test_principal_components_become_red_green_blue_in_order_of_variance():
    latents = _latents(2, 5) * np.array([1, 9, 0.1, 3, 0.2], np.float32)
    colors = figures.pca_colors(latents)
    assert colors.min() >= 0 and colors.max() <= 1
    for component, channel in enumerate((1, 3, 0)):
        drawn, planted = colors[..., component].ravel(), latents[..., channel].ravel()
        assert np.corrcoef(drawn, planted)[0, 1] > 0.95


def test_constant_latents_are_mid_gray():
    np.testing.assert_array_equal(figures.pca_colors(np.ones((1, 4, 5, 8))), 0.5)


def test_latents_in_bfloat16_are_accepted():
    import ml_dtypes

    half = figures.pca_colors(_latents(1, 8, ml_dtypes.bfloat16))
    np.testing.assert_allclose(half, figures.pca_colors(_latents(1, 8)), atol=0.05)


def _history(epochs):
    return [
        {"epoch": n, "step": 5 * n, "train/loss": 1 / (n + 1), "val/loss": abs(n - 3) + 0.5}
        for n in range(epochs)
    ]


def _curves(path, rows):
    return _pixels(figures.curves_figure(path, rows, best_epoch=0, title="Encoder"))


@pytest.mark.parametrize("epochs", [1, 6, 60])
def test_curves_figure_draws_training_and_validation(tmp_path, epochs):
    pixels = _curves(tmp_path / "c.png", _history(epochs))
    for _, color, _, _ in figures.SERIES.values():
        assert _has_color(pixels, color)


def test_curves_figure_gives_each_measure_a_panel_and_leaves_other_numbers_out(tmp_path):
    rows = [{**row, "train/part": 1.0, "val/miou": 0.5} for row in _history(4)]
    narrow = _curves(tmp_path / "1.png", _history(4))
    wide = _curves(tmp_path / "3.png", rows)
    assert wide.shape[1] > 2.5 * narrow.shape[1]


def test_curves_figure_survives_gaps_and_a_diverged_run(tmp_path):
    rows = [{"epoch": 0, "train/loss": 1.0, "val/loss": None}, {"epoch": 1, "train/loss": None}]
    assert _curves(tmp_path / "c.png", rows).std() > 5


def test_a_file_name_with_dollar_signs_is_not_read_as_a_formula(tmp_path):
    truth, predicted = _label_maps(1)
    path = figures.segmentation_figure(
        tmp_path / "s.png", _images(1), truth, predicted, [r"a$\frac$b"], title=""
    )
    assert path.exists()


def test_long_names_are_shortened_in_the_middle():
    short = canvas.short_name("folder/" + "a" * 40 + "z")
    assert len(short) <= 34 and short.startswith("aaa") and short.endswith("z")


def test_warm_is_light_in_the_backdrop_of_a_jet_heatmap():
    from matplotlib import colormaps

    ramp = (colormaps["jet"](np.linspace(0.13, 0.87, 40))[None, :, :3] * 255).astype(np.uint8)
    assert (np.diff(canvas.lightness(ramp)[0].astype(int)) > 0).all()


def test_a_missing_row_is_refused(tmp_path):
    truth, predicted = _label_maps(2)
    with pytest.raises(ValueError, match="shorter"):
        figures.segmentation_figure(
            tmp_path / "s.png", _images(2), truth, predicted[:1], _names(2), title=""
        )
