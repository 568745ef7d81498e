"""Proposes a `thermograms.csv` that lists what was read, for the user to correct by hand."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from thermo_jax.data.data_report import safe_cell
from thermo_jax.data.identity import CLASS_AND_FOLDER, ONE_PER_FILE
from thermo_jax.data.thermogram import LABEL_NAMES, UNLABELLED, VIEW_NAMES, Thermogram
from thermo_jax.data.thermogram_table import COLUMNS
from thermo_jax.files import csv_text


def propose_table(
    records: Sequence[Thermogram], left_out: Mapping[str, str], *, root: str | os.PathLike
) -> str:
    """The text of a `thermograms.csv` that lists what was read, for the user to correct.

    Read without changes, it gives the same thermograms. The cells of what is not known are empty;
    so is the patient where one per file was assumed, since only the user knows better.

    Args:
      records: the thermograms.
      left_out: relative path of a file -> why it was left out.
      root: the folder to which the paths of the table are relative.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for record in records:
        for path in record.files or record.paths.values():
            file = path.relative_to(root).as_posix()
            rows[file, record.frame_in_file] = {"file": file, **_proposed(record)}
    for file, reason in left_out.items():
        row = rows.setdefault((file, 0), {"file": file})
        row["notes"] = "; ".join(filter(None, (row.get("notes"), f"left out: {reason}")))
    cells = [[safe_cell(row.get(c, "")) for c in COLUMNS] for _, row in sorted(rows.items())]
    return csv_text(COLUMNS, cells)


def _proposed(record: Thermogram) -> dict[str, Any]:
    assumed = ONE_PER_FILE in record.notes
    notes = [note for note in record.notes if note in (ONE_PER_FILE, CLASS_AND_FOLDER)]
    if not record.patient_known:
        notes.append("patient unknown: used for pretraining only")
    return {
        "patient": record.patient if record.patient_known and not assumed else "",
        "label": LABEL_NAMES[record.label] if record.label != UNLABELLED else "",
        "view": VIEW_NAMES[record.view] if record.view else "",
        "protocol": record.protocol,
        "date": record.date,
        "visit": record.visit or "",
        "frame": record.frame if record.frame >= 0 else "",
        "notes": "; ".join(notes),
    }
