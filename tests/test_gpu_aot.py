"""The preset that compiles the real steps for an H200 on a machine without a GPU."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from thermo_jax import main
from thermo_jax.benchmark import ahead_of_time, tables
from thermo_jax.configs import benchmark

# Limits of each step: kernels, convolutions, MB per image. They are 2 % above the values of
# 2026-11-28 (JAX 0.11.2).
CEILINGS = {
    "pretrain H": (131, 11, 94.5),
    "segment H/H": (403, 53, 329),
    "predict H/H": (101, 22, 132.5),
    "pretrain G": (131, 11, 1475),
}


@pytest.mark.slow
def test_no_step_exceeds_its_limits_of_kernels_and_bytes(tmp_path):
    pytest.importorskip(
        "jax_cuda13_plugin",
        reason="JAX's plugin for CUDA 13 is absent (3.5 GB): pip install '.[cuda13]'",
    )
    cases = f"--config.cases={tuple(CEILINGS)}"
    command = [sys.executable, "-m", "thermo_jax.main", "--config=benchmark:gpu_aot", cases]
    command += [f"--workdir={tmp_path}", "--config.gpus=(1,)", "--config.biggest=1"]
    subprocess.run(command, check=True, timeout=900, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    rows = [json.loads(line) for line in (tmp_path / "benchmark.jsonl").read_text().splitlines()]
    assert [row["case"] for row in rows] == list(CEILINGS)
    for row in rows:
        kernels, convolutions, mb_per_image = CEILINGS[row["case"]]
        assert row["kernels"] <= kernels, row
        assert row["convolutions"] <= convolutions, row
        assert row["mb_per_image"] <= mb_per_image, row


def test_without_the_plugin_one_line_says_what_to_install(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: find(name) if "cuda13" not in name else None
    )
    config = benchmark.get_config("gpu_aot")
    with pytest.raises(ValueError, match=r"not installed: pip install '\.\[cuda13\]' \(3\.5 GB"):
        main.run(config, tmp_path)


def test_zero_gpus_are_refused():
    with pytest.raises(
        ValueError, match="config.gpus names 0 GPUs: every number must be at least 1"
    ):
        ahead_of_time.h200s(0)


def row(gpus, **changes):
    kernel = {"us": 9.5, "mb_read": 1.0, "mb_written": 2.0, "gflop": 3.0, "kind": "product"}
    return {
        "case": "pretrain H",
        "dtype": "bfloat16",
        "gpus": gpus,
        "batch_size": 64,
        "kernels": 125,
        "convolutions": 11,
        "different_convolutions": 11,
        "gb": 5.9,
        "mb_per_image": 92.25,
        "floor_ms": 3.3,
        "images_per_s_at_most": 19_000.0,
        "peak_bytes": 1.2e9,
        "all_reduces": 9,
        "exposed_bytes": [1_000_000, 500_000],
        "biggest": [kernel | {"shape": "f32[8]{0}", "source": "encoder/dot"}],
    } | changes


def test_the_table_shows_exposed_all_reduces_of_several_gpus_and_the_biggest_kernels():
    one_gpu, kernel, eight_gpus, _ = tables.text([row(1), row(8)]).splitlines()[1:]
    assert one_gpu.split()[:4] == ["1", "pretrain", "H", "bfloat16"] and " of " not in one_gpu
    assert "9.5 us" in kernel and kernel.endswith("encoder/dot")
    assert eight_gpus.split()[-5:] == ["2", "of", "9", "1.5", "MB"]


def test_the_table_of_timed_steps_leaves_out_steps_that_were_only_compiled():
    assert tables.text([row(1)], "speed") == ""
