"""A disk that is full during the work: one line, exit code 1, what is finished is kept."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import IncompleteError, InputError, StorageError, work_errors

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        is_mounted = False
    if not is_mounted:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_collection_names_its_units_and_goes_on_once_there_is_room(small_disk, tmp_path):
    out, filler = small_disk / "traces", small_disk / "filler"
    filler.write_bytes(bytes(1024 * 900))
    flags = ["--model", "digits", "--num-trajectories", "24", "--unit-size", "6", "--steps", "20"]
    places = ["--out", str(out), "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, str(ROOT / "jobs" / "collect.py"), *flags, *places]
    common = {"cwd": tmp_path, "env": environment | {"PYTHONPATH": str(ROOT)}, "timeout": 280}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, **common)
    assert ended.returncode == 1, ended.stdout[-2000:] + ended.stderr[-2000:]
    assert "Traceback" not in ended.stderr
    assert "its disk is full" in ended.stderr
    assert ended.stderr.strip().splitlines()[-1].startswith("collect.py: ")
    filler.unlink()
    again = subprocess.run(command, capture_output=True, text=True, check=False, **common)
    assert again.returncode == 0, again.stderr[-2000:]


@pytest.mark.parametrize(
    "error", [StorageError("Storage must answer."), OSError(errno.ENOSPC, "No space left", "/x")]
)
def test_storage_that_fails_during_the_work_is_work_left_undone(error):
    with pytest.raises(IncompleteError, match="Run the same command again") as ended, work_errors():
        raise error
    assert not isinstance(ended.value, InputError)


@pytest.mark.parametrize("error", [InputError("bad"), FileNotFoundError(errno.ENOENT, "gone")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as ended, work_errors():
        raise error
    assert ended.value is error
