"""The benchmark times the real training steps; its counts agree with counts made by hand."""

import json
import textwrap

import jax
import numpy as np
import pytest
import tiny_training as tiny

from thermo_jax import main
from thermo_jax.benchmark import ahead_of_time, cases, compilation, measure, tables
from thermo_jax.benchmark.hlo import HloProgram
from thermo_jax.configs import benchmark
from thermo_jax.models.operations import NATIVE
from thermo_jax.programs.benchmark import benchmark_settings

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


@pytest.mark.parametrize(
    "trained", ["classify H/H", pytest.param("pretrain H", marks=pytest.mark.slow)]
)
def test_a_quick_run_prints_a_table_and_appends_json_lines(tmp_path, capsys, trained):
    config = benchmark.get_config("quick")
    config.cases, config.feeding = (trained, "encode H"), (trained,)
    config.mode = "shard_map"
    config.batch_size.heat = 8
    (tmp_path / "benchmark.jsonl").write_text(
        '{"case": "pretrain H", "framework": "torch", "dtype": "float32", "batch_size": 8, '
        '"images_per_s": 1.0, "ms_per_step": 8000.0, "ms_min": 7000.0, "ms_max": 9000.0}\n'
    )
    with tiny.shallow_decoders():
        main.run(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "benchmark.jsonl").read_text().splitlines()]
    ours = [row for row in rows if row["framework"] == "thermo_jax" and "compile_s" in row]
    assert [row["case"] for row in ours] == [trained, "encode H"]
    for row in ours:
        assert row["images_per_s"] == pytest.approx(8e3 / row["ms_per_step"])
        assert row["ms_min"] <= row["ms_per_step"] <= row["ms_max"]
        assert row["peak_bytes"] > 0 and row["tflops_xla"] > 0
    fed = [row for row in rows if "way" in row]
    ways = ["streamed", "resident", "dispatched together"]
    assert [row["way"] for row in fed] == [*ways, "pmap", "shard_map"]
    waits = [row["waits"] for row in fed[:3]]
    assert min(waits) == 0 and max(waits) < 1
    table = capsys.readouterr().out
    assert "torch" in table and f"{trained}, dispatched together" in table


def test_a_case_that_does_not_fit_gets_a_row_with_the_reason(tmp_path, capsys, monkeypatch):
    def measured(case, **_):
        if case.name == "pretrain H":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 3 GB too many\nstack")
        yield {"case": case.name, "batch_size": 2, "images_per_s": 1.0, "tflops": 1e-3} | {
            key: 2e3 for key in ("ms_per_step", "ms_min", "ms_max", "gb_per_s")
        }

    monkeypatch.setattr(measure, "timed_rows", measured)
    config = benchmark.get_config("quick")
    config.cases, config.feeding = ("pretrain H", "encode H"), ()
    config.batch_size.heat = 8
    large, fitting = main.run(config, tmp_path)["rows"][:2]
    assert large["why"] == "RESOURCE_EXHAUSTED: 3 GB too many" and "images_per_s" not in large
    assert fitting["images_per_s"] == 1.0
    assert "3 GB too many" in capsys.readouterr().out


def test_random_examples_are_all_different():
    config = benchmark.get_config("quick")
    case = cases.make_case(
        "segment H/H", benchmark_settings(config), dtype="bfloat16", operations=NATIVE
    )
    latents = case.random_columns(3)["latents"]
    assert latents.shape == (3, 1, 30, 40, 16) and latents.dtype == "bfloat16"
    assert len(np.unique(latents.astype(np.float32).reshape(3, -1), axis=0)) == 3
    assert latents.astype(np.float32).std(axis=-2).min() > 0


def test_a_case_name_may_specify_the_images_per_step():
    config = benchmark.get_config("quick")
    case = cases.make_case(
        "encode H:5", benchmark_settings(config), dtype="float32", operations=NATIVE
    )
    assert (case.name, case.batch_size) == ("encode H", 5)
    for images in ("0", "", "many", "-1"):
        with pytest.raises(ValueError, match="1 or more images a step after the colon"):
            cases.find_case(f"encode H:{images}")


def test_counts_made_by_hand_exist_for_the_published_sizes_only():
    config = benchmark.get_config("cpu")
    case = cases.make_case(
        "pretrain H", benchmark_settings(config), dtype="float32", operations=NATIVE
    )
    assert case.gflop_per_image == pytest.approx(31.1, abs=0.1)  # SPEC section 6
    half = cases.make_case(
        "pretrain H", benchmark_settings(config), dtype="bfloat16", operations=NATIVE
    )
    assert case.gb_per_image == 2 * half.gb_per_image
    assert half.gb_per_image == pytest.approx(0.110, abs=0.001)  # SPEC section 7
    config.num_kernels = 2
    case = cases.make_case(
        "pretrain H", benchmark_settings(config), dtype="float32", operations=NATIVE
    )
    assert case.gflop_per_image is None and case.gb_per_image is None


@pytest.mark.parametrize(
    "name", ["pretrain H", "segment H/H", "encode and segment H/H", "encode H", "predict H/H"]
)
def test_xla_counts_the_operations_that_were_counted_by_hand(name):
    config = benchmark.get_config("gpu")
    config.batch_size.heat = 2
    case = cases.make_case(name, benchmark_settings(config), dtype="float32", operations=NATIVE)
    # By hand, training is three times the forward pass; XLA omits the gradient of the input.
    assert compilation.flops(case) / 2e9 == pytest.approx(case.gflop_per_image, rel=0.07)


def test_operations_are_not_counted_where_the_cpu_is_hidden(monkeypatch):
    def hidden(**_):
        raise RuntimeError("Unknown backend cpu")

    config = benchmark.get_config("quick")
    case = cases.make_case(
        "encode H", benchmark_settings(config), dtype="float32", operations=NATIVE
    )
    monkeypatch.setattr(jax, "local_devices", hidden)
    assert compilation.flops(case) is None


def test_a_gray_encoder_on_heatmaps_costs_three_decoders():
    config = benchmark.get_config("gpu")
    one_view, three_views = (
        cases.make_case(
            f"segment {row}", benchmark_settings(config), dtype="float32", operations=NATIVE
        ).gflop_per_image
        for row in ("H/H", "G/H")
    )
    assert three_views == pytest.approx(3 * one_view)


@pytest.mark.parametrize("task", ["pretrain H", "classify H/H", "segment H/H"])
def test_augmented_cases_read_images_and_change_them(task):
    settings = benchmark_settings(benchmark.get_config("quick"))
    plain, augmented = (
        cases.make_case(name, settings, dtype="bfloat16", operations=NATIVE)
        for name in (task, f"augmented {task}")
    )
    assert "images" in augmented.columns
    step, plain_step = augmented.step.__wrapped__, plain.step.__wrapped__
    assert step.keywords["augmentation"].is_on and not plain_step.keywords["augmentation"].is_on


def test_decoders_can_read_raw_pixels():
    config = benchmark.get_config("quick")
    config.raw_pixels = True
    settings = benchmark_settings(config)
    case = cases.make_case("segment H/H", settings, dtype="float32", operations=NATIVE)
    assert case.columns["latents"].shape == (1, 30, 40, 3)


@pytest.mark.parametrize("name", ["pretrain", "pretrain X", "segment H", "train H", "encode G/H"])
def test_an_unknown_case_is_refused_with_the_known_ones(name):
    config = benchmark.get_config("quick")
    with pytest.raises(ValueError, match=f"no case '{name}'; known are"):
        cases.make_case(name, benchmark_settings(config), dtype="float32", operations=NATIVE)


def test_a_step_that_does_not_fit_is_reported_after_all_rows(monkeypatch):
    monkeypatch.setattr(ahead_of_time, "tpu_slice", lambda name: jax.devices())
    monkeypatch.setitem(ahead_of_time.CHIPS, "tiny", (1e-6, 1000, 1))
    config = benchmark.get_config("quick")
    config.cases = ("encode H",)
    settings, rows = benchmark_settings(config), []
    message = r"do not fit .*: encode H \(float32, batch 2\) on tiny:1x1; choose"
    with pytest.raises(ValueError, match=message):
        for row in ahead_of_time.tpu_rows(("tiny:1x1", "v5e:1x1"), settings):
            rows.append(row)
    tiny_chip, v5e = rows
    assert (tiny_chip["fits"], v5e["fits"]) == (False, True)
    assert tiny_chip["roofline_ms"] == pytest.approx(1e3 * tiny_chip["gb"])  # at 1 GB/s
    table = tables.text(rows).splitlines()
    assert table[1].startswith("tiny:1x1") and " NO " in table[1] and " yes " in table[2]


def test_a_chip_without_known_rates_is_refused():
    with pytest.raises(ValueError, match="'v99:2x2', only of those of v4, v5e, v5p, v6e"):
        ahead_of_time.tpu_slice("v99:2x2")


def test_collectives_are_counted_with_their_bytes():
    program = """
    ENTRY %main (x: f32[16,2]) -> f32[16,2] {
      %a = f32[16,2]{1,0} all-reduce(%x), replica_groups={}
      ROOT %b = (f32[4]{0}, bf16[2]{0}) all-reduce-start(%y, %z), channel_id=1
      %c = u8[8,3]{1,0} all-gather(%w), dimensions={0}
      %d = f32[16,2]{1,0} add(%a, %a)
    }
    """
    assert HloProgram(textwrap.dedent(program)).collectives() == {
        "all-gather": {"count": 1, "bytes": 24},
        "all-reduce": {"count": 2, "bytes": 128 + 16 + 4},
    }


def test_the_bytes_that_devices_send_do_not_grow_with_their_number(tmp_path):
    config = benchmark.get_config("collectives")
    config.cases = ("pretrain H",)
    config.num_kernels = 2
    config.device_counts = (2, 8)
    rows = main.run(config, tmp_path)["rows"]
    two, eight = (row["collectives"] for row in rows)
    assert two == eight
    assert set(two) == {"all-reduce"}


def test_more_devices_than_available_are_refused(tmp_path):
    config = benchmark.get_config("collectives")
    config.device_counts = (1, 1000)
    with pytest.raises(ValueError, match="XLA_FLAGS=--xla_force_host_platform_device_count=1000"):
        main.run(config, tmp_path)
