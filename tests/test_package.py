"""The whole package: quick imports, the agreed layout, a complete setup.cfg, tidy code."""

import ast
import configparser
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("thermo_jax", "configs", "launch", "tests")
SOURCES = sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
SHIPPED = [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "tests"]
# Import names of modules that can run code while reading a file.
UNSAFE_READERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve"}


def canonical(distribution: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def declared_distributions() -> set[str]:
    """Return what setup.cfg installs: requirements, and the extras of users (not `dev`)."""
    parser = setup_cfg()
    lines = parser["options"]["install_requires"].splitlines()
    for extra, requirements in parser["options.extras_require"].items():
        if extra != "dev":
            lines += requirements.splitlines()
    names = (re.match(r"[A-Za-z0-9._-]+", line.strip()) for line in lines)
    return {canonical(name.group()) for name in names if name}


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the full name of each module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def run_python(code: str) -> str:
    """Return what a fresh interpreter, started in the checkout, prints for `code`."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_import_is_instant():
    """Only the package itself is loaded; anything else would make every start slower."""
    code = (
        "import sys; before = set(sys.modules); import thermo_jax, json;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    loaded = {name.split(".")[0] for name in json.loads(run_python(code))}
    assert "thermo_jax" in loaded
    assert loaded <= {"thermo_jax"} | sys.stdlib_module_names


def test_version_is_stated_once():
    """setup.cfg reads the version from the package, so that the two cannot differ."""
    assert setup_cfg()["metadata"]["version"] == "attr: thermo_jax.__version__"
    code = "import thermo_jax; print(thermo_jax.__version__)"
    assert re.fullmatch(r"\d+\.\d+\.\d+", run_python(code).strip())


def test_top_level_contains_only_what_was_agreed():
    agreed = {"README.md", "setup.cfg", "thermo_jax", "configs", "launch", "tests"}
    agreed |= {"LICENSE", "pyproject.toml"}
    made_by_tools = {"build", "dist", "__pycache__"}
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    names = {name for name in names - made_by_tools if not name.endswith(".egg-info")}
    assert names == agreed


def test_every_package_folder_is_installed():
    """It also has an `__init__.py`, without which an editable install does not find configs/."""
    folders = {path.parent for path in (ROOT / "thermo_jax").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    listed = set(setup_cfg()["options"]["packages"].split())
    assert listed == names | {"thermo_jax.configs"}
    assert not [
        folder for folder in folders | {ROOT / "configs"} if not (folder / "__init__.py").is_file()
    ]


def test_every_data_file_of_a_package_is_installed():
    declared = setup_cfg()["options.package_data"]
    files = (ROOT / "thermo_jax").rglob("*.*")
    data_files = [path for path in files if path.suffix not in (".py", ".pyc")]
    assert data_files
    for path in data_files:
        package = next(folder for folder in path.parents if (folder / "__init__.py").is_file())
        patterns = declared.get(".".join(package.relative_to(ROOT).parts), "").split()
        assert path in {file for pattern in patterns for file in package.glob(pattern)}, path


def test_files_are_short_enough_to_be_read_at_once():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {str(path): length for path, length in lengths.items() if length >= 400}


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_reports_nothing(command):
    arguments = [sys.executable, "-m", "ruff", *command, *CODE]
    outcome = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_nothing_reads_pickles():
    """A data set or checkpoint from elsewhere must not be able to run code."""
    imports = [
        (path.name, module.split(".")[0]) for path in SHIPPED for module in imported_modules(path)
    ]
    assert not [(name, module) for name, module in imports if module in UNSAFE_READERS]
    # pickletools only describes pickles. The one file that follows its description calls nothing
    # that a pickle names (test_torch_file).
    assert [name for name, module in imports if module == "pickletools"] == ["torch_file.py"]
    # joblib is used for its processes only; it could also load files.
    unsafe = re.compile(r"allow_pickle=True|joblib\.load|import joblib\b|from joblib import")
    using = [path for path in SHIPPED if unsafe.search(path.read_text(encoding="utf-8"))]
    assert not using


def test_setup_cfg_names_every_imported_distribution():
    own = {"thermo_jax", "configs", *(path.stem for path in (ROOT / "launch").glob("*.py"))}
    provided_by = importlib.metadata.packages_distributions()
    declared = declared_distributions()
    missing = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in SHIPPED
        for module in imported_modules(path)
        if (top := module.split(".")[0]) not in own | sys.stdlib_module_names
        and not declared & {canonical(name) for name in provided_by.get(top, [top])}
    }
    assert not missing
