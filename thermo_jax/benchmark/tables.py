"""The rows of benchmark.jsonl as text: one table for each kind of row."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from thermo_jax.training import xla_flags

Row = dict[str, Any]


class Column(NamedTuple):
    """A column of a text table.

    Attributes:
      title: its heading.
      value: a field of the rows, or a function of a row.
      form: the format of a number; "" for text, which is aligned to the left.
      scale: a factor for numbers.
    """

    title: str
    value: str | Callable[[Row], Any]
    form: str = ""
    scale: float = 1

    def cell(self, row: Row) -> str:
        """The value as text; "-" if the row has none, or "" if its "why" gives the reason."""
        value = row.get(self.value) if isinstance(self.value, str) else self.value(row)
        if value is None:
            return "" if "why" in row else "-"
        return f"{value * self.scale:{self.form}}" if self.form else str(value)


def text_table(
    columns: Sequence[Column], rows: Sequence[Row], *, below: Callable = lambda row: ()
) -> str:
    """Aligned columns under their titles; a row's "why" follows its last value.

    Args:
      below: `below(row)` returns more lines, which follow the row.
    """
    aligned = []
    for column in columns:
        cells = [column.title, *(column.cell(row) for row in rows)]
        align = f"{'>' if column.form else '<'}{max(map(len, cells))}"
        aligned.append([f"{cell:{align}}" for cell in cells])
    title, *lines = ("  ".join(cells).rstrip() for cells in zip(*aligned, strict=True))
    parts = [title]
    for row, line in zip(rows, lines, strict=True):
        parts += [f"{line}  {row['why']}" if "why" in row else line]
        parts += below(row) if below else []
    return "\n".join(parts)


def _spread(row: Row) -> float | None:
    return (row["ms_max"] - row["ms_min"]) / row["ms_per_step"] if "ms_max" in row else None


def _graph(row: Row) -> str | None:
    """Whether a dispatch on a GPU is one CUDA graph, from XLA's flags or PyTorch's row."""
    if row.get("platform") != "gpu" or "why" in row:
        return None
    if row["framework"] == "torch":
        return "one" if "one CUDA graph" in row["how"] else row["how"]
    return xla_flags.graphs(row.get("flags", ""))


def _exposed(row: Row) -> str | None:
    sizes = row["exposed_bytes"]
    text = f"{len(sizes)} of {row['all_reduces']}" + (f"  {sum(sizes) / 1e6:.3g} MB" * bool(sizes))
    return text if row["gpus"] > 1 else None


def _collectives(row: Row) -> str:
    kinds = row["collectives"].items()
    texts = [f"{counts['count']} {kind}, {counts['bytes'] / 1e6:.3g} MB" for kind, counts in kinds]
    return "; ".join(texts) or "none"


_CASE, _TYPE = Column("case", "case"), Column("type", "dtype")
_BATCH, _PEAK = Column("batch", "batch_size", "d"), Column("peak GB", "peak_bytes", ".2f", 1e-9)
_MS, _SPREAD = Column("ms/step", "ms_per_step", ".4g"), Column("spread", _spread, ".0%")
_GB, _MB = Column("GB", "gb", ".4g"), Column("MB/image", "mb_per_image", ".4g")
_LIMIT = Column("images/s <", "images_per_s_at_most", ",.0f")

_SPEED = (_CASE, Column("by", "framework"), _TYPE, _BATCH)
_SPEED += (Column("images/s", "images_per_s", ".4g"), _MS, _SPREAD)
_SPEED += (Column("compile s", "compile_s", ".1f"),)
_SPEED += (Column("TFLOP/s", lambda row: row.get("tflops") or row.get("tflops_xla"), ".3g"),)
_SPEED += (Column("of matrix", "share_of_matrix", ".0%"), Column("of copy", "share_of_copy", ".0%"))
_SPEED += (_PEAK, Column("graph", _graph))

_FEEDING = (Column("how a step is fed", lambda row: f"{row['case']}, {row['way']}"), _MS, _SPREAD)
_FEEDING += (Column("device waits", "waits", ".0%"),)

_KERNELS = (Column("us/step", "us", ".4g"), Column("calls/step", "calls", ".3g"))
_KERNELS += (Column("kernel", "name"),)

_PRECISION = (Column("one step against the CPU", "case"), _TYPE)
_PRECISION += tuple(
    Column(part, lambda row, part=part: row["errors"][part], ".1e")
    for part in ("loss", "gradients", "statistics")
)

_COLLECTIVES = (_CASE, Column("devices", "devices", "d"))
_COLLECTIVES += (Column("collectives of one step, on each device", _collectives),)

_GPU = (Column("H200", "gpus", "d"), _CASE, _TYPE, _BATCH, Column("kernels", "kernels", "d"))
_GPU += (Column("convolutions", "convolutions", "d"),)
_GPU += (Column("different", "different_convolutions", "d"), _GB, _MB)
_GPU += (Column("floor ms", "floor_ms", ".3g"), _LIMIT, _PEAK)
_GPU += (Column("exposed all-reduces", _exposed),)

_TPU = (Column("chip", "topology"), _CASE, _TYPE, _BATCH)
_TPU += (Column("fits", lambda row: "yes" if row["fits"] else "NO"), _PEAK)
_TPU += (Column("TFLOP", "tflop", ".3g"), _GB, _MB, Column("roofline ms", "roofline_ms", ".3g"))
_TPU += (_LIMIT,)

# Kind of row -> the field that identifies it, and its columns. A row belongs to the first kind
# whose field it has; the tables are shown in the same order.
_KINDS = {
    "kernels": ("busy_us_per_step", _KERNELS),
    "tpu": ("topology", _TPU),
    "gpu": ("gpus", _GPU),
    "collectives": ("collectives", _COLLECTIVES),
    "precision": ("errors", _PRECISION),
    "feeding": ("way", _FEEDING),
    "speed": ("framework", _SPEED),
}


def show(rows: Sequence[Row], *kinds: str) -> str:
    """The tables of the rows, and the devices on which they were measured.

    Args:
      kinds: some of "kernels", "tpu", "gpu", "collectives", "precision", "feeding" and "speed";
        none means all. A kind without rows has no table.
    """
    by_kind = {kind: [] for kind in _KINDS}
    for row in rows:
        kind = next((kind for kind, (field, _) in _KINDS.items() if field in row), None)
        if kind in (kinds or _KINDS):
            by_kind[kind].append(row)
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
    return (
        f"{row['case']}, {row['batch_size']} images a step: {row['kernels_per_step']:.4g} kernels "
        f"and {row['busy_us_per_step']:.4g} us a step; the biggest:\n"
        + text_table(
            _KERNELS, [{"name": name, "calls": n, "us": us} for name, n, us in row["kernels"]]
        )
    )


def _biggest(row: Row) -> list[str]:
    """The biggest kernels of a step that was compiled for a GPU."""
    return [
        f"{'':>6}{kernel['us']:>8.1f} us {kernel['mb_read']:>7.1f} MB read "
        f"{kernel['mb_written']:>7.1f} written {kernel['gflop']:>6.1f} GFLOP  {kernel['kind']:<28}"
        f"{kernel['shape'][:44]:<45}{kernel['source'][-60:]}"
        for kernel in row.get("biggest", ())
    ]
