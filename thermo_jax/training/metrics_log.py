"""Metrics of a run: JSON lines (the record) and TensorBoard scalars (the view).

`metrics.jsonl` holds no times, so that the same seed gives the same file; times go to
`timing.jsonl` beside it.
"""

import json
import math
from pathlib import Path

from tensorboardX import SummaryWriter

METRICS, TIMING = "metrics.jsonl", "timing.jsonl"


class MetricsLog:
    """Appends to a workdir's metrics files. A resumed run drops the lines after its checkpoint.

    Raises:
      ValueError: the files end before the checkpoint that is resumed.
    """

    def __init__(self, workdir: Path, *, resume_step: int = 0):
        self._files = [workdir / METRICS, workdir / TIMING]
        for path in self._files:
            kept = [row for row in read_jsonl(path) if row["step"] <= resume_step]
            if resume_step and (not kept or kept[-1]["step"] < resume_step):
                raise ValueError(
                    f"{path} does not reach step {resume_step} of the checkpoint beside it: "
                    "restore the file, or choose another --workdir"
                )
            path.write_text("".join(_to_line(row) for row in kept), encoding="utf-8")
        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, *, step: int, epoch: int, metrics: dict[str, float], timing: dict) -> None:
        """One line per file; non-finite numbers become null."""
        for path, values in zip(self._files, (metrics, timing), strict=True):
            row = {"step": step, "epoch": epoch, **values}
            with path.open("a", encoding="utf-8") as file:
                file.write(_to_line(row))
        for name, value in {**metrics, **timing}.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the TensorBoard file."""
        self._writer.close()


def read_jsonl(path: Path) -> list[dict]:
    """The rows of a JSON-lines file, [] if there is none; a half-written last line is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def _to_line(row: dict) -> str:
    clean = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }
    return json.dumps(clean) + "\n"
