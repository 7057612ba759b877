"""Output of a submitted job: a whole log, and the stage's own lines on the terminal."""

import subprocess
import sys

from pipeline.demo.job_log import JobLog

PRINTED = """\
2026-11-30 12:00:00,000 INFO worker.py:2013 -- Connecting to existing Ray cluster
(Collector pid=7) UserWarning: something of a library
collect: unit=ab12 index=0 status=done
collect:  50%|#####     | 96/192 [00:10<00:10,  9.6 trajectories/s]
calibrate learned:  50%|#####     | 8/16 [00:10<00:10,  0.8 trajectories/s]
verify: comparing 4 files
"""


def followed(tmp_path, program, every_s=15.0):
    log = JobLog("collect", tmp_path / "logs" / "collect.log", every_s)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return log, log.follow(process)


def test_a_terminal_shows_the_stage_and_the_file_everything(tmp_path, capsys):
    log, code = followed(tmp_path, f"import sys; sys.stdout.write({PRINTED!r}); sys.exit(3)")
    assert code == 3
    assert log.path.read_text() == PRINTED
    assert capsys.readouterr().out.splitlines() == PRINTED.splitlines()[3:]
    assert list(log.last) == PRINTED.splitlines()


def test_a_silent_stage_says_that_it_runs(tmp_path, capsys):
    _, code = followed(tmp_path, "import time; time.sleep(1.5)", every_s=0.4)
    assert code == 0
    assert set(capsys.readouterr().out.splitlines()) <= {
        f"collect: running for {seconds} s" for seconds in range(60)
    }
    assert (tmp_path / "logs" / "collect.log").read_text() == ""
