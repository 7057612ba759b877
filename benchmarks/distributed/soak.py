"""Hundreds of faults over many small collections: is each dataset the one that was planned?

    python -m benchmarks.distributed.soak --faults 200 --minutes 30

Each collection is disturbed by :mod:`benchmarks.distributed.fault_injection` and compared with one
that nobody disturbed. What was done is kept in ``--work``, a line a collection: the same command
again adds to it until there were ``--faults``, then nothing is left to do. The sum goes to
``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.distributed.fault_injection import Arena, Collection, draw_kinds

RESULT = Path(__file__).parents[1] / "results" / "cpu" / "soak.json"
PLAN = {"--model": "digits", "--num-trajectories": 150, "--steps": 10, "--unit-size": 3}
"""Fifty light units."""
EACH = 12
"""Faults that a collection is to meet; one that ends earlier met fewer."""
FOUND = ("decision_digest", "data_digest", "rows_conserved")
GATES = 10 * 8
"""Rows of the gates table, a trajectory: steps by layers."""


def soak(work: Path, faults: int, minutes: float) -> bool:
    """Add collections to ``work`` until there were enough faults; whether all were as planned."""
    deadline = time.monotonic() + 60.0 * minutes
    arena = Arena()
    try:
        while _count(records(work)) < faults and time.monotonic() < deadline:
            _add_one(arena, work)
    finally:
        arena.close()
    return all(is_as_planned(record) for record in records(work))


def _add_one(arena: Arena, work: Path) -> None:
    done = records(work)
    if not done:
        # What all others are compared with.
        record = collected(arena, work, seed=0, faults=0)
    else:
        record = collected(arena, work, seed=random.SystemRandom().randrange(2**32), faults=EACH)
        first = done[0]
        record["decisions_equal"] = record["decision_digest"] == first["decision_digest"]
        record["floats_equal"] = record["data_digest"] == first["data_digest"]
    with (work / "collections.jsonl").open("a") as lines:
        lines.write(json.dumps(record) + "\n")
    print(
        f"seed {record['seed']}: {len(record['faults'])} faults in {record['seconds']:.0f} s, "
        f"{'as planned' if is_as_planned(record) else f'NOT AS PLANNED: {record}'}; "
        f"{_count(done) + len(record['faults'])} faults so far",
        flush=True,
    )


def collected(arena: Arena, work: Path, *, seed: int, faults: int) -> dict[str, Any]:
    """One collection, disturbed by as many faults as it lives to see; what became of it."""
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="collection-", dir=work))
    started = time.monotonic()
    flags = PLAN | {"--tracking-uri": f"sqlite:///{work}/mlflow.db"}
    run = Collection(arena, folder / "traces", flags)
    try:
        for kind in draw_kinds(rng, faults):
            run.disturb(kind, rng)
        code = run.finish()
    finally:
        run.end()
    found: dict[str, Any] = _found(run.out) if code == 0 else dict.fromkeys(FOUND)
    record = {
        "seed": seed,
        "faults": [asdict(fault) for fault in run.faults],
        "exit_code": code,
        "seconds": round(time.monotonic() - started, 1),
        "partial_files_left": len(run.partial_files()),
        "quarantined": len(list((run.out / "_quarantine").glob("*.json"))),
        **found,
    }
    if is_as_planned(record):
        shutil.rmtree(folder)
    return record


def _found(out: Path) -> dict[str, Any]:
    from pipeline.traces import read_gates, read_trajectories
    from pipeline.traces.multi_dataset import open_traces

    manifest = open_traces(str(out)).manifest
    ids = read_trajectories(str(out))["trajectory_id"].to_pylist()
    owners = Counter(read_gates(str(out), ["trajectory_id"])["trajectory_id"].to_pylist())
    is_whole = len(ids) == len(set(ids)) == PLAN["--num-trajectories"]
    return {
        "decision_digest": manifest["decision_digest"],
        "data_digest": manifest["data_digest"],
        "rows_conserved": is_whole and owners == dict.fromkeys(ids, GATES),
    }


def is_as_planned(record: dict[str, Any]) -> bool:
    """Whether a collection ended well, with the rows and the decisions of the undisturbed one."""
    return (
        record["exit_code"] == 0
        and bool(record["rows_conserved"])
        and record.get("decisions_equal", True)
        and not record["quarantined"]
    )


def records(work: Path) -> list[dict[str, Any]]:
    """What was done so far, the undisturbed collection first."""
    path = work / "collections.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def _count(done: list[dict[str, Any]]) -> int:
    return sum(len(record["faults"]) for record in done)


def summary(done: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of docs/reliability.md."""
    disturbed = done[1:]
    kinds = Counter(fault["kind"] for record in disturbed for fault in record["faults"])
    return {
        "faults": _count(done),
        "faults_by_kind": dict(sorted(kinds.items())),
        "collections": len(disturbed),
        "as_planned": sum(map(is_as_planned, disturbed)),
        "floats_equal": sum(record.get("floats_equal", False) for record in disturbed),
        "partial_files_left": sum(record["partial_files_left"] for record in disturbed),
        "seconds": round(sum(record["seconds"] for record in disturbed), 1),
        "undisturbed_seconds": done[0]["seconds"] if done else None,
        "plan": PLAN,
        "seeds": [record["seed"] for record in disturbed],
    }


def keep_to_itself() -> None:
    """Let Ray and MLflow write into a folder of this process's own, and talk to nobody."""
    # Short, since Ray's sockets have long names under it and a limit of 107 bytes.
    home = tempfile.mkdtemp(prefix="dq-")
    os.environ |= {
        "HOME": home,
        "RAY_TMPDIR": home,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Disturb collections, and compare them.")
    parser.add_argument("--faults", type=int, default=200, help="in all, earlier runs included")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which none begins")
    parser.add_argument("--work", type=Path, default=Path("runs/soak"), help="what was done so far")
    parser.add_argument("--out", type=Path, default=RESULT, help="the figures")
    arguments = parser.parse_args(argv)
    keep_to_itself()
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    is_well = soak(work, arguments.faults, arguments.minutes)
    figures = summary(records(work))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
