"""Kill -9 while a job writes its folder: the same command then finishes, and replaces no other's
files."""

import json
import time

import pytest

from pipeline.exploration.collect_plan import CollectPlan
from pipeline.models.model_info import find_model
from pipeline.storage.unfinished_mark import MARK
from tests.jobs import killed_job
from tests.jobs.killed_job import LIMIT_S, ROOT, finish, kill_when, wait_until
from tests.jobs.test_demo import processes_about
from tests.pipeline.conftest import collected

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

HELD = """
import importlib, sys, time
from pathlib import Path
root, name, hold = sys.argv[1:4]
del sys.argv[1:4]
sys.path.insert(0, root)
if hold != 'no':
    import matplotlib.figure
    import dqar.policy.serialization
    def hold_still(*arguments, **options):
        Path(hold).touch()
        time.sleep(600)
    matplotlib.figure.Figure.savefig = hold_still
    dqar.policy.serialization._digest = hold_still
sys.exit(importlib.import_module(f'jobs.{name}').main())
"""
"""A job's program. With a path to touch, it stops for ever where it would draw its first picture,
or where the weights of a policy are written and policy.json is not."""
SMALL = ["--num-samples", "4", "--steps", "4"]
JOBS = {
    "sample": (SMALL, "sample.json", "images/000.png"),
    "sweep": (["warmup", *SMALL, "--runs", "2", "--batch-size", "4"], "sweep.json", MARK),
    "train": (["--features", "schedule"], "policy.json", "policy.safetensors"),
    "evaluate": (
        [*SMALL, "--methods", "interval", "--batch-size", "4", "--workers", "1"],
        "results.json",
        MARK,
    ),
}
"""Flags, the file that is written last, and one that is there when the job is killed."""


INFO = find_model("digits")
PLAN = CollectPlan(
    model="digits",
    model_hash=INFO.model_hash,
    num_trajectories=24,
    batch_size=12,
    steps=6,
    guidance_scale=INFO.guidance_scale,
)


def start(name, flags, log, hold="no"):
    return killed_job.start(["-c", HELD, ROOT, name, hold, *flags], log)


@pytest.mark.parametrize("name", JOBS)
def test_the_same_command_finishes(tmp_path, name):
    own, last, begun = JOBS[name]
    out, log, held = tmp_path / "out", tmp_path / "job.log", tmp_path / "held"
    if name == "train":
        model = ["--traces", str(collected(PLAN, tmp_path / "traces"))]
    else:
        model = ["--model", "digits"]
    flags = [*own, *model, "--out", str(out), "--tracking-uri", f"sqlite:///{tmp_path}/m.db"]
    kill_when(held.exists, start(name, flags, log, held), log)
    assert (out / MARK).read_text() == f"{last}\n"
    assert (out / begun).exists()
    assert not (out / last).exists()
    finish(start(name, flags, log), log)
    assert json.loads((out / last).read_text())
    assert not (out / MARK).exists()


def test_pretraining_finishes(tmp_path):
    """It writes its classifier first, and trains the model then."""
    out, log = tmp_path / "out", tmp_path / "job.log"
    flags = ["--out", str(out), "--steps", "30", "--classifier-epochs", "1"]
    begun = out / "classifier" / "config.json"
    kill_when(begun.exists, start("pretrain", flags, log), log)
    assert not (out / "provenance.json").exists()
    finish(start("pretrain", flags, log), log)
    assert json.loads((out / "provenance.json").read_text())["config"]["steps"] == 30
    refused = start("pretrain", flags, log)
    assert refused.wait(timeout=LIMIT_S) == 2


def test_the_demonstration_finishes(tmp_path):
    """Servers end with their demonstration; its collection would hold the lease else."""
    out, log = tmp_path / "demo", tmp_path / "job.log"
    flags = ["--out", str(out), "--num-trajectories", "24", "--num-samples", "4", "--steps", "6"]
    demo = start("demo", flags, log)
    wait_until(lambda: list(out.glob("traces/_lease/*.json")), demo, log)
    demo.kill()
    demo.wait()
    deadline = time.monotonic() + LIMIT_S
    # The servers have been told to end, and the collection on them ends some seconds later.
    while processes_about(str(out)):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    finish(start("demo", flags, log), log)
    assert json.loads((out / "results" / "results.json").read_text())
