"""A disk that is full or cannot be written: a clear error, and the checkpoints stay usable."""

import subprocess
import time

import jax
import pytest
import tiny_training as tiny

from thermo_jax import main
from thermo_jax.configs import demo
from thermo_jax.training.checkpoints import FOLDER, Checkpoints

quick_compilation = pytest.fixture(scope="module", autouse=True)(tiny.quick_compilation)
BLOCK = 4096


@pytest.fixture
def disk(tmp_path):
    """A file system of 1.5 MB; the test is skipped if mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", folder]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk, *, but: int):
    """Leaves `but` bytes free."""
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(BLOCK))
        except OSError:
            file.truncate(max(0, file.tell() - but))


@pytest.fixture(scope="module")
def run():
    return tiny.toy_run([3.0, 2.0, 1.0, 0.5], weights=jax.random.normal(jax.random.key(0), 40_000))


# After this error, Orbax's threads outlive their event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# Room for nothing; for a checkpoint's first files; for its metadata; for all files but the last.
@pytest.mark.parametrize("left", [0, 20_000, 60_000, 150_000])
@pytest.mark.parametrize("epochs", [3, 4])  # the save that fails is the last one or not
def test_a_full_disk_stops_the_run_which_continues_when_there_is_room(
    run, disk, tmp_path, caplog, capfd, left, epochs
):
    plan = tiny.plan(epochs=epochs)

    def fill_it(epoch):
        if epoch == 2:
            deadline = time.monotonic() + 60
            while [step.name for step in (disk / "run" / FOLDER).iterdir()] != ["10"]:
                assert time.monotonic() < deadline
                time.sleep(0.01)  # a thread writes this one and deletes the first
            fill(disk, but=left)

    with pytest.raises(OSError, match="No space left on device"):
        run.fit(disk / "run", plan, on_epoch=fill_it)
    with Checkpoints(disk / "run", read_only=True) as checkpoints:
        latest = checkpoints.latest_step()
        assert latest in (10, 15)
        assert checkpoints.restore(run.state()).step == latest
    # Orbax's tracebacks would hide our error message.
    assert not caplog.records and "Traceback" not in capfd.readouterr().err
    (disk / "filler").unlink()
    continued = run.fit(disk / "run", plan)
    tiny.assert_same_tree(continued, run.fit(tmp_path / "straight", plan))


def test_a_read_only_disk_is_refused_at_once(disk, tmp_path):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(ValueError, match="run cannot be written .Read-only file system.*another"):
        main.run(demo.get_config(), disk / "run")
