"""MLflow killed at random moments of each stage: what is whole, what is logged later.

    python -m benchmarks.distributed.mlflow_kills --out runs/mlflow-kills

Each stage runs once undisturbed and then several times with a real MLflow server that gets SIGKILL
at a random moment: after a number of answers, drawn from none to all but the last of those that the
undisturbed run got once its run was created. Checked after each kill: the
exit code, the lines on stderr, the output folder; then, with the server started again on the same
store, that ``--resume-tracking`` logs the same as the undisturbed run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import random
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks.distributed.mlflow_server import MlflowServer
from pipeline.collect.worker import Collector
from pipeline.exploration.collect_plan import CollectPlan
from pipeline.models.model_info import find_model
from pipeline.traces.commit import claim_output, write_manifest

LIMIT_S = 600
LIBRARIES = ("torch", "diffusers", "pyarrow.dataset", "ray", "sklearn", "matplotlib.figure")
"""Loaded before the first fork; none of them starts a thread that a fork would lose."""
COMPLETE = {
    "collect": ("_manifest", "lineage.json"),
    "train": ("policy.json", "policy.safetensors"),
    "evaluate": ("results.json", "report.md", "frontier.png", "samples.png"),
    "sample": ("sample.json", "samples.png", "images/000.png"),
    "sweep": ("sweep.json", "sweep.png", "report.md"),
}
"""Files and folders without which the output of a stage is not whole."""
FLAGS = {
    "collect": "--model digits --num-trajectories 16 --unit-size 4 --steps 6 --workers 1",
    "train": "--traces {traces}",
    "evaluate": "--model digits --methods interval,fewer-steps --sweep-density coarse "
    "--num-samples 8 --batch-size 4 --steps 8 --workers 1",
    "sample": "--model digits --steps 30 --class-labels 1,2,3,4",
    "sweep": "threshold --thresholds 1.5,5 --reuse-limits 2 --runs 2",
}
"""Flags of each stage, for runs of seconds."""
OWN = {"out", "command", "traces"}
"""Parameters that differ between two runs of the same stage."""


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
        traces = out.parent.parent / "collect" / "whole"
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


def stage_runs(server: MlflowServer, stage: str) -> set[str]:
    """Return the ids of the stage's runs, read past the server."""
    query = "SELECT run_uuid FROM tags WHERE key = 'stage' AND value = ?"
    with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)) as database:
        return {run_id for (run_id,) in database.execute(query, (stage,))}


def await_run(server: MlflowServer, stage: str, known: set[str], job: Job) -> str:
    """Wait until the stage's new run exists; return its id."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and job.process.is_alive():
        if new := stage_runs(server, stage) - known:
            return new.pop()
        time.sleep(0.02)
    raise RuntimeError(f"The stage {stage} made no run. {job.end()}")


def logged(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """Return what a run and its children hold, without what differs between two runs."""
    run = client.get_run(run_id)
    within = f"tags.`mlflow.parentRunId` = '{run_id}'"
    children = client.search_runs([run.info.experiment_id], within, max_results=1000)
    return _held(client, run) | {
        "children": sorted((_held(client, child) for child in children), key=json.dumps),
        "policy_versions": len(client.search_model_versions(f"run_id = '{run_id}'")),
    }


def _held(client: MlflowClient, run: Run) -> dict[str, Any]:
    params = {name: value for name, value in run.data.params.items() if name not in OWN}
    points = {
        name: len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics
    }
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "params": dict(sorted(params.items())),
        "metric_points": dict(sorted(points.items())),
        "tags": sorted(name for name in run.data.tags if not name.startswith("mlflow.user")),
        "artifacts": sorted(_artifacts(client, run.info.run_id)),
        "datasets": len(inputs),
    }


def _artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    found = []
    for entry in client.list_artifacts(run_id, folder):
        found += _artifacts(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return found


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


def undisturbed(server: MlflowServer, stage: str, folder: Path) -> tuple[dict[str, Any], int]:
    """Run the stage; return what it logged and the number of answers after its run was created."""
    known = stage_runs(server, stage)
    job = Job(stage, folder / stage / "whole", server.url)
    run_id = await_run(server, stage, known, job)
    before = server.requests
    ended = job.end()
    if ended.code != 0:
        raise RuntimeError(f"{stage} must succeed. {ended}")
    answers = server.requests - before
    return logged(MlflowClient(server.url), run_id), answers


def disturbed(
    server: MlflowServer, stage: str, out: Path, answers: int, expected: dict[str, Any]
) -> dict[str, Any]:
    """Kill the server a number of answers after the begin of the stage's run; return a row."""
    known = stage_runs(server, stage)
    job = Job(stage, out, server.url)
    run_id = await_run(server, stage, known, job)
    before = server.requests
    while server.requests - before < answers and job.process.is_alive():
        time.sleep(0.005)
    server.kill()
    got = server.requests - before
    killed = time.monotonic()
    ended = job.end()
    waited = time.monotonic() - killed
    whole, left = is_whole(stage, out), (out / "_tracking" / "pending.jsonl").exists()
    server.start()
    resumed = Job(stage, out, server.url, "--resume-tracking").end()
    found = logged(MlflowClient(server.url), run_id)
    lines = [line for line in ended.stderr.splitlines() if line.startswith(f"{stage}.py: ")]
    return {
        "stage": stage,
        "killed_after_answers": got,
        "seconds_from_kill_to_end": round(waited, 1),
        "exit_code": ended.code,
        "is_whole": whole,
        "was_pending": left,
        "lines": lines,
        "traceback": "Traceback" in ended.stdout + ended.stderr,
        "resumed_exit_code": resumed.code,
        "resumed_said": (resumed.stdout + resumed.stderr).strip().splitlines()[-1:],
        "left_after_resume": (out / "_tracking").exists(),
        "is_equal": found == expected,
        "differs": [name for name in expected if found.get(name) != expected[name]],
        "runs_of_the_stage": len(stage_runs(server, stage)) - len(known),
    }


def is_good(row: dict[str, Any]) -> bool:
    """Return True if a kill cost nothing but the logging, which was done later; or if it hit the
    creation of the run itself, so that the stage was refused and wrote nothing."""
    codes = (row["exit_code"], row["was_pending"], len(row["lines"]))
    if codes == (2, False, 1):
        return not row["is_whole"] and not row["traceback"]
    return (
        codes in ((1, True, 1), (0, False, 0))
        and row["is_whole"]
        and not row["traceback"]
        and row["resumed_exit_code"] == 0
        and not row["left_after_resume"]
        and row["is_equal"]
        and row["runs_of_the_stage"] == 1
    )


def kill_in(stage: str, folder: Path, kills: int, draw: random.Random) -> list[dict[str, Any]]:
    """Run a stage undisturbed, then with as many kills; return a row for each kill."""
    server = MlflowServer(folder / stage / "server")
    server.start()
    rows = []
    try:
        if stage == "train":
            make_traces(folder / "collect" / "whole")
        expected, answers = undisturbed(server, stage, folder)
        for number in range(kills):
            after = draw.randrange(answers)
            row = disturbed(server, stage, folder / stage / f"{number}", after, expected)
            rows.append(row | {"answers_undisturbed": answers, "is_good": is_good(row)})
            print(json.dumps(rows[-1]), flush=True)
    finally:
        server.kill()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill MLflow in each stage.")
    parser.add_argument("--out", type=Path, default=Path("runs/mlflow-kills"))
    parser.add_argument("--stages", nargs="+", default=list(COMPLETE), choices=list(COMPLETE))
    parser.add_argument("--kills", type=int, default=5, help="kills in each stage")
    parser.add_argument("--seed", type=int, default=19, help="seed of the moments")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    for library in LIBRARIES:
        importlib.import_module(library)
    rows = []
    for stage in arguments.stages:
        draw = random.Random(f"{arguments.seed} {stage}")
        rows += kill_in(stage, out, arguments.kills, draw)
    document = {"seed": arguments.seed, "date": time.strftime("%Y-%m-%d"), "kills": rows}
    (out / "mlflow-kills.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"seed {arguments.seed}: {sum(row['is_good'] for row in rows)} of {len(rows)} kills good")
    return 0 if all(row["is_good"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
