"""Program "data_report": what a folder of thermograms contains, and what is unusual there."""

from pathlib import Path

from ml_collections import ConfigDict

from thermo_jax.data import layouts
from thermo_jax.data.dataset import DataSettings
from thermo_jax.programs.workdir import check_workdir, print_results, write_config


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """Scans, prints the report and writes it as text and CSV; returns the counts."""
    workdir = check_workdir(workdir, config)
    root = DataSettings(**config.data).find_root()
    records, report = layouts.scan(root, layout=config.data.layout, strict=config.data.strict)
    write_config(workdir, config)
    print_results(report.text(records), files=report.write(workdir, records), workdir=workdir)
    return {"thermograms": len(records), "oddities": len(report.oddities)}
