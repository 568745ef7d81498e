"""launch/tpu_vm with a stub of gcloud, whose VM is two folders on this machine."""

import os
import re
import shlex
import signal
from pathlib import Path

import pytest
from fake_cloud import FLAGS, WORKDIR, Cloud

WHOLE = ["describe", "create", "scp", "setup", "run", "watch", "status", "delete"]
DELETE = "gcloud compute tpus tpu-vm delete thermo-jax --zone=us-west4-a --quiet"


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


@pytest.fixture(scope="module")
def cloud_with_vm(tmp_path_factory):
    cloud = Cloud(tmp_path_factory.mktemp("cloud"))
    assert cloud.call("create").returncode == cloud.call("setup").returncode == 0
    (cloud.folder / "calls").unlink()
    return cloud


@pytest.fixture
def vm(cloud_with_vm, tmp_path):
    """A cloud with a VM that is set up."""
    return cloud_with_vm.copy(tmp_path)


def test_train_makes_a_vm_runs_the_program_on_all_workers_and_deletes_the_vm(cloud):
    done = cloud.call("train", *FLAGS)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == WHOLE
    assert cloud.starts(0) == cloud.starts(1) == [["-u", "-m", "thermo_jax.main", *FLAGS]]
    assert "hello from the program" in done.stdout
    assert not (cloud.folder / "state").exists()


def test_the_settings_become_flags_of_gcloud(cloud):
    cloud.call("create", PROJECT_ID="p", TPU_NAME="n", ACCELERATOR_TYPE="v6e-8", SPOT="1")
    (call,) = cloud.calls()
    flags = ["--accelerator-type=v6e-8", "--version=v2-alpha-tpuv6e", "--spot"]
    where = ["--zone=us-west4-a", "--project=p", "--quiet"]
    assert call == ["compute", "tpus", "tpu-vm", "create", "n", *flags, *where]


@pytest.mark.parametrize("command", [["train", *FLAGS], ["fetch", WORKDIR], ["stop"]])
def test_a_dry_run_prints_the_commands_of_a_real_one_and_runs_none(cloud, command):
    dry = cloud.call("--dry-run", *command, DATA="gs://bucket/it's data")
    assert dry.returncode == 0, dry.stderr
    assert not cloud.calls()
    assert not (cloud.checkout / ".work").exists()
    cloud.call(*command, DATA="gs://bucket/it's data")
    on_workers = [["storage", "rsync", "--recursive", "gs://bucket/it's data", "data"]]
    printed = [shlex.split(line) for line in dry.stdout.splitlines()]
    gcloud = [words[1:] for words in printed if words[0] == "gcloud"]
    assert gcloud == [call for call in cloud.calls() if call not in on_workers]


def test_a_flag_with_spaces_quotes_and_parentheses_arrives_as_it_is(vm):
    flag = """--config.topologies=('v6e:2x2', "a b" $HOME `id` \\ * ; & \N{DEGREE SIGN})"""
    assert vm.call("run", "--workdir", "x", flag, "").returncode == 0
    assert vm.call("watch").returncode == 0
    assert vm.starts() == [["-u", "-m", "thermo_jax.main", "--workdir", "x", flag, ""]]


def test_the_data_is_copied_on_every_worker(cloud):
    cloud.call("create")
    assert cloud.call("setup", DATA="gs://bucket/dmr-ir").returncode == 0
    copies = [call for call in cloud.calls() if call[0] == "storage"]
    assert copies == [["storage", "rsync", "--recursive", "gs://bucket/dmr-ir", "data"]] * 2


def test_setup_warns_of_files_that_it_does_not_send(cloud):
    cloud.call("create")
    (cloud.checkout / "new").write_text("")
    assert "uncommitted changes are not sent" in cloud.call("setup").stderr
    assert not list(cloud.folder.glob("workers/*/thermo_jax/checkout/new"))


@pytest.mark.parametrize("event", ["preempt", "vanish"])
def test_after_a_preemption_a_new_vm_continues(cloud, event):
    cloud.plan(watch=[event], program=[0, 0])
    done = cloud.call("train", *FLAGS)
    assert done.returncode == 0, done.stderr
    lost = [*WHOLE[:-1], "describe", "ls"]
    again = WHOLE if event == "vanish" else ["describe", "delete", *WHOLE[1:]]
    again = [*again[: again.index("run")], "stop", *again[again.index("run") :]]
    assert cloud.verbs() == lost + again
    assert len(cloud.starts()) == 2


def test_a_run_that_was_stopped_or_crashed_starts_again_on_the_same_vm(cloud):
    cloud.plan(program=[75, 1, 0])
    assert cloud.call("train", *FLAGS).returncode == 0
    assert len(cloud.starts()) == 3
    assert cloud.verbs().count("create") == 1


def test_a_users_mistake_is_not_tried_again(cloud):
    cloud.plan(program=[2])
    done = cloud.call("train", *FLAGS)
    assert done.returncode == 2
    assert len(cloud.starts()) == 1
    assert "contain a mistake" in done.stderr and DELETE in done.stderr


@pytest.mark.parametrize(("saves", "code", "starts"), [(False, 1, 2), (True, 0, 4)])
def test_train_gives_up_unless_there_are_new_checkpoints(cloud, saves, code, starts):
    cloud.plan(program=[1, 1, 1, 0], saves=saves)
    done = cloud.call("train", *FLAGS, ATTEMPTS="2")
    assert (done.returncode, len(cloud.starts())) == (code, starts)
    assert ("2 of 2 without a new checkpoint" in done.stderr) is not saves


def test_a_vm_that_cannot_be_made_ends_train_with_what_to_do(cloud):
    cloud.plan(create=["fail"])
    done = cloud.call("train", *FLAGS)
    assert done.returncode == 1
    assert cloud.verbs() == ["describe", "create"]
    assert (
        "no capacity" in done.stderr and "accelerator-types list --zone=us-west4-a" in done.stderr
    )


def test_a_vm_that_cannot_be_made_again_at_once_is_tried_again(cloud):
    cloud.plan(watch=["preempt"], create=["", "fail", "fail"], program=[0, 0])
    assert cloud.call("train", *FLAGS).returncode == 0
    assert cloud.verbs().count("create") == 4


def test_a_vm_whose_state_is_unknown_is_left_alone(cloud):
    cloud.plan(describe=["fail"])
    done = cloud.call("train", *FLAGS)
    assert done.returncode == 1 and "UNKNOWN" in done.stderr
    assert cloud.verbs() == ["describe"]


def test_a_command_that_hangs_is_ended(cloud):
    cloud.plan(create=["hang"])
    done = cloud.call("create", LIMIT="0.3")
    assert done.returncode == 1
    assert "gave up after 0.3 s (LIMIT): gcloud compute tpus tpu-vm create" in done.stderr


def test_watching_that_hangs_or_fails_is_started_again(vm):
    vm.run_until_sigterm()
    vm.plan(watch=["hang", "fail"], status=["", "fail"])
    process = vm.start("watch", LIMIT="3")
    assert process.stdout.readline() == "hello from the program\n"  # from the third watch
    assert vm.verbs() == ["run", "watch", "status", "watch", "status", "describe", "watch"]
    assert vm.call("stop").returncode == 0
    process.communicate(timeout=60)
    assert process.returncode == 75


def test_ctrl_c_ends_gcloud_but_not_the_program(vm):
    vm.plan(watch=["hang"])
    os.mkfifo(vm.folder / "hanging")
    process = vm.start("watch")
    stub = int((vm.folder / "hanging").read_text())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "keeps running" in err and DELETE in err
    assert not is_alive(stub)


def is_alive(process: int) -> bool:
    """Return whether a process runs; a zombie, for which nobody has waited yet, does not."""
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("event", ["", "fail"])
@pytest.mark.parametrize("command", ["create", "setup", "run", "watch", "stop"])
def test_the_command_that_deletes_is_printed_whatever_happens(vm, command, event):
    vm.plan(**{command: [event]})
    done = vm.call(command, *(FLAGS if command == "run" else []))
    assert re.search(f"costs money until it is deleted: {DELETE}$", done.stderr, re.MULTILINE)


def test_after_a_deletion_costs_are_not_mentioned(vm):
    done = vm.call("delete")
    assert done.returncode == 0 and "costs money" not in done.stderr


def test_the_same_run_is_started_once_and_another_is_refused(vm):
    vm.run_until_sigterm()
    assert vm.call("run", *FLAGS).returncode == 0
    other = vm.call("run", *FLAGS, "--config.seed=1")
    assert other.returncode == 1 and "stop it first" in other.stderr
    assert vm.call("stop").returncode == 0
    assert len(vm.starts()) == 1


def test_a_program_that_was_killed_is_reported_as_lost(vm):
    vm.run_until_sigterm()
    for worker in "01":
        session = vm.folder / "workers" / worker / "thermo_jax" / "session"
        os.killpg(int(session.read_text()), signal.SIGKILL)
    done = vm.call("watch")
    assert done.returncode == 1 and "the program is lost" in done.stderr


def test_results_are_fetched_from_the_bucket_or_from_worker_0(vm):
    assert vm.call("fetch", f"{WORKDIR}/", "results").returncode == 0
    assert vm.calls() == [["storage", "rsync", "--recursive", WORKDIR, "results/run"]]
    folder = vm.folder / "workers" / "0" / "thermo_jax" / "runs"
    folder.mkdir()
    (folder / "report.md").write_text("a report")
    assert vm.call("fetch", "runs", "results").returncode == 0
    assert (vm.checkout / "results" / "report.md").read_text() == "a report"


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["create"], {"ZONE": ""}, "ZONE is not set"),
        (["create"], {"ACCELERATOR_TYPE": "v9-8"}, "not known for ACCELERATOR_TYPE=v9-8"),
        (["crate"], {}, "no such command: crate"),
        ([], {}, "no such command: (none)"),
        (["watch", "worker"], {}, "no such command: watch worker"),
        (["run", "--config=x"], {}, "--workdir is missing"),
        (["train", "--workdir=runs/x"], {}, "a preempted VM loses its disk"),
    ],
)
def test_a_mistake_in_the_command_is_one_line_and_exit_code_2(cloud, words, settings, message):
    done = cloud.call(*words, **settings)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not cloud.calls()
