"""jobs/doctor.py as started by hand: its lines, exit codes and refusals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def lines_of(out):
    """Findings by name."""
    found = [line for line in out.splitlines() if line.startswith(("ok  ", "FAIL"))]
    return {line[6:21].strip(): line for line in found}


@pytest.mark.slow
def test_this_machine_is_checked_through_a_local_ray(run_job, tmp_path):
    code, out, _ = run_job("doctor", "--model", "digits", "--out", tmp_path / "traces")
    found = lines_of(out)
    assert {"driver versions", "ray", "worker versions", "auth", "storage", "model"} <= set(found)
    for name in ("ray", "worker versions", "storage", "model"):
        assert found[name].startswith("ok"), found[name]
    is_well = not [line for line in found.values() if line.startswith("FAIL")]
    assert code == (0 if is_well else 1)
    assert ("All is well." in out) is is_well


def test_a_head_that_does_not_answer_is_a_finding(run_job, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, out, _ = run_job("doctor")
    assert code == 1
    assert lines_of(out)["ray"].startswith("FAIL")
    assert "Start the head" in lines_of(out)["ray"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_every_dead_service_is_a_finding(run_job, monkeypatch, tmp_path, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    (tmp_path / "file").touch()
    places = ("--out", tmp_path / "file" / "x", "--tracking-uri", "http://127.0.0.1:1")
    code, out, err = run_job("doctor", *places)
    assert (code, err) == (1, "")
    found = lines_of(out)
    for name in ("ray", "storage", "mlflow"):
        assert found[name].startswith("FAIL"), found[name]
    assert "this machine cannot write" in found["storage"]


def test_a_dead_job_server_is_a_finding(run_job, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    code, out, err = run_job("doctor")
    assert (code, err) == (1, "")
    assert "the job server at http://127.0.0.1:1 did not answer" in lines_of(out)["ray"]


def test_a_missing_library_is_a_finding(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")
    job = Path(__file__).parents[2] / "jobs" / "doctor.py"
    ended = subprocess.run(
        [sys.executable, job],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{job.parents[1]}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (1, "")
    assert lines_of(ended.stdout)["driver versions"].startswith("FAIL  driver versions  No module")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--timeout-s", "0"), "--timeout-s must be"),
        (("--timeout-s", "nan"), "--timeout-s must be"),
        (("--timeout-s", "inf"), "--timeout-s must be"),
        (("--timeout-s", "1e308"), "--timeout-s must be"),
        (("--model", "./nowhere"), "--model must be"),
        (("--unknown",), "There is no flag --unknown"),
    ],
)
def test_bad_input_is_one_line_before_ray_starts(run_job, monkeypatch, flags, said):
    def no_ray(*_, **__):
        raise AssertionError("bad input must be refused before Ray starts")

    monkeypatch.setattr("ray.init", no_ray)
    code, out, err = run_job("doctor", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_relative_out_is_refused_inside_a_ray_job(run_job, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    code, _, err = run_job("doctor", "--out", "traces")
    assert code == 2
    assert "--out must be absolute" in err
