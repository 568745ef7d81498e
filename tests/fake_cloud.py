"""A stub of gcloud for tests of launch/tpu_vm. Its VM is two folders on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKDIR = "gs://bucket/run"
FLAGS = ["--config=configs/encoder.py:heat", f"--workdir={WORKDIR}"]

GCLOUD = '''
"""Records its arguments and acts out the scenario, which lists one event per call of a verb."""
import json, os, pathlib, re, sys

cloud = pathlib.Path(os.environ["FAKE_CLOUD"])
words = sys.argv[1:]
verb = words[3] if words[0] == "compute" else words[1]
command = next((w.removeprefix("--command=") for w in words if w.startswith("--command=")), "")
if verb == "ssh":
    verb = re.search(r"on_worker.sh (\\w+)", command).group(1)
with (cloud / "calls").open("a+") as calls:
    calls.seek(0)
    earlier = [json.loads(line)[0] for line in calls].count(verb)
    calls.write(json.dumps([verb, words]) + "\\n")
scenario = json.loads((cloud / "scenario").read_text()).get(verb, [])
event = scenario[earlier] if earlier < len(scenario) else ""
state, workers = cloud / "state", cloud / "workers"


def remove():
    """Deletes the VM after its programs have ended, so that they do not write later."""
    import fcntl, shutil

    for lock in workers.glob("*/thermo_jax/lock"):
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    shutil.rmtree(workers)
    state.unlink()


if event == "hang":
    if (cloud / "hanging").exists():
        (cloud / "hanging").write_text(str(os.getpid()))
    import time

    time.sleep(60)
if event == "preempt":
    state.write_text("PREEMPTED")
if event == "vanish":
    remove()
if event in ("fail", "preempt", "vanish"):
    sys.exit("ERROR: (gcloud) no capacity")
if words[0] == "storage":
    if verb == "ls":
        print((cloud / "bucket").read_text() if (cloud / "bucket").exists() else "")
elif verb == "create":
    state.write_text("READY")
    for worker in "01":
        (workers / worker).mkdir(parents=True)
elif not state.exists():
    sys.exit("ERROR: (gcloud.compute.tpus.tpu-vm) NOT_FOUND: Resource was not found")
elif verb == "describe":
    print("WARNING: a newer gcloud is available", file=sys.stderr)
    print(state.read_text())
elif verb == "delete":
    remove()
elif state.read_text() != "READY":
    sys.exit(255)
elif verb == "scp" and words[4] == "--recurse":
    import shutil

    shutil.copytree(workers / "0" / words[5].partition(":")[2], words[6], dirs_exist_ok=True)
elif verb == "scp":
    import shutil

    for worker in workers.iterdir():
        shutil.copy(words[4], worker / words[5].partition(":")[2])
else:
    import subprocess

    chosen = next(w.removeprefix("--worker=") for w in words if w.startswith("--worker="))
    for worker in "01" if chosen == "all" else chosen:
        home = workers / worker
        environment = {**os.environ, "HOME": str(home), "WORKER": worker}
        done = subprocess.run(["bash", "-c", command], cwd=home, env=environment)
        if done.returncode:
            sys.exit(done.returncode)
'''

UV = """
import os, pathlib, shutil, sys

if sys.argv[1] == "venv":
    program = pathlib.Path(sys.argv[-1]) / "bin/python"
    program.parent.mkdir(parents=True)
    shutil.copy(pathlib.Path(os.environ["FAKE_CLOUD"]) / "bin/program", program)
"""

PROGRAM = """
import json, os, pathlib, signal, sys

cloud, worker = pathlib.Path(os.environ["FAKE_CLOUD"]), os.environ["WORKER"]
print("hello from the program", flush=True)
with (cloud / f"program{worker}").open("a+") as starts:
    starts.seek(0)
    earlier = len(starts.readlines())
    starts.write(json.dumps(sys.argv[1:]) + "\\n")
scenario = json.loads((cloud / "scenario").read_text())
event = scenario.get("program", [0])[earlier]
if scenario.get("saves") and worker == "0":
    (cloud / "bucket").write_text(f"gs://bucket/run/checkpoints/{earlier}/model/x")
if event == "until SIGTERM":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    signal.alarm(60)
    with open(cloud / f"started{worker}", "w"):
        signal.pause()
sys.exit(event)
"""


class Cloud:
    """The stub, a record of its calls, and a checkout of launch/tpu_vm, where the script runs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkout = folder / "checkout"
        shutil.copytree(ROOT / "launch" / "tpu_vm", self.checkout / "launch" / "tpu_vm")
        (self.checkout / ".gitignore").write_text(".work/\n")
        author = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        for command in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "test"]):
            subprocess.run(["git", *command], cwd=self.checkout, check=True)
        (folder / "bin").mkdir()
        for name, code in {"gcloud": GCLOUD, "uv": UV, "program": PROGRAM}.items():
            (folder / "bin" / name).write_text(f"#!{sys.executable} -IS\n{code}")
            (folder / "bin" / name).chmod(0o755)
        self.plan()

    def copy(self, folder: Path) -> "Cloud":
        """Copies this to another, empty folder."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        cloud = object.__new__(Cloud)
        cloud.folder, cloud.checkout = folder, folder / "checkout"
        return cloud

    def plan(self, **scenario):
        """Sets the events of a verb (one per call) and the program's exit codes (one per start)."""
        (self.folder / "scenario").write_text(json.dumps(scenario))

    def start(self, *words: str, **settings: str) -> subprocess.Popen:
        environment = {
            **{"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HOME": str(self.folder)},
            **{"FAKE_CLOUD": str(self.folder), "ZONE": "us-west4-a", "PAUSE": "0", "LIMIT": "30"},
            **settings,
        }
        return subprocess.Popen(  # `env` restores SIGINT, which background processes ignore
            ["env", "--default-signal=INT", "bash", "launch/tpu_vm/tpu_vm.sh", *words],
            cwd=self.checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *words: str, **settings: str) -> subprocess.CompletedProcess:
        process = self.start(*words, **settings)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def lines(self, name: str) -> list:
        file = self.folder / name
        return [json.loads(line) for line in file.open()] if file.exists() else []

    def calls(self) -> list[list[str]]:
        """The gcloud commands so far."""
        return [words for _, words in self.lines("calls")]

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.lines("calls")]

    def starts(self, worker: int = 0) -> list[list[str]]:
        """The arguments of the program, each time that a worker started it."""
        return self.lines(f"program{worker}")

    def run_until_sigterm(self):
        """Starts programs that run until SIGTERM; returns when they wait for it."""
        self.plan(program=["until SIGTERM"] * 2)
        pipes = [self.folder / f"started{worker}" for worker in (0, 1)]
        for pipe in pipes:
            os.mkfifo(pipe)
        assert self.call("run", *FLAGS).returncode == 0
        for pipe in pipes:
            pipe.open().close()  # blocks until the program opens the other end
            pipe.unlink()
