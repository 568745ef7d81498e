"""Metrics of a run: files of JSON lines, and the same numbers as TensorBoard scalars.

`metrics.jsonl` contains no times, so that the same seed gives the same file. Times are in
`timing.jsonl` beside it.
"""

import json
import math
import os
import time

from etils import epath
from tensorboardX import SummaryWriter

from thermo_jax.errors import UserError
from thermo_jax.files import folder_path, is_remote, write_whole
from thermo_jax.training import processes

METRICS, TIMING = "metrics.jsonl", "timing.jsonl"
_PAUSE_S = 1.0  # between two writes, because an epoch may last only 10 ms on a GPU


class MetricsLog:
    """Writes a workdir's metrics files. A run that continues drops the lines after its checkpoint.

    The files are written at most once a second; `flush` and `close` write all lines. Of several
    processes, only the first one writes. TensorBoard files are not written to a bucket.

    Raises:
      UserError: the files end before the checkpoint from which the run continues.
    """

    def __init__(self, workdir: str | os.PathLike, *, resume_step: int = 0):
        workdir = folder_path(workdir)
        self._rows = {}  # file -> its lines; stays empty in a process that does not write
        self._writer = None
        self._is_written = True  # whether the files contain all lines
        self._flushed = -math.inf  # the time when the files were last written
        if not processes.is_writer():
            return
        for path in (workdir / METRICS, workdir / TIMING):
            kept = [row for row in read_jsonl(path) if row["step"] <= resume_step]
            if resume_step and (not kept or kept[-1]["step"] < resume_step):
                raise UserError(
                    f"{path} does not reach step {resume_step} of the checkpoint beside it: "
                    "restore the file, or choose another --workdir"
                )
            self._rows[path] = kept
            self._write(path)
        if not is_remote(workdir):
            self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, *, step: int, epoch: int, metrics: dict[str, float], timing: dict) -> None:
        """Adds a line to each file; numbers that are not finite become null."""
        if not self._rows:
            return
        for rows, values in zip(self._rows.values(), (metrics, timing), strict=True):
            rows.append({"step": step, "epoch": epoch, **values})
        if self._writer is not None:
            for name, value in {**metrics, **timing}.items():
                self._writer.add_scalar(name, value, step)
        self._is_written = False
        if time.monotonic() - self._flushed >= _PAUSE_S:
            self.flush()

    def flush(self) -> None:
        """Writes all lines to the files, if they do not contain them already."""
        if self._is_written:
            return
        for path in self._rows:
            self._write(path)
        if self._writer is not None:
            self._writer.flush()
        self._is_written, self._flushed = True, time.monotonic()

    def _write(self, path: epath.Path) -> None:
        """Writes whole files, because one cannot append in a bucket; none is ever incomplete."""
        write_whole(path, "".join(map(_to_line, self._rows[path])))

    def close(self) -> None:
        """Writes all lines to the files and closes them."""
        self.flush()
        if self._writer is not None:
            self._writer.close()


def read_jsonl(path: str | os.PathLike) -> list[dict]:
    """Returns the rows of a JSON-lines file, up to a damaged one; [] if there is no file."""
    rows, path = [], folder_path(path)
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not (isinstance(row, dict) and isinstance(row.get("step"), int)):
                break
            rows.append(row)
    return rows


def _to_line(row: dict) -> str:
    bad = {k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)}
    return json.dumps(row | bad) + "\n"
