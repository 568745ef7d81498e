"""Program "data_report": what a folder of thermograms contains, and what is unusual there."""

from pathlib import Path

from ml_collections import ConfigDict

from thermo_jax.data import layouts
from thermo_jax.data.dataset import DataSettings
from thermo_jax.data.file_listing import THERMOGRAM_TABLE
from thermo_jax.data.table_proposal import propose_table
from thermo_jax.errors import UserError
from thermo_jax.files import write_whole
from thermo_jax.programs import settings
from thermo_jax.programs.workdir import check_workdir, print_results, write_config

PROPOSAL = (
    f"{THERMOGRAM_TABLE} lists what was found: correct patients, labels and views by hand, delete "
    "the lines of files\nthat must not be used, and copy it to the data root. Then only the "
    "files that it lists are used."
)


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Scans, prints the report and writes it as text and CSV; returns the counts.

    It also writes a thermograms.csv, which users may correct and copy to the data root.

    Raises:
      UserError: the data cannot be used, or a file is bad and `config.data.strict` is True. The
        report is written before.
    """
    settings.check_fields(config)
    workdir = check_workdir(workdir, config)
    data = DataSettings(**config.data, emissivity=config.flir.emissivity)
    records, report = layouts.survey(
        data.find_root(),
        layout=data.layout,
        render=data.render,
        reader=data.reader,
    )
    write_config(workdir, config)
    proposal = propose_table(records, report.left_out, root=report.root)
    files = [*report.write(workdir, records), write_whole(workdir / THERMOGRAM_TABLE, proposal)]
    text = f"{report.text(records)}\n{PROPOSAL}"
    print_results(text, files=files, workdir=workdir)
    if report.problem:
        raise UserError(f"{report.problem}. The report in {workdir} names each file")
    if data.strict and report.num_bad:
        first = next(oddity for oddity in report.oddities if oddity.is_bad)
        more = f" ({report.num_bad - 1} more bad files or rows)" if report.num_bad > 1 else ""
        raise UserError(f"{first.file}: {first.detail}{more}; see the report in {workdir}")
    return {"thermograms": len(records), "oddities": len(report.oddities)}
