"""Settings of all tests: eight fake CPU devices, data folders, and shape checks at run time."""

import collections
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Files that take minutes. They start first, so that two test processes end at about the same time.
LONGEST = (
    "test_learning.py",
    "test_table1.py",
    "test_end_to_end.py",
    "test_kills.py",
    "test_processes.py",
    "test_few_shot.py",
    "test_preemption.py",
    "test_colab.py",
)
FAKE_DEVICES = "--xla_force_host_platform_device_count"

# These variables must be set before the first import of JAX or TensorFlow. The programs that tests
# start inherit them. JAX_PLATFORMS=cuda, for example, runs the tests on a GPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if FAKE_DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAKE_DEVICES}=8".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

import jax  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Shapes and types in the signatures of these packages are checked at every call in the tests.
install_import_hook(
    ["thermo_jax.models", "thermo_jax.rivals", "thermo_jax.training"], "beartype.beartype"
)


def pytest_collection_modifyitems(items):
    """Runs the longest files first; the order within a file stays the same."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_terminal_summary(terminalreporter):
    """Prints the ten slowest tests in one line. Their times include their fixtures."""
    seconds = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.removeprefix("tests/")] += report.duration
    slowest = [f"{name} {took:.0f} s" for name, took in seconds.most_common(10) if took >= 0.5]
    terminalreporter.write_line(f"slowest: {', '.join(slowest) or 'none took a second'}")


def find_golden_dir() -> Path:
    """Return the folder of reference vectors.

    It is THERMO_GOLDEN_DIR if that is set, else ../shared/golden if that exists, else tests/golden.
    Raises FileNotFoundError if THERMO_GOLDEN_DIR is not a folder.
    """
    if named := os.environ.get("THERMO_GOLDEN_DIR"):
        if not Path(named).is_dir():
            raise FileNotFoundError(f"THERMO_GOLDEN_DIR={named} is not a folder")
        return Path(named)
    shared = ROOT.parent / "shared" / "golden"
    return shared if shared.is_dir() else ROOT / "tests" / "golden"


def golden_file(name: str) -> Path:
    """Return the path of a file of reference vectors; skip the test if the file is absent.

    Raises FileNotFoundError if THERMO_GOLDEN_DIR is set and the file is not in that folder.
    """
    path = find_golden_dir() / name
    if not path.is_file():
        if "THERMO_GOLDEN_DIR" in os.environ:
            raise FileNotFoundError(f"{path}, in THERMO_GOLDEN_DIR, is missing")
        pytest.skip(f"{path} is absent: set THERMO_GOLDEN_DIR to the folder of reference vectors")
    return path


def find_sample_dir() -> Path:
    """Return the sample of real thermograms: THERMO_SAMPLE_DIR, else ../shared/dmr-ir-sample."""
    default = ROOT.parent / "shared" / "dmr-ir-sample"
    return Path(os.environ.get("THERMO_SAMPLE_DIR") or default)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of reference vectors (see `find_golden_dir`)."""
    return find_golden_dir()


@pytest.fixture(scope="session")
def sample_dir() -> Path:
    """The sample of real thermograms; the test is skipped if it is absent."""
    folder = find_sample_dir()
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set THERMO_SAMPLE_DIR to a sample of DMR-IR")
    return folder


@pytest.fixture(scope="session")
def foreign_dir() -> Path:
    """Files of other cameras and tools; the test is skipped if they are absent."""
    default = ROOT.parent / "shared" / "foreign-sample"
    folder = Path(os.environ.get("THERMO_FOREIGN_DIR") or default)
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set THERMO_FOREIGN_DIR to files of other cameras")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder for one test module, so that the user's prepared data stay untouched."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THERMO_JAX_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module", autouse=True)
def free_compiled_programs():
    """Frees a module's compiled programs. They use memory maps, and a process may have 65,530 of
    these: without this, thousands of tests in one process end in a segmentation fault."""
    yield
    jax.clear_caches()
