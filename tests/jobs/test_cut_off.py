"""Kill -9 in the middle of a training and of an evaluation: the same command takes it up.

What is killed holds still by then, so that no machine is too fast and none looks too late.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from dqar.policy.serialization import load_policy
from pipeline.collect.driver import Collector
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.models.model_info import find_model
from pipeline.traces.commit import claim_output, write_manifest
from tests.jobs.paused_job import paused_job

ROOT = Path(__file__).parents[2]
FINAL = "_checkpoint/final.json"
ANSWERS = "_points/[!_]*.json"
LIMIT_S = 400
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


def start(words: list, folder: Path, log: str) -> subprocess.Popen:
    """A process group of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / log).open("ab") as out:
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen, log: Path) -> None:
    assert process.wait(timeout=LIMIT_S) == 0, log.read_text()[-3000:]


def kill_when(process: subprocess.Popen, is_time) -> None:
    """SIGKILL for the process and all that it started."""
    deadline = time.monotonic() + LIMIT_S
    while not is_time():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=30)


@pytest.fixture(scope="module")
def traces(tmp_path_factory) -> Path:
    """24 trajectories of 6 steps, collected without a cluster."""
    card = find_model("digits")
    plan = CollectPlan(
        model="digits", model_hash=card.model_hash, num_trajectories=24, batch_size=24, steps=6
    )
    root = tmp_path_factory.mktemp("traces") / "digits"
    claim_output(root, plan)
    collector = Collector(plan, str(root))
    receipts = {unit.unit_id: collector.do(unit) for unit in plan.units()}
    facts = {"num_layers": card.num_layers, "site_flops": card.site_flops}
    write_manifest(root, plan, receipts, facts)
    return root


def train(traces: Path, out: Path, hold_at: int = NEVER) -> subprocess.Popen:
    flags = ["--traces", traces, "--out", out, "--tracking-uri", f"sqlite:///{out}.db"]
    job = paused_job("train", ROOT, out / FINAL, hold_at, out.parent / "never")
    words = [job[0], TRAINS_IN_SMALL_STEPS + job[1], *job[2:], *flags]
    return start(words, out.parent, f"{out.name}.log")


def test_a_training_that_was_killed_ends_at_the_same_policy(traces, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(train(traces, whole), tmp_path / "whole.log")
    process = train(traces, cut, hold_at=1)
    kill_when(process, lambda: (cut / FINAL).exists())
    assert not (cut / "policy.json").exists()
    finish(train(traces, cut), tmp_path / "cut.log")
    said = (tmp_path / "cut.log").read_text()
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
    return start([*job, *words], out.parent, f"{out.name}.log")


def rows_of(out: Path) -> list[dict]:
    rows = json.loads((out / "results.json").read_text())
    return [{name: row[name] for name in row if name not in CLOCKED} for row in rows]


def test_an_evaluation_that_was_killed_measures_only_what_is_missing(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(evaluate(whole), tmp_path / "whole.log")
    assert not (whole / "_points").exists()
    process = evaluate(cut, hold_at=3)
    kill_when(process, lambda: len(list(cut.glob(ANSWERS))) >= 3)
    assert not (cut / "results.json").exists()
    answers = {path.name: path.stat().st_mtime_ns for path in cut.glob(ANSWERS)}
    # Eight points of two parts each.
    assert 3 <= len(answers) < 16
    finish(evaluate(cut), tmp_path / "cut.log")
    said = (tmp_path / "cut.log").read_text()
    assert f"evaluate: {len(answers)} of 16 tasks were done before an interruption" in said
    assert not (cut / "_points").exists()
    assert rows_of(cut) == rows_of(whole)
