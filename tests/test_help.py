"""`--help`, `--help=NAME` and `--version`: every field with its default and comment, at once."""

import importlib.metadata
import itertools
import json
import re
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags
from test_package import ROOT, setup_cfg

from thermo_jax import help_pages, main
from thermo_jax.config_files import installed_configs, list_fields, load
from thermo_jax.errors import UserError

CONFIGS = {name: load(path) for name, path in installed_configs().items()}


def presets(name):
    """Every preset of a configuration, as the error about an unknown one lists them."""
    with pytest.raises(UserError) as unknown:
        CONFIGS[name].get_config("?")
    listed = re.search(r"Presets: (.*)\.$", str(unknown.value)).group(1)
    return [] if listed == "none" else listed.split(", ")


CASES = [(name, preset) for name in CONFIGS for preset in ("", *presets(name))]


def fields(name, preset=""):
    return {f.name: f for f in list_fields(lambda: CONFIGS[name].get_config(preset))}


def leaves(section, prefix=""):
    """The full names of all fields of a configuration."""
    for name, value in section.items():
        is_section = isinstance(value, ConfigDict)
        yield from leaves(value, f"{prefix}{name}.") if is_section else [f"{prefix}{name}"]


@pytest.mark.parametrize(("name", "preset"), CASES, ids=map(":".join, CASES))
def test_every_field_has_its_value_and_a_comment(name, preset):
    config, found = CONFIGS[name].get_config(preset), fields(name, preset)
    assert set(found) == set(leaves(config))
    assert all(field.value == config[field.name] for field in found.values())
    assert not [field.name for field in found.values() if not field.comment]


@pytest.mark.parametrize(
    ("name", "field", "comment"),
    [
        ("encoder", "seed", "Seed of initial weights"),
        ("encoder", "split.seed", "Seed of the split"),
        ("segment", "report.seed", "Seed of the resampling"),
        ("segment", "data.type", "Data type of this run's images"),
        ("segment", "encoder.type", "Data type the encoder was trained on"),
        ("convert", "type", "For a decoder: data type"),
        ("segment", "encoder.num_kernels", "Channels of the first block, for kind"),
        ("few_shot", "stages.encoder.model.num_kernels", "Channels of the first block, doubled"),
        ("segment", "train.batch_size", "Images in a batch, over all devices."),
        ("predict", "batch_size", "Thermograms in a batch."),
        ("table1", "batch_size.gray", "Images in a batch, over all devices, by the data type"),
        ("few_shot", "repeats", "Segmenters for each kind"),
        ("benchmark", "repeats", "Timed dispatches"),
    ],
)
def test_a_field_has_the_comment_of_its_own_section(name, field, comment):
    assert fields(name)[field].comment.startswith(comment)


def test_a_preset_changes_values_but_no_comments():
    before, after = fields("few_shot"), fields("few_shot", "small,smoke")
    changed = [name for name in before if before[name].value != after[name].value]
    assert {"downscale.gray", "kinds", "stages.segment.train.epochs"} <= set(changed)
    assert {n: f.comment for n, f in before.items()} == {n: f.comment for n, f in after.items()}


def test_a_comment_of_several_lines_is_one_sentence_after_the_other():
    comment = fields("encoder")["data.render"].comment
    assert comment.startswith('"any" renders') and "these need _snap images or" in comment
    assert comment.endswith("as in the paper.")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_docstring_names_every_preset(name):
    assert not [p for p in presets(name) if f"`{p}`" not in CONFIGS[name].__doc__]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_page_shows_the_docstring_and_all_fields_in_80_columns(name):
    page = help_pages.configuration(name)
    words = page.replace(" \\\n", " ").split()
    docstring = CONFIGS[name].__doc__.split()
    assert docstring == words[1 : 1 + len(docstring)]
    shown = re.findall(r"^  --config\.(\S+)  \(default", page, re.MULTILINE)
    assert shown == [*fields(name)]
    assert max(map(len, page.splitlines())) <= 80
    texts = itertools.chain.from_iterable(f.comment.split() for f in fields(name).values())
    assert set(texts) <= set(words)


def test_a_page_with_a_preset_also_shows_the_values_without_it():
    page = help_pages.configuration("configs/segment.py:small")
    assert "--config.data.downscale  (default 8; without the preset: 1)" in page
    assert '--config.data.protocols  (default ("S", "D"))' in page


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # in ml_collections
def test_a_field_with_several_values_can_be_set_as_the_page_says(monkeypatch):
    page = " ".join(help_pages.configuration("export").split())
    flag = re.search(r"parentheses and quotes: '(.*?)'\.", page).group(1)
    assert flag == '--config.platforms=("cpu", "cuda", "tpu")'
    argv = ["thermo_jax", f"--config={installed_configs()['export']}", flag.replace('"cuda", ', "")]
    monkeypatch.setattr("sys.argv", argv)
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values)
    values(argv)
    assert config.value.platforms == ("cpu", "tpu")


def test_the_overview_names_every_program_with_the_first_sentence_of_its_docstring():
    page = " ".join(help_pages.overview().split())
    for name, module in CONFIGS.items():
        summary = " ".join(module.__doc__.split("\n\n")[0].split())
        assert f"{name} {summary}" in page


def test_the_overview_names_the_flags_of_the_program():
    page = help_pages.overview()
    for name in ("config", "workdir", "traceback", "version"):
        assert name in flags.FLAGS and f"--{name}" in page
    assert max(map(len, page.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        ("-h", "thermo_jax learns"),
        ("--help", "thermo_jax learns"),
        ("--help --workdir=x", "thermo_jax learns"),
        ("--help=predict", "--config=predict\n\nApplies"),
        ("--help predict", "--config=predict\n\nApplies"),
        ("-h predict", "--config=predict\n\nApplies"),
        ("--help=configs/predict.py", "--config=configs/predict.py\n\nApplies"),
        ("--help=segment:small,phantom", "--config=segment:small,phantom\n\nTrains"),
        ("--config=predict --help", "--config=predict\n\nApplies"),
        ("--config predict -h", "--config=predict\n\nApplies"),
        ("--version", "thermo_jax "),
    ],
)
def test_the_arguments_choose_the_page(arguments, begins):
    assert help_pages.page(arguments.split()).startswith(begins)


@pytest.mark.parametrize("arguments", ["", "--config=demo --workdir=x", "--config.input=--help"])
def test_other_arguments_ask_for_no_page(arguments):
    assert help_pages.page(arguments.split()) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("predct", "no configuration 'predct'; installed ones: .* Did you mean 'predict'?"),
        ("common", "no configuration 'common'; installed ones: "),
        ("encoder:grey", "no preset 'grey'. Did you mean 'gray'?"),
        ("predict:fast", "no preset 'fast'. Presets: none."),
        (str(ROOT / "configs" / "small.py"), "has no function get_config"),
    ],
)
def test_an_unknown_name_is_a_users_mistake(name, message):
    with pytest.raises(UserError, match=message):
        help_pages.configuration(name)


def test_a_configuration_file_of_the_user_has_a_page(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from thermo_jax.configs import encoder\n\n\n"
        "def get_config():\n"
        "    config = encoder.get_config('gray').unlock()\n"
        "    # Clinic whose images these are.\n"
        "    config.clinic = 'ours'\n"
        "    config.data.root = '/data/ours'  # our folder\n"
        "    config.remark = ''\n"
        "    return config\n"
    )
    page = help_pages.configuration(str(file))
    assert '--config.clinic  (default "ours")\n      Clinic whose images these are.' in page
    assert '--config.data.root  (default "/data/ours")\n      Folder of thermograms' in page
    assert page.endswith('  --config.remark  (default "")')


def test_a_configuration_file_whose_preset_is_required_has_a_page(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config(name):\n"
        "    config = ConfigDict()\n"
        "    config.name = name  # whose images\n"
        "    return config\n"
    )
    page = help_pages.configuration(f"{file}:clinic")
    assert page.endswith('  --config.name  (default "clinic")\n      whose images')


def test_a_terminals_width_is_used_up_to_100_columns(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for columns, limit in (("60", 60), ("300", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        widths = list(map(len, help_pages.configuration("predict").splitlines()))
        assert limit - 10 < max(widths) <= limit


RUN_ALL = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from thermo_jax import main

for arguments in json.loads(sys.argv[1]):
    sys.argv[1:], code = arguments, 0
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            main.main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
print(json.dumps(sorted({"jax", "tensorflow", "matplotlib", "scipy"} & set(sys.modules))))
"""


def test_help_and_mistakes_in_the_flags_are_answered_without_importing_jax():
    cases = [["--help"], ["--help=table1"], ["--version"], ["--help=x"]]
    cases += [["--config=encoder", "--config.data.rot=1"], []]  # absl parses flags once: these last
    program = [sys.executable, "-c", RUN_ALL, json.dumps(cases)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *outcomes, imported = map(json.loads, done.stdout.splitlines())
    assert imported == []
    assert [code for code, _, _ in outcomes] == [0, 0, 0, 2, 2, 2]
    overview, _, version, unknown, wrong, nothing = outcomes
    assert overview[1] == nothing[1] != "" and overview[2] == nothing[2] == ""
    assert re.fullmatch(r"thermo_jax \S+ \(jax \S+, flax \S+, Python \S+\)\n", version[1])
    assert unknown[1] == wrong[1] == ""
    assert len(unknown[2].splitlines()) == len(wrong[2].splitlines()) == 1


def test_a_reader_that_ends_early_is_no_error():
    command = f"{sys.executable} -m thermo_jax --help=demo | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "--config=demo\n", "")


def test_the_installed_command_is_the_program():
    scripts = setup_cfg()["options.entry_points"]["console_scripts"]
    name, target = scripts.strip().split(" = ")
    entry = importlib.metadata.EntryPoint(name, target, "console_scripts")
    assert name == "thermo_jax" and entry.load() is main.main
