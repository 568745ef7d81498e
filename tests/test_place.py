"""A decoder learns the same from latents or images, on the devices or in host memory."""

import functools
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
import tiny_training as tiny
from example_tables import table

from thermo_jax.models.frozen import FrozenEncoder, init
from thermo_jax.programs import decoder
from thermo_jax.training import loop, train_decoder
from thermo_jax.training.metrics_log import METRICS, read_jsonl
from thermo_jax.training.placement import Placement
from thermo_jax.training.resident import ResidentSet, num_rows

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)

# 25 images: 0.03 MB, targets 0.04 MB; their latents 0.6 MB in float32, 0.3 MB in bfloat16.
COUNTS = {"train": 14, "validation": 6, "test": 5}
BUDGETS_GB = {"latents": 1e-3, "images": 2e-4, "streamed": 0.0}
ENCODER_RUNS = "The encoder runs in every step."
MESSAGES = {
    "latents": ["Encoding 25 images once (0.00 GB)."],
    "images": [ENCODER_RUNS],
    "streamed": ["Images are sent to the devices in every step.", ENCODER_RUNS],
}


class Placed(NamedTuple):
    """What `place` returns and logs, and the metrics of an epoch of training on it."""

    tables: dict[str, dict]
    resident: bool
    messages: list[str]
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    """Return a cached function of (way, compute type) that trains an epoch on two devices."""
    total = sum(COUNTS.values())
    examples = table([f"patient{i}" for i in range(total)], **tiny.columns(total))
    rows = np.split(np.random.default_rng(0).permutation(total), np.cumsum([*COUNTS.values()])[:-1])
    sets = dict(zip(COUNTS, rows, strict=True))
    parallel, tx = tiny.devices(2), optax.sgd(0.05)  # Adam would amplify rounding
    with tiny.shallow_decoders():
        state = tiny.decoder_trainer("segment", tx=tx).state

    @functools.cache
    def get(way: str, dtype: str = "float32") -> Placed:
        config = tiny.decoder_config("segment", dtype=dtype)
        placement = Placement(parallel=parallel, dtype=dtype, resident_gb=BUDGETS_GB[way])
        encoder = tiny.frozen_encoder("heat", dtype=dtype).with_variables(state.frozen)
        with pytest.MonkeyPatch.context() as patch:
            messages = []
            patch.setattr(decoder.logging, "info", lambda text, *args: messages.append(text % args))
            tables, resident = decoder.place(
                examples,
                sets,
                target="label_maps",
                encoder=encoder,
                batch_size=tiny.BATCH_SIZE,
                placement=placement,
            )
        models = {
            "encoder": encoder.module,
            "decoder": tiny.make_decoder(config),
        }
        workdir = tmp_path_factory.mktemp(way)
        map_step = partial(placement.map_step, resident=resident)
        loop.fit(
            parallel.replicate(state),
            train_step=map_step(partial(train_decoder.train_step, tx=tx, **models), role="train"),
            eval_step=map_step(partial(train_decoder.eval_step, **models), role="eval"),
            train=tables["train"],
            validation=tables["validation"],
            names=[examples.names[row] for row in sets["train"]],
            plan=tiny.plan(epochs=1),
            parallel=parallel,
            workdir=workdir,
            encoder_of=lambda state: state.frozen,
            meta=tiny.META,
        )
        (row,) = read_jsonl(workdir / METRICS)
        return Placed(tables, resident, messages, row)

    with tiny.shallow_decoders():
        yield get


@pytest.mark.parametrize("way", BUDGETS_GB)
def test_the_first_way_that_the_budget_allows_is_used_and_logged(placed, way):
    result = placed(way)
    known = sum(MESSAGES.values(), [])
    assert [text for text in result.messages if text in known] == MESSAGES[way]
    assert result.resident == (way != "streamed")
    inputs = "latents" if way == "latents" else "images"
    for role, count in COUNTS.items():
        placed_set = result.tables[role]
        assert num_rows(placed_set) == count
        assert isinstance(placed_set, ResidentSet) == result.resident
        columns = placed_set.columns if result.resident else placed_set
        assert set(columns) == {inputs, "label_maps"}


@pytest.mark.parametrize("way", ["latents", "images"])
def test_in_float32_training_gives_the_same_metrics_wherever_its_inputs_are(placed, way):
    assert placed(way).metrics == pytest.approx(placed("streamed").metrics, rel=1e-5)


def test_in_bfloat16_latents_are_rounded_once_and_training_gives_nearly_the_same(placed):
    kept = placed("latents", "bfloat16")
    assert kept.tables["train"].columns["latents"].dtype == jax.numpy.bfloat16
    streamed = placed("streamed", "bfloat16")
    assert kept.metrics == pytest.approx(streamed.metrics, rel=0.02)


def place_four(encoder, *, gb=BUDGETS_GB["latents"], **settings):
    examples = table([f"patient{i}" for i in range(4)], **tiny.columns(4))
    return decoder.place(
        examples,
        {"train": np.arange(4)},
        target="label_maps",
        encoder=encoder,
        batch_size=tiny.BATCH_SIZE,
        placement=Placement(parallel=tiny.devices(1), resident_gb=gb),
        **settings,
    )


@pytest.fixture
def messages(monkeypatch):
    """Return the list of messages that `place` logs from now on."""
    logged = []
    monkeypatch.setattr(decoder.logging, "info", lambda text, *args: logged.append(text % args))
    return logged


def test_images_that_steps_change_are_kept_instead_of_latents_that_would_fit(messages):
    tables, resident = place_four(tiny.frozen_encoder("heat"), cache_latents=False)
    assert resident and set(tables["train"].columns) == {"images", "label_maps"}
    assert ENCODER_RUNS in messages


@pytest.mark.parametrize(("cache_latents", "gb"), [(True, 1e-3), (True, 1e-9), (False, 1e-3)])
def test_of_raw_pixels_no_message_says_that_an_encoder_runs(cache_latents, gb, messages):
    raw = FrozenEncoder.abstract({"data_type": "heat", "kind": "none"})
    raw = raw.with_variables(init(raw.module, rng=jax.random.key(0)))
    tables, resident = place_four(raw, cache_latents=cache_latents, gb=gb)
    assert resident == (gb == 1e-3)
    columns = tables["train"].columns if resident else tables["train"]
    assert ("latents" in columns) == (cache_latents and resident)
    assert resident or "Images are sent to the devices in every step." in messages
    assert not any(word in " ".join(messages).lower() for word in ("encod", "latents"))
