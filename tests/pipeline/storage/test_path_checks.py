"""Odd paths are refused before any work in one line that names the flag, and nothing is written."""

import os
import subprocess
import sys

import pytest

from pipeline.errors import InputError
from pipeline.storage.output_checks import refuse_not_empty, refuse_other_files, refuse_unwritable
from pipeline.storage.path_checks import refuse_odd_paths


@pytest.fixture
def odd(tmp_path):
    """A folder with a file, a full folder, a pipe and links."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("/nonexistent/x")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


IMPOSSIBLE = {
    "long name": "x" * 256,
    "long name of two-byte letters": "é" * 128,
    "long name below a missing folder": "new/" + "x" * 256,
    "long name below a long name": "x" * 256 + "/b",
    "long path": "d/" * 2050,
    "path without room": "d/" * 1950,
    "NUL": "a\0b",
    "loop": "loop",
}


@pytest.mark.parametrize("path", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@pytest.mark.parametrize("flag", ["out", "model", "explore_around"])
def test_paths_that_cannot_be_are_refused_by_their_flag(odd, path, flag):
    said = rf"^--{flag.replace('_', '-')} must be a path that this machine can have\. Got "
    with pytest.raises(InputError, match=said) as refused:
        refuse_odd_paths(**{flag: f"{odd}/{path}"})
    assert str(refused.value).endswith("folder." if flag == "out" else "path.")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("path", [None, "s3://bucket/" + "x" * 300, "digits", "dangling/x", "~"])
def test_other_paths_are_left_to_their_readers(path):
    refuse_odd_paths(out=path, model=path)


def test_a_model_may_be_a_name_inside_a_ray_job(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    refuse_odd_paths(model="digits", out="/shared/out")
    with pytest.raises(InputError, match="--policy must be absolute inside a Ray job"):
        refuse_odd_paths(policy="runs/policy")


PLACES = ["file", "file/x", "fifo", "dangling", "dangling/x", "/dev/null", "/dev/full/x", "/proc/x"]
CHECKS = {
    "unwritable": refuse_unwritable,
    "other files": lambda out: (refuse_other_files(out, "sample.json"), refuse_unwritable(out)),
    "not empty": refuse_not_empty,
}


@pytest.mark.parametrize("place", [*PLACES, "/sys/x", "new/../x"])
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_output_folders_that_cannot_be_are_refused(odd, check, place):
    before = sorted(odd.rglob("*"))
    with pytest.raises(InputError, match=r"^--out must be .*Name a"):
        check(str(odd / place))
    assert sorted(odd.rglob("*")) == before


def test_a_folder_for_the_output_may_be_new_or_a_link(odd):
    (odd / "link").symlink_to("full")
    refuse_unwritable(f"{odd}/link")
    refuse_not_empty(f"{odd}/new/er")
    with pytest.raises(InputError, match="--out must be an empty or new folder"):
        refuse_not_empty(f"{odd}/full")
    assert not (odd / "new").exists()
    assert [one.name for one in (odd / "full").iterdir()] == ["x"]


@pytest.mark.skipif(os.getuid() != 0, reason="another user's folder needs the superuser")
def test_a_folder_of_another_user_is_refused(tmp_path):
    tmp_path.chmod(0o755)
    code = (
        "import os, sys; from pipeline.storage.output_checks import refuse_unwritable\n"
        "os.setuid(65534)\nrefuse_unwritable(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, f"{tmp_path}/x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    line = done.stderr.splitlines()[-1]
    assert "--out must be" in line
    assert "Permission denied. Name another folder." in line
