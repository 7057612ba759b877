"""MLflow killed at random moments of each stage: what is whole, what is logged later.

    python -m benchmarks.distributed.mlflow_kills --out runs/mlflow-kills

Each stage runs once undisturbed and then several times with a real MLflow server that gets SIGKILL
at a random moment: after a number of answers, drawn from none to all but the last of those that the
undisturbed run got, and a few milliseconds, so that it also dies in the middle of a request.
Checked after each kill: the exit code, the lines on stderr, the output folder; then, with the
server started again on the same store, that a second command (``--resume-tracking``, or the first
one again after exit code 2) leaves what the undisturbed run leaves. The rule is
docs/reliability.md's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from benchmarks.distributed.logged_runs import logged, open_runs, stage_runs
from benchmarks.distributed.mlflow_server import MlflowServer
from benchmarks.distributed.stage_jobs import COMPLETE, TRACES, Job, is_whole, make_traces
from pipeline.cli import BAD_INPUT
from pipeline.tracking.pending import FOLDER, PENDING

LIBRARIES = ("torch", "diffusers", "pyarrow.dataset", "ray", "sklearn", "matplotlib.figure")
"""Loaded before the first fork; none of them starts a thread that a fork would lose."""
LONGEST_DELAY_S = 0.03
"""Longest time from an answer to the kill, which is as long as a request takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """A moment of a stage, counted from its start."""

    answers: int
    """Answers that the stage has got."""
    delay_s: float
    """Seconds from the last of them."""


def undisturbed(server: MlflowServer, stage: str, folder: Path) -> tuple[dict[str, Any], int]:
    """Run the stage; return what it logged and the number of answers that it got."""
    known, before = stage_runs(server, stage), server.requests
    ended = Job(stage, folder / stage / "whole", server.url).end()
    if ended.code != 0:
        raise RuntimeError(f"{stage} must succeed. {ended}")
    answers = server.requests - before
    (run_id,) = stage_runs(server, stage) - known
    return logged(MlflowClient(server.url), run_id), answers


def disturbed(
    server: MlflowServer, stage: str, out: Path, moment: Moment, expected: dict[str, Any]
) -> dict[str, Any]:
    """Kill the server at a moment of the stage; return a row."""
    known, before = stage_runs(server, stage), server.requests
    job = Job(stage, out, server.url)
    while server.requests - before < moment.answers and job.process.is_alive():
        time.sleep(0.002)
    time.sleep(moment.delay_s)
    server.kill()
    got, killed = server.requests - before, time.monotonic()
    ended = job.end()
    waited = time.monotonic() - killed
    left = {
        "is_whole": is_whole(stage, out),
        "was_pending": (out / PENDING).exists(),
        "runs_before_second_command": len(stage_runs(server, stage) - known),
    }
    server.start()
    more = [] if ended.code == BAD_INPUT else ["--resume-tracking"]
    second = Job(stage, out, server.url, *more).end()
    lines = [line for line in ended.stderr.splitlines() if line.startswith(f"{stage}.py: ")]
    row = {
        "stage": stage,
        "killed_after_answers": got,
        "seconds_from_kill_to_end": round(waited, 1),
        "exit_code": ended.code,
        "lines": lines,
        "traceback": "Traceback" in ended.stdout + ended.stderr,
        "second_exit_code": second.code,
        "second_said": (second.stdout + second.stderr).strip().splitlines()[-1:],
        "is_whole_after_second": is_whole(stage, out),
        "left_after_second": (out / FOLDER).exists(),
        "open_runs": open_runs(server),
    }
    return row | left | _against(server, stage_runs(server, stage) - known, expected)


def _against(server: MlflowServer, made: set[str], expected: dict[str, Any]) -> dict[str, Any]:
    """Compare the one run that a stage must have with that of the undisturbed run."""
    found = logged(MlflowClient(server.url), next(iter(made))) if len(made) == 1 else {}
    differs = [name for name in expected if found.get(name) != expected[name]]
    return {"runs_of_the_stage": len(made), "is_equal": found == expected, "differs": differs}


def is_good(row: dict[str, Any]) -> bool:
    """Return True if a kill ended as docs/reliability.md says: work whole and logged by the second
    command, or nothing begun and done by the second command; no run twice, none left open."""
    ended = (row["exit_code"], row["is_whole"], row["was_pending"], len(row["lines"]))
    return (
        ended in ((1, True, True, 1), (0, True, False, 0), (2, False, False, 1))
        and row["is_whole_after_second"]
        and not row["traceback"]
        and row["second_exit_code"] == 0
        and not row["left_after_second"]
        and row["is_equal"]
        and row["runs_of_the_stage"] == 1
        and row["open_runs"] == 0
    )


def kill_in(stage: str, folder: Path, kills: int, draw: random.Random) -> list[dict[str, Any]]:
    """Run a stage undisturbed, then with as many kills; return a row for each kill."""
    server = MlflowServer(folder / stage / "server")
    server.start()
    rows = []
    try:
        if stage == "train":
            make_traces(folder / TRACES)
        expected, answers = undisturbed(server, stage, folder)
        for number in range(kills):
            moment = Moment(
                answers=draw.randrange(answers), delay_s=draw.uniform(0.0, LONGEST_DELAY_S)
            )
            row = disturbed(server, stage, folder / stage / f"{number}", moment, expected)
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
