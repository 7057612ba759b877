"""Kill -9 in the middle of a training and of an evaluation: the same command takes it up.

What is killed holds still by then, so that no machine is too fast and none looks too late.
"""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.distributed.stage_jobs import make_traces
from dqar.policy.serialization import load_policy
from tests.jobs.killed_job import ROOT, finish, kill_when, start
from tests.jobs.paused_job import paused_job

FINAL = "_checkpoint/final.json"
ANSWERS = "_points/[!_]*.json"
CLOCKED = ("speedup", "speedup_bound", "latency_s", "peak_memory_mb")
"""Columns that no two runs share."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TRAINS_IN_SMALL_STEPS = """
import pipeline.train.checkpoint
pipeline.train.checkpoint.EVERY_S = 0.0
"""
"""Ahead of a training's job: a checkpoint at every round."""
NEVER = 10**6
"""More files than are ever there: a job that holds still at so many does not."""


@pytest.fixture(scope="module")
def traces(tmp_path_factory) -> Path:
    """24 trajectories of 6 steps, collected without a cluster."""
    root = tmp_path_factory.mktemp("traces") / "digits"
    make_traces(root)
    return root


def log_of(out: Path) -> Path:
    """Log of the job that writes a folder."""
    return Path(f"{out}.log")


def train(traces: Path, out: Path, hold_at: int = NEVER) -> subprocess.Popen:
    flags = ["--traces", traces, "--out", out, "--tracking-uri", f"sqlite:///{out}.db"]
    job = paused_job("train", ROOT, out / FINAL, hold_at, out.parent / "never")
    words = [job[0], TRAINS_IN_SMALL_STEPS + job[1], *job[2:], *flags]
    return start(words, log_of(out))


def test_a_training_that_was_killed_ends_at_the_same_policy(traces, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(train(traces, whole), log_of(whole))
    process = train(traces, cut, hold_at=1)
    kill_when((cut / FINAL).exists, process, log_of(cut))
    assert not (cut / "policy.json").exists()
    finish(train(traces, cut), log_of(cut))
    said = log_of(cut).read_text()
    assert "the trial fit resumes from its checkpoint at optimizer step" in said
    assert "the final fit resumes from its checkpoint at optimizer step" in said
    assert sorted(path.name for path in cut.iterdir()) == ["policy.json", "policy.safetensors"]
    one, other = load_policy(whole), load_policy(cut)
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert one.spec.plans == other.spec.plans
    assert one.spec.metrics == other.spec.metrics


def evaluate(out: Path, hold_at: int = NEVER) -> subprocess.Popen:
    flags = {
        "--model": "digits",
        "--out": str(out),
        "--methods": "interval,fewer-steps",
        "--sweep-density": "coarse",
        "--num-samples": 24,
        "--batch-size": 4,
        "--samples-per-task": 12,
        "--steps": 10,
        "--workers": 1,
        "--tracking-uri": f"sqlite:///{out}.db",
    }
    words = [word for flag in flags.items() for word in flag]
    job = paused_job("evaluate", ROOT, out / ANSWERS, hold_at, out.parent / "never")
    return start([*job, *words], log_of(out))


def rows_of(out: Path) -> list[dict]:
    rows = json.loads((out / "results.json").read_text())
    return [{name: row[name] for name in row if name not in CLOCKED} for row in rows]


def test_an_evaluation_that_was_killed_measures_only_what_is_missing(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(evaluate(whole), log_of(whole))
    assert not (whole / "_points").exists()
    process = evaluate(cut, hold_at=3)
    kill_when(lambda: len(list(cut.glob(ANSWERS))) >= 3, process, log_of(cut))
    assert not (cut / "results.json").exists()
    answers = {path.name: path.stat().st_mtime_ns for path in cut.glob(ANSWERS)}
    # Eight points of two parts each.
    assert 3 <= len(answers) < 16
    finish(evaluate(cut), log_of(cut))
    said = log_of(cut).read_text()
    assert f"evaluate: {len(answers)} of 16 tasks were done before an interruption" in said
    assert not (cut / "_points").exists()
    assert rows_of(cut) == rows_of(whole)
