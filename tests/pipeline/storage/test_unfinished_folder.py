"""A folder that a run was killed in is known again by the same command, and by no other."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline.errors import InputError
from pipeline.storage.output_checks import refuse_other_files
from pipeline.storage.unfinished_folder import written_last
from pipeline.storage.unfinished_mark import MARK, is_unfinished
from tests.odd_files import ODD_FILES

WRITES = """
import sys, time
from pathlib import Path
from pipeline.storage.unfinished_folder import written_last
out = Path(sys.argv[1])
with written_last(out / "sample.json", {}):
    (out / "samples.png").write_bytes(b"1")
    time.sleep(600)
"""


def kill_while_writing(out):
    writer = subprocess.Popen([sys.executable, "-c", WRITES, out])
    deadline = time.monotonic() + 60
    while not (out / "samples.png").exists():
        assert writer.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "of an earlier run"])
def test_a_killed_run_leaves_its_own_folder(tmp_path, earlier):
    out = tmp_path / "out"
    if earlier:
        with written_last(out / "sample.json", {}):
            pass
    kill_while_writing(out)
    assert not (out / "sample.json").exists()
    refuse_other_files(str(out), "sample.json")
    with pytest.raises(InputError, match="holds other files"):
        refuse_other_files(str(out), "sweep.json")
    with written_last(out / "sample.json", {"a": 1}):
        (out / "samples.png").write_bytes(b"2")
    assert sorted(os.listdir(out)) == ["sample.json", "samples.png"]
    assert json.loads((out / "sample.json").read_text()) == {"a": 1}


def test_an_error_leaves_the_mark(tmp_path):
    with pytest.raises(KeyError), written_last(tmp_path / "sweep.json", {}):
        raise KeyError
    assert is_unfinished(tmp_path, "sweep.json")
    assert not (tmp_path / "sweep.json").exists()


@pytest.mark.parametrize("name", ["samples.png", "report.md", "plans", "policy.safetensors"])
def test_files_of_others_are_never_ours(tmp_path, name):
    (tmp_path / name).write_text("mine")
    for ours in ("sample.json", "results.json", "policy.json", "sweep.json"):
        with pytest.raises(InputError, match="holds other files"):
            refuse_other_files(str(tmp_path), ours)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", ODD_FILES.values(), ids=ODD_FILES)
def test_a_mark_that_is_no_file_marks_nothing(tmp_path, make):
    make(tmp_path / MARK)
    assert not is_unfinished(tmp_path, "sample.json")
