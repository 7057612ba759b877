"""Suite of timing benchmarks: its jobs, its resumption, and jobs that fail."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from benchmarks.timing import gpu_suite, suite
from benchmarks.timing.suite import KINDS, Job, Series, run_process, run_series


def small(**changes) -> Series:
    fields = {
        "device": "cpu",
        "models": ("tiny-dit", "tiny-pixart"),
        "batches": (4, 1),
        "dtype": "fp32",
    }
    return Series(**(fields | changes))


def test_each_result_has_a_name_of_its_own():
    jobs = list(small().jobs())
    names = [job.result for job in jobs]
    assert len(names) == len(set(names)) == 4 * 4 + 2
    assert names[0] == "tiny-dit-b4.json"
    assert names[-1] == "tiny-pixart-b1-compiled.json"


def test_each_job_is_a_module_that_is_there():
    modules = {job.module for job in small().jobs()}
    assert len(modules) >= len(KINDS) - 1
    for module in modules:
        assert find_spec(f"benchmarks.timing.{module}") is not None


def test_batches_come_before_models_and_kinds_before_both():
    names = [job.result for job in small(kinds=("costs", "speed")).jobs()]
    assert names[:3] == ["tiny-dit-b4.json", "tiny-pixart-b4.json", "tiny-dit-b1.json"]
    assert names[4] == "tiny-dit-b4-costs.json"


def test_a_gpu_caches_in_16_bits():
    job = next(small(device="cuda", dtype="bf16").jobs())
    flags = " ".join(job.flags)
    assert "--dtype bf16 --cache-bits 16" in flags


def test_what_is_there_is_not_measured_again(tmp_path, capsys):
    asked = []

    def run(job, out):
        asked.append(job.result)
        out.write_text("{}")
        return True

    wanted = small(kinds=("speed",))
    (tmp_path / "tiny-dit-b4.json").write_text("{}")
    assert run_series(wanted, tmp_path, run) == []
    assert asked == ["tiny-pixart-b4.json", "tiny-dit-b1.json", "tiny-pixart-b1.json"]
    assert run_series(wanted, tmp_path, run) == []
    assert len(asked) == 3
    assert "exists, not measured again" in capsys.readouterr().out


def test_one_that_fails_stops_no_other(tmp_path):
    failed = run_series(small(kinds=("speed",)), tmp_path, lambda job, out: "dit" not in str(out))
    assert failed == ["tiny-dit-b4.json", "tiny-dit-b1.json"]


def test_nothing_begins_after_its_minutes(tmp_path, capsys):
    assert run_series(small(), tmp_path, lambda job, out: False, minutes=-1.0) == []
    assert "left for the next run" in capsys.readouterr().out


def test_a_job_that_is_refused_gives_no_result(tmp_path):
    wrong = Job(module="cost_table", flags=("--model", "none"), result="none.json")
    assert not run_process(wrong, tmp_path / "none.json", 300.0)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="kinds must be of"):
        small(kinds=("speed", "quality"))


def test_gpu_list_is_a_series_that_flags_may_narrow():
    flags = gpu_suite.flags_of(["--batches", "16"])
    assert flags[:2] == ["--device", "cuda"]
    assert flags[-2:] == ["--batches", "16"]
    proof = gpu_suite.flags_of(["--prove", "/tmp/x", "--kinds", "decide"])
    assert proof[:2] == ["--device", "cpu"]
    assert proof[-4:] == ["--out", "/tmp/x", "--kinds", "decide"]
    assert set(KINDS) <= set(flags)


@pytest.mark.slow
def test_proof_runs_here(tmp_path, capfd):
    flags = ["--prove", str(tmp_path), "--models", "tiny-dit", "--batches", "1", "--kinds", "costs"]
    gpu_suite.main(flags)
    assert json.loads((tmp_path / "tiny-dit-b1-costs.json").read_text())["rounds"] >= 1
    gpu_suite.main(flags)
    assert "exists, not measured again" in capfd.readouterr().out


def test_failures_end_with_1(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "run_process", lambda job, out, timeout: False)
    with pytest.raises(SystemExit, match=r"tiny-dit-b1\.json"):
        suite.main(
            ["--device", "cpu", "--models", "tiny-dit", "--batches", "1", "--out", str(tmp_path)]
        )
