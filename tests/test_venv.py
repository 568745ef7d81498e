"""launch/_venv.sh and launch/predict.sh, with a stub of Python; a slow test installs for real."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_package import ROOT, setup_cfg
from thermogram_files import write_matrix

# It is also the .venv that it creates. It records pip's arguments with the requirements, and the
# program's arguments. The program writes a page.
STUB = """#!{python} -IS
import json, os, pathlib, shutil, sys

record = pathlib.Path(os.environ["RECORD"])
arguments = sys.argv[1:]
if "-m" not in arguments:  # `-c code`: a question
    print("3.11") if "print" in arguments[1] else None
elif "venv" in arguments:
    (pathlib.Path(arguments[-1]) / "bin").mkdir(parents=True)
    shutil.copy(sys.argv[0], pathlib.Path(arguments[-1]) / "bin" / "python")
else:
    lines = sys.stdin.read().split() if "/dev/stdin" in arguments else []
    with record.open("a") as file:
        file.write(json.dumps([arguments, lines, os.getcwd()]) + "\\n")
    for flag in arguments:
        if flag.startswith("--workdir="):
            folder = pathlib.Path(flag.partition("=")[2])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "index.html").touch()
"""


class Checkout:
    """A copy of the launch scripts, and their stub of Python."""

    def __init__(self, folder: Path):
        self.root, self.record = folder / "checkout", folder / "record"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        self.python = folder / "python"
        self.python.write_text(STUB.format(python=sys.executable))
        self.python.chmod(0o755)

    def start(self, script: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHON": str(self.python), "RECORD": str(self.record)}
        command = ["bash", self.root / "launch" / script, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)

    def calls(self, module: str) -> list[tuple[list[str], list[str], str]]:
        """(arguments after the module, lines of standard input, folder) of each call."""
        rows = [json.loads(line) for line in self.record.open()] if self.record.exists() else []
        return [
            (arguments[arguments.index(module) + 1 :], lines, folder)
            for arguments, lines, folder in rows
            if module in arguments
        ]

    def installed(self) -> list[list[str]]:
        """What `pip install` was given by each call: requirements, and folders with extras."""
        return [
            lines or arguments[-1:]
            for arguments, lines, _ in self.calls("pip")
            if "install" in arguments
        ]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "clinic").mkdir()
    (tmp_path / "clinic" / "a b.csv").touch()
    return tmp_path / "clinic" / "a b.csv"


def light_requirements() -> list[str]:
    lines = setup_cfg()["options"]["install_requires"].split()
    kept = [line for line in lines if not line.startswith("tensorflow>")]
    assert len(kept) == len(lines) - 1
    return kept


def test_a_prediction_installs_everything_but_tensorflow(checkout, file):
    done = checkout.start("predict.sh", file, cwd=file.parent)
    assert done.returncode == 0, done.stderr
    assert checkout.installed() == [light_requirements(), ["."]]
    assert "--no-deps" in checkout.calls("pip")[1][0]


def test_other_scripts_complete_the_light_installation_which_stays_complete(checkout, file):
    checkout.start("predict.sh", file, cwd=file.parent)
    assert checkout.start("test.sh", cwd=file.parent).returncode == 0
    checkout.start("predict.sh", file, cwd=file.parent)
    assert checkout.installed() == [light_requirements(), ["."], [".[dev]"]]


def test_each_prediction_gets_its_own_folder_and_the_script_names_the_page(checkout, file):
    for name in ("predictions", "predictions_2"):
        done = checkout.start("predict.sh", file, cwd=file.parent)
        workdir = checkout.root / ".work" / name
        assert f"open {workdir}/index.html in a browser" in done.stderr


def test_paths_and_flags_mean_what_they_mean_in_the_users_folder(checkout, file):
    arguments = ("a b.csv", "../clinic/*.csv", "--workdir=out", "--config.labelme=True")
    done = checkout.start("predict.sh", *arguments, cwd=file.parent)
    assert done.returncode == 0, done.stderr
    ((given, _, folder),) = checkout.calls("thermo_jax.main")
    assert folder == str(file.parent)
    assert f"--config={checkout.root}/configs/predict.py" in given
    assert "--config.input=a b.csv,../clinic/*.csv" in given
    assert given[-2:] == ["--workdir=out", "--config.labelme=True"]
    assert "open out/index.html in a browser" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "specify your thermograms: bash launch/predict.sh INPUT"),
        (["--workdir=out"], "specify your thermograms: bash launch/predict.sh INPUT"),
        (["typo.csv"], "typo.csv does not exist"),
    ],
)
def test_without_thermograms_nothing_is_installed(checkout, tmp_path, arguments, message):
    done = checkout.start("predict.sh", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not checkout.record.exists()


def test_the_readme_shows_the_recipe_of_the_script():
    recipe = re.compile(r"sed -n '(.*?)' setup.cfg \| grep -v '(.*?)'")
    in_script = recipe.search((ROOT / "launch" / "_venv.sh").read_text())
    in_readme = recipe.search((ROOT / "README.md").read_text())
    assert in_script and in_readme and in_script.groups() == in_readme.groups()


@pytest.mark.slow
def test_the_light_installation_predicts_trains_and_evaluates_and_is_small(tmp_path):
    root = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, root, ignore=ignored, symlinks=True)
    write_matrix(tmp_path / "a.txt")
    environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment |= {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHON": sys.executable}
    settings = {"cwd": tmp_path, "env": environment, "check": True}
    subprocess.run(["bash", root / "launch" / "predict.sh", "a.txt"], **settings)
    assert (root / ".work" / "predictions" / "overlays" / "a.png").is_file()
    python = root / ".venv" / "bin" / "python"
    training = [python, "-m", "thermo_jax.main", "--config=encoder:heat,phantom"]
    training += ["--workdir=encoder", "--config.train.steps=1", "--config.data.phantom_patients=6"]
    subprocess.run([*training, "--config.data.downscale=4"], **settings)
    evaluating = [python, "-m", "thermo_jax.main", "--config=evaluate:phantom"]
    evaluating += ["--workdir=evaluated", "--config.data.phantom_patients=6"]
    subprocess.run(evaluating, **settings)
    assert (tmp_path / "evaluated" / "report.html").is_file()
    saved = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert saved["config"]["data"]["loader"] == "numpy"
    without = "import importlib.util; assert not importlib.util.find_spec('tensorflow')"
    subprocess.run([python, "-c", without], **settings)
    sizes = [path.lstat().st_size for path in (root / ".venv").rglob("*") if path.is_file()]
    assert sum(sizes) < 1.1e9
