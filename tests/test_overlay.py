"""The picture of a prediction: nothing is cut off, and nothing covers something else."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from thermo_jax.data.picture import Picture
from thermo_jax.evaluation import canvas
from thermo_jax.evaluation.wording import SIDES_NOTE
from thermo_jax.inference.findings import Prediction
from thermo_jax.inference.overlay import (
    DOUBTFUL,
    PANEL_INCHES,
    Scales,
    common_scales,
    write_overlay,
)
from thermo_jax.inference.regions import RegionMeasurement

HEIGHT, WIDTH = 120, 160
NOTE = "Regions were drawn by a model that was trained on many thermograms of other people."
CORNERS = [(0, 0), (WIDTH - 1, 0), (0, HEIGHT - 1), (WIDTH - 1, HEIGHT - 1)]


def temperatures():
    return np.linspace(25, 35, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)


def region(hottest):
    return RegionMeasurement("neck", 10, 0.1, 30.0, 30.0, 25.0, 35.0, 1.0, hottest)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Return a function that draws an overlay and returns the figure and its renderer."""

    def draw(*panels, hottest=(), name="T0001.1.1.D.2019-02-22.00", note="", **options):
        figures = []
        write = canvas.write
        monkeypatch.setattr(canvas, "write", lambda f, path: figures.append(f) or write(f, path))
        picture = Picture(temperatures=temperatures())
        label_map = np.tile(np.arange(8, dtype=np.uint8), (HEIGHT, WIDTH // 8))
        evidence = {"model": np.zeros((HEIGHT, WIDTH), np.float32)}
        prediction = Prediction(
            name=name,
            patient=None,
            file=f"{name}.txt",
            shape=(HEIGHT, WIDTH),
            celsius=True,
            picture=picture,
            probabilities={"model": 0.5} if "evidence" in panels else {},
            evidence=evidence if "evidence" in panels else {},
            label_map=label_map if "regions" in panels else None,
            measurements=[region(spot) for spot in hottest],
            doubts=options.pop("doubts", ()),
            models_note=note,
        )
        draw.overlay = write_overlay(tmp_path / "overlay.png", prediction, **options)
        (figure,) = figures
        return figure, FigureCanvasAgg(figure).get_renderer()

    return draw


PANELS = [(), ("regions",), ("evidence",), ("regions", "evidence")]


@pytest.mark.parametrize("panels", PANELS)
@pytest.mark.parametrize("name", ["T0001.1.1.D.2019-02-22.00", "a very long name " * 8, "MW" * 60])
def test_every_text_is_within_the_picture(drawn, panels, name):
    figure, renderer = drawn(*panels, name=name)
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    assert "patient's right" in " ".join(figure.texts[-1].get_text().split())
    for text in texts:
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, text.get_text()
        assert box.y0 >= 0 and box.y1 <= figure.bbox.y1, text.get_text()


@pytest.mark.parametrize("panels", [("regions",), ("regions", "evidence")])
@pytest.mark.parametrize("note", ["", NOTE])
def test_the_legend_covers_neither_the_note_nor_the_panels(drawn, panels, note):
    figure, renderer = drawn(*panels, note=note)
    assert (NOTE in " ".join(figure.texts[-1].get_text().split())) == bool(note)
    (legend,) = figure.legends
    box = legend.get_window_extent(renderer)
    assert box.y0 >= figure.texts[-1].get_window_extent(renderer).y1
    for axis in figure.axes:
        assert axis.get_tightbbox(renderer).y0 >= box.y1


@pytest.mark.parametrize("spot", CORNERS)
def test_the_temperature_of_a_spot_stays_within_its_panel(drawn, spot):
    figure, renderer = drawn("regions", hottest=[spot])
    panel = figure.axes[1]
    (label,) = (text for text in panel.texts if text.get_text() == "35.0")
    box, panel_box = label.get_window_extent(renderer), panel.get_window_extent(renderer)
    assert panel_box.x0 <= box.x0 and box.x1 <= panel_box.x1
    assert panel_box.y0 <= box.y0 and box.y1 <= panel_box.y1


@pytest.mark.parametrize("panels", PANELS)
@pytest.mark.parametrize("name", ["a", "MW" * 60])
def test_a_picture_in_doubt_says_so_above_it_within_the_figure(drawn, panels, name):
    figure, renderer = drawn(*panels, name=name, doubts=("no breasts were found",))
    title = figure.texts[0]
    box = title.get_window_extent(renderer)
    assert "in doubt" in title.get_text() or DOUBTFUL in title.get_text()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


@pytest.mark.parametrize("panels", PANELS)
def test_the_panels_of_the_file_contain_their_pictures_texts_and_scales(drawn, panels, tmp_path):
    figure, renderer = drawn(*panels)
    overlay, scales = drawn.overlay, iter(figure.axes[1 + len(panels) :])
    assert [panel.title for panel in overlay.panels] == ["thermogram", *panels]
    with Image.open(tmp_path / "overlay.png") as image:
        size = image.size
    for panel, axis in zip(overlay.panels, figure.axes, strict=False):
        left, top, right, bottom = panel.box
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        inner = axis.get_window_extent(renderer)
        x0, y0, x1, y1 = panel.picture
        # The file has whole pixels, the figure has not.
        assert left + x0 * (right - left) == pytest.approx(inner.x0, abs=1)
        assert top + y1 * (bottom - top) == pytest.approx(size[1] - inner.y0, abs=1)
        assert (x1 - x0) * (right - left) == pytest.approx(canvas.DPI * PANEL_INCHES)
        parts = [axis] if panel.title == "regions" else [axis, next(scales)]
        for part in parts:
            box = part.get_tightbbox(renderer)
            assert left <= box.x0 and box.x1 <= right
            assert top <= size[1] - box.y1 and size[1] - box.y0 <= bottom


def test_a_given_scale_is_that_of_the_colours(drawn):
    figure, _ = drawn("evidence", scales=Scales((20.0, 40.0), 0.5))
    assert figure.axes[0].images[0].get_clim() == (20.0, 40.0)
    assert figure.axes[-1].get_xlim() == (-0.5, 0.5)
    assert canvas.DPI * PANEL_INCHES >= 480
    assert "1 % of the image" in figure.axes[-1].get_xlabel()


@pytest.mark.parametrize(
    ("scale", "ends"), [((20, 40), 0), ((26, 40), 1), ((20, 34), 1), ((26, 34), 2)]
)
def test_arrows_show_that_temperatures_lie_beyond_the_scale(drawn, scale, ends):
    figure, _ = drawn(scales=Scales(scale))
    assert len(figure.axes[1].patches) == ends


def test_thermograms_in_doubt_do_not_determine_the_scale_of_a_patient():
    def of(low, high, **fields):
        values = np.linspace(low, high, 16 * 16, dtype=np.float32).reshape(16, 16)
        return SimpleNamespace(
            celsius=True,
            picture=Picture(temperatures=values),
            evidence={},
            **({"doubts": ()} | fields),
        )

    mug = of(20, 44, doubts=("no breasts were found",))
    assert common_scales([of(25, 33), mug, of(27, 35)]) == Scales((25.0, 35.0), None)
    assert common_scales([mug]) == Scales((20.0, 44.0), None)
    assert common_scales([]) == Scales(None, None)


@pytest.mark.parametrize("panels", [1, 2, 3, 4])
def test_wrapped_text_keeps_its_words_and_uses_no_more_lines_than_it_needs(panels):
    text = canvas.wrap(SIDES_NOTE, panels=panels)
    assert text.split() == SIDES_NOTE.split()
    assert text.count("\n") == {1: 2, 2: 1, 3: 0, 4: 0}[panels]
