"""The notebooks for Colab: committed without outputs, and run from first to last cell, made tiny.

Only the parameter cell is changed. The kernel is the Python that runs the tests, so that nothing is
installed. It uses folders and a cache of the tests. The tests of notebooks that train are slow.
"""

import ast
import base64
import collections
import csv
import io
import os
from pathlib import Path

import jax
import nbformat
import numpy as np
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image
from tiny_training import QUICK_COMPILATION

import thermo_jax
from thermo_jax import main
from thermo_jax.data.phantom import write_phantom
from thermo_jax.programs import settings

FOLDER = Path(__file__).resolve().parent.parent / "launch" / "colab"
NAMES = ("quickstart", "own_data", "predict")
COMMON_CELLS = ("clock", "install", "device")
TINY = {
    "DOWNSCALE": 4,
    "NUM_KERNELS": 2,
    "UNET_WIDTH": 2,
    "EPOCHS": {"encoder": 1, "segment": 1, "classify": 1},
}
OWN_DATA = TINY | {"DATA": "data", "RUNS": "runs", "BATCH_SIZE": 4}
SECONDS = 600  # time limit of a cell


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def parameter_cell(notebook):
    """Returns the cell with the tag "parameters"; there must be exactly one."""
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    return cell


def parameters_of(notebook):
    """Returns the {name: value} that the parameter cell assigns."""
    assignments = ast.parse(parameter_cell(notebook).source).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}


def run(notebook, folder, parameters=None):
    """Runs a notebook in a folder, with other values of some of its parameters."""
    parameters = parameters or {}
    assert parameters.keys() <= parameters_of(notebook).keys()
    lines = [f"{name} = {value!r}" for name, value in parameters.items()]
    parameter_cell(notebook).source += "\n" + "\n".join(lines)
    manager = AsyncKernelManager(
        # Without kernel folders, the only kernel is that of the running interpreter.
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        connection_file=str(folder / "kernel.json"),
    )
    environment = (
        os.environ
        | QUICK_COMPILATION
        | {
            "IPYTHONDIR": str(folder / "ipython"),
            "THERMO_JAX_CACHE_DIR": str(folder / "cache"),
        }
    )
    client = NotebookClient(notebook, km=manager, timeout=SECONDS)
    return client.execute(cwd=folder, env=environment, cleanup_kc=True)


def cell(notebook, name):
    (match,) = (cell for cell in notebook.cells if cell.id == name)
    return match


def count_pictures(notebook):
    """Returns {cell id: number of displayed PNGs}; checks that no PNG is blank."""
    counts = collections.Counter()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
                assert np.ptp(np.asarray(picture.convert("L"))) > 100
                counts[cell.id] += 1
    return counts


def printed(notebook, name):
    """Returns what a cell wrote to standard output."""
    outputs = cell(notebook, name).outputs
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def displayed(notebook, name):
    """Returns what a cell displayed as HTML."""
    outputs = cell(notebook, name).outputs
    return "".join(output.data.get("text/html", "") for output in outputs if "data" in output)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_clean(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_code_cell_contains_all_parameters_with_comments(name):
    notebook = read(name)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first is parameter_cell(notebook)
    lines = first.source.splitlines()
    for node in ast.parse(first.source).body:
        assert isinstance(node, ast.Assign)
        assert lines[node.lineno - 2].startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_installs_the_version_it_comes_with(name):
    parameters = parameters_of(read(name))
    assert parameters["VERSION"] == thermo_jax.__version__
    assert parameters["SOURCE"].endswith(f"@v{thermo_jax.__version__}")


@pytest.mark.parametrize("name", COMMON_CELLS)
def test_the_cells_that_set_up_are_the_same_in_every_notebook(name):
    assert len({cell(read(notebook), name).source for notebook in NAMES}) == 1


def set_up(name):
    """Returns a notebook without the cells after its install cell."""
    notebook = read(name)
    ids = [cell.id for cell in notebook.cells]
    notebook.cells = notebook.cells[: ids.index("install") + 1]
    return notebook


def test_a_placeholder_as_source_is_refused(tmp_path):
    with pytest.raises(CellExecutionError, match="SOURCE=.*OWNER.* is a placeholder: write where"):
        run(set_up("quickstart"), tmp_path, {"VERSION": "0.0.0"})


def test_a_package_replaced_while_in_use_requires_a_restart(tmp_path):
    notebook = set_up("quickstart")
    cell(notebook, "clock").source += "\nimport scipy; scipy.__version__ = '0'"
    with pytest.raises(CellExecutionError, match="scipy was replaced.*Restart session"):
        run(notebook, tmp_path)


QUICKSTART = TINY | {"PATIENTS": 12, "WORKDIR": "results"}
QUICKSTART_PICTURES = {"look": 1, "encoder": 1, "segment": 2, "classify": 2}


def test_quickstart_shows_its_data_and_the_pictures_of_the_runs_that_it_starts(
    tmp_path, monkeypatch
):
    began, shown = {}, collections.Counter()

    def run_program(config, workdir):
        if config.task == "data_report":
            return data_report(config, workdir)
        settings.resolve(config)
        assert config.train.epochs == 1 and config.data.phantom_patients == 12
        if config.task != "encoder":
            assert Path(config.encoder.workdir) == began["encoder"]
        began[config.task] = workdir
        (workdir / "pictures").mkdir(parents=True)
        for name in ("latents", "evidence", "segmentation", "curves"):
            Image.new("L", (1, 1)).save(workdir / "pictures" / f"{name}.png")

    data_report = main.run
    monkeypatch.setattr(main, "run", run_program)
    monkeypatch.setattr("IPython.display.display", lambda picture: shown.update([cell.id]))
    monkeypatch.setenv("THERMO_JAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    variables = {"Path": Path}
    notebook = read("quickstart")
    parameter_cell(notebook).source += f"\nglobals().update({QUICKSTART})"
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id not in COMMON_CELLS:
            exec(cell.source, variables)
    assert shown == QUICKSTART_PICTURES
    assert began == {name: tmp_path / "results" / name for name in TINY["EPOCHS"]}


@pytest.mark.slow
def test_quickstart_runs(tmp_path):
    notebook = run(read("quickstart"), tmp_path, QUICKSTART)
    assert count_pictures(notebook) == QUICKSTART_PICTURES
    assert ("No GPU" in printed(notebook, "device")) == (jax.default_backend() == "cpu")
    assert "epoch   1  train loss" in printed(notebook, "segment")
    for stage in ("encoder", "segment", "classify"):
        assert (tmp_path / "results" / stage / "report.html").is_file()


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """(notebook, its folder): own_data.ipynb, run on a phantom instead of a user's data."""
    folder = tmp_path_factory.mktemp("own_data")
    write_phantom(folder / "data", patients=12)
    return run(read("own_data"), folder, OWN_DATA), folder


@pytest.mark.slow
def test_own_data_runs(own_data):
    notebook, folder = own_data
    counts = {"look": 1, "encoder": 2, "classify": 3, "segment": 3}
    assert count_pictures(notebook) == counts
    assert "12         12          6          6" in printed(notebook, "data")
    for stage in ("encoder", "segment", "classify"):
        assert (folder / "runs" / stage / "report.html").is_file()


@pytest.mark.slow
def test_own_data_run_again_shows_all_and_trains_nothing(own_data):
    notebook, folder = own_data
    files = sorted(folder.glob("runs/*/metrics.jsonl"))
    before = [file.read_bytes() for file in files]
    again = run(read("own_data"), folder, OWN_DATA)
    assert [file.read_bytes() for file in files] == before and len(before) == 3
    assert count_pictures(again) == count_pictures(notebook)


@pytest.mark.slow
def test_predict_runs(own_data, tmp_path):
    _, models = own_data
    write_phantom(tmp_path / "clinic", patients=3, temperatures=True)
    parameters = {"INPUT": "clinic", "RESULTS": "results", "SHOWN": 2}
    notebook = run(read("predict"), tmp_path, parameters | {"MODELS": [str(models / "runs")]})
    assert count_pictures(notebook) == {"overlays": 2}
    assert displayed(notebook, "probabilities").count("<tr>") == 1 + 3
    (workdir,) = (tmp_path / "results").iterdir()
    with (workdir / "regions.csv").open(encoding="utf-8") as file:
        region = next(csv.DictReader(file))
    table = displayed(notebook, "regions")
    assert f"<td>{region['title']}</td><td>{region['area_pixels']}</td>" in table
    assert f"<td>{float(region['mean_c']):.2f}</td>" in table
    assert "Probability of sick" in displayed(notebook, "report")
    assert len(list(workdir.glob("reports/**/*.html"))) == 3
