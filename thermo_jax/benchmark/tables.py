"""The rows of benchmark.jsonl as text: one table for each kind of row."""

from collections.abc import Callable, Sequence
from typing import Any

from thermo_jax.training import xla_flags

Row = dict[str, Any]

# Kind of row -> the field that identifies it, and the layout of its table (see `text_table`). A row
# belongs to the first kind whose field it has; the tables are shown in the same order.
_KINDS = {
    "kernels": ("busy_us_per_step", "us/step {us:.4g} | calls/step {calls:.3g} | kernel {name}"),
    "tpu": (
        "topology",
        "chip {topology} | case {case} | type {dtype} | batch {batch_size:d} | fits {fits} | "
        "peak GB {peak_gb:.2f} | TFLOP {tflop:.3g} | GB {gb:.4g} | MB/image {mb_per_image:.4g} | "
        "roofline ms {roofline_ms:.3g} | images/s < {images_per_s_at_most:,.0f}",
    ),
    "gpu": (
        "gpus",
        "H200 {gpus:d} | case {case} | type {dtype} | batch {batch_size:d} | kernels {kernels:d} | "
        "convolutions {convolutions:d} | different {different_convolutions:d} | GB {gb:.4g} | "
        "MB/image {mb_per_image:.4g} | floor ms {floor_ms:.3g} | "
        "images/s < {images_per_s_at_most:,.0f} | peak GB {peak_gb:.2f} | "
        "exposed all-reduces {exposed}",
    ),
    "collectives": (
        "collectives",
        "case {case} | devices {devices:d} | collectives of one step, on each device {sent}",
    ),
    "precision": (
        "errors",
        "one step against the CPU {case} | type {dtype} | loss {errors[loss]:.1e} | "
        "gradients {errors[gradients]:.1e} | statistics {errors[statistics]:.1e}",
    ),
    "feeding": (
        "way",
        "how a step is fed {case}, {way} | ms/step {ms_per_step:.4g} | spread {spread:.0%} | "
        "device waits {waits:.0%}",
    ),
    "speed": (
        "framework",
        "case {case} | by {framework} | type {dtype} | batch {batch_size:d} | "
        "images/s {images_per_s:.4g} | ms/step {ms_per_step:.4g} | spread {spread:.0%} | "
        "compile s {compile_s:.1f} | TFLOP/s {tflops:.3g} | of matrix {share_of_matrix:.0%} | "
        "of copy {share_of_copy:.0%} | peak GB {peak_gb:.2f} | graph {graph}",
    ),
}


def text_table(
    layout: str, rows: Sequence[Row], *, below: Callable[[Row], Sequence[str]] = lambda row: ()
) -> str:
    """Aligned columns under their titles; a row's "why" follows its last value.

    Args:
      layout: each column's title and format, such as "case {case} | ms/step {ms:.1f}". A format
        with a colon is that of a number. A value that is missing or None is shown as "-", or not at
        all if the row's "why" gives the reason.
      below: `below(row)` returns more lines, which follow the row.
    """
    aligned = []
    for column in layout.split(" | "):
        title, _, form = column.partition(" {")
        cells = [title, *(_cell("{" + form, row) for row in rows)]
        align = f"{'>' if ':' in form else '<'}{max(map(len, cells))}"
        aligned.append([f"{cell:{align}}" for cell in cells])
    title, *lines = ("  ".join(cells).rstrip() for cells in zip(*aligned, strict=True))
    parts = [title]
    for row, line in zip(rows, lines, strict=True):
        parts += [f"{line}  {row['why']}" if "why" in row else line, *below(row)]
    return "\n".join(parts)


def _cell(form: str, row: Row) -> str:
    try:
        return form.format_map(row)
    except (KeyError, TypeError):  # missing, or None as a number
        return "" if "why" in row else "-"


def _with_texts(row: Row) -> Row:
    """The row, and the fields that only its table shows."""
    more = {"sent": "none"}
    if "ms_max" in row:
        more["spread"] = (row["ms_max"] - row["ms_min"]) / row["ms_per_step"]
    if row.get("peak_bytes"):
        more["peak_gb"] = row["peak_bytes"] / 1e9
    if "tflops_xla" in row:
        more["tflops"] = row["tflops_xla"]
    if "fits" in row:
        more["fits"] = "yes" if row["fits"] else "NO"
    if row.get("gpus", 1) > 1 and "exposed_bytes" in row:
        sizes = row["exposed_bytes"]
        more["exposed"] = f"{len(sizes)} of {row['all_reduces']}"
        more["exposed"] += f"  {sum(sizes) / 1e6:.3g} MB" if sizes else ""
    if kinds := row.get("collectives"):
        sent = (f"{x['count']} {kind}, {x['bytes'] / 1e6:.3g} MB" for kind, x in kinds.items())
        more["sent"] = "; ".join(sent)
    if row.get("platform") == "gpu" and "why" not in row:
        more["graph"] = xla_flags.graphs(row.get("flags") or "")
        if row.get("framework") == "torch":
            more["graph"] = "one" if "one CUDA graph" in row["how"] else row["how"]
    return row | more


def text(rows: Sequence[Row], *kinds: str) -> str:
    """The tables of the rows, and the devices on which they were measured.

    Args:
      kinds: some of "kernels", "tpu", "gpu", "collectives", "precision", "feeding" and "speed";
        none means all. A kind without rows has no table.
    """
    by_kind = {kind: [] for kind in _KINDS}
    for row in rows:
        kind = next((kind for kind, (field, _) in _KINDS.items() if field in row), None)
        if kind in (kinds or _KINDS):
            by_kind[kind].append(_with_texts(row))
    tables = [_kernels(row) for row in by_kind.pop("kernels")]
    tables += [
        text_table(_KINDS[kind][1], chosen, below=_biggest)
        for kind, chosen in by_kind.items()
        if chosen
    ]
    measured = [row for chosen in by_kind.values() for row in chosen if "platform" in row]
    if devices := dict.fromkeys(f"{row['device']} ({row['platform']})" for row in measured):
        tables.append(f"on {'; '.join(devices)}")
    return "\n\n".join(tables)


def _kernels(row: Row) -> str:
    kernels = [{"name": name, "calls": calls, "us": us} for name, calls, us in row["kernels"]]
    return (
        f"{row['case']}, {row['batch_size']} images a step: {row['kernels_per_step']:.4g} kernels "
        f"and {row['busy_us_per_step']:.4g} us a step; the biggest:\n"
        + text_table(_KINDS["kernels"][1], kernels)
    )


def _biggest(row: Row) -> list[str]:
    """The biggest kernels of a step that was compiled for a GPU."""
    line = (
        "      {us:>8.1f} us {mb_read:>7.1f} MB read {mb_written:>7.1f} written "
        "{gflop:>6.1f} GFLOP  {kind:<28}{shape:<45.44}"
    )
    return [line.format_map(kernel) + kernel["source"][-60:] for kernel in row.get("biggest", ())]
