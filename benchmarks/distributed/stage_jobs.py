"""Each stage of the pipeline as a small job in a forked process; whether its output is whole."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.collect.worker import Collector
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.models.model_info import find_model
from pipeline.traces.commit import claim_output, write_manifest

LIMIT_S = 600
COMPLETE = {
    "collect": ("_manifest", "lineage.json"),
    "train": ("policy.json", "policy.safetensors"),
    "evaluate": ("results.json", "report.md", "frontier.png", "samples.png"),
    "sample": ("sample.json", "samples.png", "images/000.png"),
    "sweep": ("sweep.json", "sweep.png", "report.md"),
}
"""Files and folders without which the output of a stage is not whole."""
TRACES = "traces"
"""Folder, beside those of the stages, of the traces that trainings read."""
FLAGS = {
    "collect": "--model digits --num-trajectories 16 --unit-size 4 --steps 6 --workers 1",
    "train": "--traces {traces}",
    "evaluate": "--model digits --methods interval,fewer-steps --sweep-density coarse "
    "--num-samples 8 --batch-size 4 --steps 8 --workers 1",
    "sample": "--model digits --steps 30 --class-labels 1,2,3,4",
    "sweep": "threshold --thresholds 1.5,5 --reuse-limits 2 --runs 2",
}
"""Flags of each stage, for runs of seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A job that has ended."""

    code: int
    seconds: float
    stdout: str
    stderr: str


class Job:
    """A job in a process that is forked from this one, which has loaded the libraries.

    Args:
        stage: name of the stage.
        out: output folder.
        uri: tracking URI.
        more: further flags.
    """

    def __init__(self, stage: str, out: Path, uri: str, *more: str) -> None:
        traces = out.parent.parent / TRACES
        words = FLAGS[stage].format(traces=traces).split()
        self._words = [*words, *more, "--out", str(out), "--tracking-uri", uri]
        self._stage, self._log = stage, Path(f"{out}.log")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic()
        self.process = multiprocessing.get_context("fork").Process(target=self._run)
        self.process.start()

    def _run(self) -> None:
        for number, path in ((1, self._log), (2, Path(f"{self._log}.err"))):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        # A test's own streams would take the output.
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ.pop("RAY_ADDRESS", None)
        os.chdir(self._log.parent)
        sys.argv = [f"jobs/{self._stage}.py", *self._words]
        code = importlib.import_module(f"jobs.{self._stage}").main()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def end(self) -> Ended:
        """Wait for the end."""
        self.process.join(LIMIT_S)
        if self.process.exitcode is None:
            raise RuntimeError(f"{self._stage} must end within {LIMIT_S} s: read {self._log}.")
        return Ended(
            code=self.process.exitcode,
            seconds=time.monotonic() - self._began,
            stdout=self._log.read_text(),
            stderr=Path(f"{self._log}.err").read_text(),
        )


def is_whole(stage: str, out: Path) -> bool:
    """Return True if the output folder holds all files of the stage."""
    return all((out / name).exists() for name in COMPLETE[stage])


def make_traces(root: Path) -> None:
    """Collect the traces of the trainings in this process, unless they are there."""
    model = find_model("digits")
    plan = CollectPlan(
        model="digits", model_hash=model.model_hash, num_trajectories=24, batch_size=24, steps=6
    )
    claim_output(root, plan)
    collector = Collector(plan, str(root))
    receipts = {unit.unit_id: collector.do(unit) for unit in plan.units()}
    facts = {"num_layers": model.num_layers, "site_flops": model.site_flops}
    write_manifest(root, plan, receipts, facts)
