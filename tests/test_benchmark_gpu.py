"""The benchmark's functions for GPUs, tested on the CPU."""

import os
import re
import subprocess
import sys

import jax
import pytest
import tiny_training as tiny
from conftest import ROOT

from thermo_jax import main
from thermo_jax.benchmark import cases, compare, compilation, measure, tables
from thermo_jax.configs import benchmark
from thermo_jax.models.operations import NATIVE
from thermo_jax.programs.benchmark import benchmark_settings
from thermo_jax.training import xla_flags
from thermo_jax.training.parallel import DataParallel

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
TIMES = {"images_per_s": 8.0, "ms_per_step": 2.0, "ms_min": 1.0, "ms_max": 3.0}


def test_the_gpu_preset_has_five_bfloat16_cases_and_does_not_time_the_host():
    config = benchmark.get_config("gpu")
    made = [
        cases.make_case(
            name, benchmark_settings(config), dtype=dtype, operations=NATIVE, platform="gpu"
        )
        for dtype in config.dtypes
        for name in config.cases
    ]
    assert config.dtypes == ("bfloat16",) and not config.feeding
    assert [(case.name, case.batch_size) for case in made] == [
        ("pretrain H", 64),
        ("segment H/H", 64),
        ("pretrain H", 16),
        ("segment H/H", 16),
        ("pretrain G", 16),
    ]
    assert set(config.profiled) < set(config.cases)


def test_each_case_is_timed_and_written_before_the_next_is_compiled(tmp_path, monkeypatch):
    events = []

    class Program:
        steps, run, compiled, compile_s = 1, None, None, 0.0

        def __init__(self, case, **_):
            written = len((tmp_path / "benchmark.jsonl").read_text().splitlines()) if events else 0
            events.append(("compiled", written))
            if case.batch_size == 16:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: much too large\nstack")

    def times(*_, **__):
        events.append("timed")
        return {key: value for key, value in TIMES.items() if key.startswith("ms_")}

    monkeypatch.setattr(measure, "Program", Program)
    monkeypatch.setattr(measure, "_times", times)
    monkeypatch.setattr(measure, "peak_bytes", lambda compiled: 0)
    monkeypatch.setattr(measure, "matrix_ceiling", lambda *_, **__: 1.0)
    monkeypatch.setattr(measure, "copy_ceiling", lambda *_, **__: 1.0)
    config = benchmark.get_config("quick")
    config.cases, config.feeding = ("encode H:8", "encode H:16", "encode H:24"), ()
    rows = main.run(config, tmp_path)["rows"]
    assert events == [("compiled", 0), "timed", ("compiled", 1), ("compiled", 2), "timed"]
    assert [row.get("why") for row in rows] == [None, "RESOURCE_EXHAUSTED: much too large", None]
    assert rows[0]["flags"] == os.environ["XLA_FLAGS"]


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_the_kernels_of_a_step_are_listed_with_their_times(mode):
    config = benchmark.get_config("quick")
    settings = benchmark_settings(config)
    case = cases.make_case("encode H:8", settings, dtype="float32", operations=NATIVE)
    parallel = DataParallel(jax.devices()[:1], mode=mode)
    program = compilation.Program(case, parallel=parallel, steps_per_dispatch=2)
    row = measure.profile(program)
    assert (row["case"], row["batch_size"]) == ("encode H", 8)
    assert 0 < len(row["kernels"]) <= measure.MOST_KERNELS
    assert any("conv" in name for name, _, _ in row["kernels"])
    assert row["busy_us_per_step"] >= sum(took for _, _, took in row["kernels"]) > 0
    name, calls, took = row["kernels"][0]
    line = tables.text([row]).splitlines()[2]
    assert line.split() == [f"{took:.4g}", f"{calls:.3g}", *name.split()]
    assert tables.text([row], "speed") == ""


@pytest.mark.slow
def test_one_step_in_each_type_is_compared_with_float32_on_the_cpu(tmp_path, capsys):
    config = benchmark.get_config("against_cpu")
    config.cases, config.num_kernels = ("pretrain H:2",), 2
    full, tf32, half = main.run(config, tmp_path)["rows"]
    assert [row["dtype"] for row in (full, tf32, half)] == list(config.dtypes)
    for part in ("loss", "gradients", "statistics"):
        # The error of our CPU convolution against XLA's; the CPU computes TF32 as float32.
        assert 0 <= full["errors"][part] == tf32["errors"][part] < 1e-4
        assert 1e-4 < half["errors"][part] < 0.5
    assert re.search("^pretrain H:2 +bfloat16 ", capsys.readouterr().out, re.MULTILINE)


def test_nothing_is_compared_where_the_cpu_is_hidden(monkeypatch):
    def local_devices(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", local_devices)
    settings = benchmark_settings(benchmark.get_config("against_cpu"))
    with pytest.raises(ValueError, match="JAX_PLATFORMS hides: unset it, or add ',cpu'"):
        next(compare.precision_rows(settings, conv="auto"))


def test_the_table_shows_whether_a_dispatch_is_one_graph():
    def row(**about):
        case = {"case": "pretrain H", "dtype": "bfloat16", "batch_size": 64, "device": "a chip"}
        return case | TIMES | about

    ours = {"framework": "thermo_jax", "platform": "gpu"}
    rows = [
        row(**ours, flags=f"--xla_dump_to=/x {xla_flags.ONE_GRAPH}"),
        row(**ours, flags=xla_flags.XLA_GRAPHS),
        row(**ours, flags=""),
        row(**ours, flags="--xla_gpu_enable_command_buffer="),
        row(framework="torch", platform="gpu", how="compiled, one CUDA graph"),
        row(framework="thermo_jax", platform="cpu", flags=xla_flags.ONE_GRAPH),
    ]
    lines = tables.text(rows).splitlines()[1:7]
    graphs = [line.rpartition("  ")[2] for line in lines]
    assert graphs == ["one", "XLA's own", "XLA's own", "no graphs", "one", "-"]


def test_a_benchmark_imports_no_tensorflow(tmp_path):
    code = f"""
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None  # importing them fails
from thermo_jax import main
from thermo_jax.configs import benchmark
config = benchmark.get_config("quick")
config.cases, config.feeding, config.dtypes = ("encode H",), (), ("bfloat16",)
main.run(config, {str(tmp_path)!r})
assert not [name for name in sys.modules if name.startswith(("tensorflow.", "tensorboard."))]
"""
    environment = os.environ | tiny.QUICK_COMPILATION
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "encode H" in done.stdout
