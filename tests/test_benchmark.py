"""The benchmark runs the product's steps; its counts are checked against hand-made ones."""

import json

import jax
import pytest
import tiny_training as tiny

from thermo_jax import main
from thermo_jax.benchmark import cases, collectives, measure
from thermo_jax.configs import benchmark
from thermo_jax.training.parallel import DataParallel

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)


def test_a_quick_run_prints_a_table_and_appends_json_lines(tmp_path, capsys):
    config = benchmark.get_config("quick")
    config.cases = ("pretrain H", "encode H")
    config.mode = "shard_map"
    config.batch_size.heat = 8
    (tmp_path / "benchmark.jsonl").write_text(
        '{"case": "pretrain H", "framework": "torch", "dtype": "float32", "batch_size": 8, '
        '"images_per_s": 1.0, "ms_per_step": 8000.0, "ms_min": 7000.0, "ms_max": 9000.0}\n'
    )
    main.run(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "benchmark.jsonl").read_text().splitlines()]
    ours = [row for row in rows if row["framework"] == "thermo_jax" and "ms_min" in row]
    assert [row["case"] for row in ours] == ["pretrain H", "encode H"]
    for row in ours:
        assert row["images_per_s"] == pytest.approx(8e3 / row["ms_per_step"])
        assert row["ms_min"] <= row["ms_per_step"] <= row["ms_max"]
        assert row["peak_bytes"] > 0 and row["tflops_xla"] > 0
    ways = {row["way"]: row["waits"] for row in rows if "way" in row}
    assert set(ways) == {"streamed", "resident", "dispatched together"}
    table = capsys.readouterr().out
    assert "torch" in table and "dispatched together" in table


def test_hand_counts_are_those_of_the_published_sizes_only():
    config = benchmark.get_config("cpu")
    case = cases.make_case("pretrain H", config, dtype="float32", conv=None)
    assert case.gflop_per_image == pytest.approx(31.1, abs=0.1)  # SPEC section 6
    half = cases.make_case("pretrain H", config, dtype="bfloat16", conv=None)
    assert case.gb_per_image == 2 * half.gb_per_image
    assert half.gb_per_image == pytest.approx(0.110, abs=0.001)  # SPEC section 7
    config.num_kernels = 2
    case = cases.make_case("pretrain H", config, dtype="float32", conv=None)
    assert case.gflop_per_image is None and case.gb_per_image is None


@pytest.mark.parametrize("name", ["pretrain H", "segment H/H", "encode H", "predict H/H"])
def test_xla_counts_the_operations_that_were_counted_by_hand(name):
    config = benchmark.get_config("gpu")
    config.batch_size.heat = 1
    case = cases.make_case(name, config, dtype="float32", conv=None)
    state = jax.eval_shape(case.make_state)
    # By hand, training is three times the forward pass; nobody needs the gradient of an input.
    counted = measure.flops(case, state, parallel=DataParallel(jax.devices()[:1]))
    assert counted / 1e9 == pytest.approx(case.gflop_per_image, rel=0.07)


def test_a_gray_encoder_on_heatmaps_costs_three_decoders():
    config = benchmark.get_config("gpu")
    one, three = (
        cases.make_case(f"segment {row}", config, dtype="float32", conv=None).gflop_per_image
        for row in ("H/H", "G/H")
    )
    assert three == pytest.approx(3 * one)


@pytest.mark.parametrize("name", ["pretrain", "pretrain X", "segment H", "train H", "encode G/H"])
def test_an_unknown_case_is_refused_with_the_known_ones(name):
    config = benchmark.get_config("quick")
    with pytest.raises(ValueError, match=f"no case '{name}'; known are"):
        cases.make_case(name, config, dtype="float32", conv=None)


def test_collectives_are_counted_with_their_bytes():
    program = """
      %a = f32[16,2]{1,0} all-reduce(%x), replica_groups={}
      ROOT %b = (f32[4]{0}, bf16[2]{0}) all-reduce-start(%y, %z), channel_id=1
      %c = u8[8,3]{1,0} all-gather(%w), dimensions={0}
      %d = f32[16,2]{1,0} add(%a, %a)
    """
    assert collectives.count_collectives(program) == {
        "all-gather": {"count": 1, "bytes": 24},
        "all-reduce": {"count": 2, "bytes": 128 + 16 + 4},
    }


def test_what_devices_send_does_not_grow_with_their_number(tmp_path):
    config = benchmark.get_config("collectives")
    config.cases = ("pretrain H",)
    config.num_kernels = 2
    config.device_counts = (2, 8)
    rows = main.run(config, tmp_path)["rows"]
    two, eight = (row["collectives"] for row in rows)
    assert two == eight
    assert set(two) == {"all-reduce"}


def test_more_devices_than_there_are_are_refused(tmp_path):
    config = benchmark.get_config("collectives")
    config.device_counts = (1, 1000)
    with pytest.raises(ValueError, match="XLA_FLAGS=--xla_force_host_platform_device_count=1000"):
        main.run(config, tmp_path)
