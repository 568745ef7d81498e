"""The rows of benchmark.jsonl for reading."""

from collections.abc import Sequence
from typing import Any

from thermo_jax.benchmark import profiling
from thermo_jax.training import xla_flags


def throughput_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for reading, and below them how steps are fed."""
    header = f"{'case':<24} {'by':<11} {'type':<14}{'batch':>6}{'images/s':>10}{'ms/step':>10}"
    header += f"{'spread':>8}{'compile':>9}{'TFLOP/s':>9}"
    header += f"{'of matrix':>10}{'of copy':>8}{'peak GB':>9}  graph"
    lines = [header]
    for row in rows:
        if "batch_size" not in row or not {"images_per_s", "why"} & set(row):
            continue
        what = f"{row['case']:<24} {row['framework']:<11} {row['dtype']:<14}{row['batch_size']:>6}"
        if "why" in row:
            lines.append(f"{what}  {row['why']}")
            continue
        tflops = row.get("tflops") or row.get("tflops_xla")
        lines.append(
            f"{what}{row['images_per_s']:>10.4g}{row['ms_per_step']:>10.4g}{_spread(row):>8.0%}"
            f"{_number(row.get('compile_s'), '9.1f')}{_number(tflops, '9.3g')}"
            f"{_number(row.get('share_of_matrix'), '10.0%')}"
            f"{_number(row.get('share_of_copy'), '8.0%')}"
            f"{_number(row.get('peak_bytes') and row['peak_bytes'] / 1e9, '9.2f')}"
            f"  {_graph(row)}"
        )
    fed = [row for row in rows if "way" in row]
    if fed:
        lines += ["", f"{'how a step is fed':<45}{'ms/step':>10}{'spread':>8}{'device waits':>14}"]
    for row in fed:
        lines.append(
            f"{row['case'] + ', ' + row['way']:<45}{row['ms_per_step']:>10.4g}{_spread(row):>8.0%}"
            f"{_number(row.get('waits'), '14.0%')}"
        )
    if profiles := profiling.table(rows):
        lines += ["", profiles]
    devices = {(row["device"], row["platform"]) for row in rows if "platform" in row}
    if devices:
        lines.append("\non " + "; ".join(f"{device} ({platform})" for device, platform in devices))
    return "\n".join(lines)


def _spread(row: dict[str, Any]) -> float:
    return (row["ms_max"] - row["ms_min"]) / row["ms_per_step"]


def _number(value: float | None, form: str) -> str:
    width = int(form.split(".")[0])
    return f"{'-':>{width}}" if value is None else f"{value:>{form}}"


def _graph(row: dict[str, Any]) -> str:
    """Whether a dispatch on a GPU is one CUDA graph, by XLA's flags or PyTorch's own word."""
    if row.get("platform") != "gpu":
        return "-"
    if row["framework"] == "torch":
        return "one" if "one CUDA graph" in row["how"] else row["how"]
    return xla_flags.graphs(row.get("flags", ""))
