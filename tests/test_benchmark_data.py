"""launch/benchmark_data.py: it runs, and its tables are about what they say."""

import sys
from pathlib import Path

import pytest

from thermo_jax.data import phantom

pytest.importorskip("tensorflow_datasets")
sys.path.insert(0, str(Path(__file__).parents[1] / "launch"))
import benchmark_data  # noqa: E402


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return phantom.write_phantom(tmp_path_factory.mktemp("benchmark") / "data", patients=8)


@pytest.fixture
def run(root, cache, monkeypatch, capsys):
    """Runs the program; returns the cells of its table's rows."""
    monkeypatch.setattr(
        benchmark_data, "COLUMNS", {"both": benchmark_data.COLUMNS["heat and gray"]}
    )
    monkeypatch.setattr(benchmark_data, "STEPS_MS", (2,))
    monkeypatch.setattr(benchmark_data, "keep_freed_memory", lambda: None)

    def run(what, *arguments):
        monkeypatch.setattr(
            sys, "argv", ["benchmark_data.py", what, f"--root={root}", "--batch_size=2", *arguments]
        )
        benchmark_data.main()
        lines = capsys.readouterr().out.splitlines()
        rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
        return lines, rows[1:]

    return run


def test_the_speed_of_each_loader_is_measured_cold_and_warm(run):
    _, rows = run("speed")
    assert [row[:3] for row in rows] == [
        ["both", files, loader] for loader in ("tf.data", "numpy") for files in ("cold", "warm")
    ]
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[3:6])


def test_a_step_of_known_length_limits_the_speed(run):
    _, rows = run("wait")
    assert [row[:3] for row in rows] == [["both", loader, "2"] for loader in ("tf.data", "numpy")]
    assert all(0 < float(row[4].replace(",", "")) <= 2 / 0.002 for row in rows)


def test_the_memory_is_shown_for_rows_that_repeat_the_images(run):
    lines, rows = run("memory", "--columns=both", "--rows=40")
    size = 40 * (480 * 640 + 120 * 160 * 3)
    assert lines[0] == f"40 rows of both: {size / 1e9:.1f} GB in memory"
    assert [row[0] for row in rows] == ["2", *(str(4 * part) for part in range(1, 11))]
