"""Soak test: hundreds of faults over many small collections, whose datasets must be as planned.

    python -m benchmarks.distributed.soak --faults 200 --minutes 30

:mod:`benchmarks.distributed.fault_injection` inflicts the faults. The dataset of each collection is
compared with the dataset of a collection without faults. The folder ``--work`` keeps one record for
each collection. The same command adds collections until ``--faults`` faults were inflicted, and
writes the summary of all records to ``--out``.
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
"""Flags of each collection: 50 units of 3 trajectories."""
EACH = 12
"""Faults drawn for a collection; one that ends earlier meets fewer."""
FOUND = ("decision_digest", "data_digest", "rows_conserved")
GATES = 10 * 8
"""Rows of the gates table for each trajectory: steps x layers."""


def soak(work: Path, faults: int, minutes: float) -> bool:
    """Add collections until there are enough faults; return True if all were as planned."""
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
        # The first collection meets no fault; all later ones are compared with it.
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
        f"dataset {'as planned' if is_as_planned(record) else f'NOT AS PLANNED: {record}'}; "
        f"{_count(done) + len(record['faults'])} faults in all collections",
        flush=True,
    )


def collected(arena: Arena, work: Path, *, seed: int, faults: int) -> dict[str, Any]:
    """Run one collection, inflict up to ``faults`` faults, and return its record."""
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
    """Return True if a collection exited with 0, lost no row and decided as the undisturbed one."""
    return (
        record["exit_code"] == 0
        and bool(record["rows_conserved"])
        and record.get("decisions_equal", True)
        and not record["quarantined"]
    )


def records(work: Path) -> list[dict[str, Any]]:
    """Read the records of all collections in ``work``, the undisturbed one first."""
    path = work / "collections.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def _count(done: list[dict[str, Any]]) -> int:
    return sum(len(record["faults"]) for record in done)


def summary(done: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum records up into the figures of docs/reliability.md."""
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
    """Give Ray and MLflow a new temporary home folder, and turn their telemetry off."""
    # The path is short, since Ray puts sockets below it whose paths may have 107 bytes at most.
    home = tempfile.mkdtemp(prefix="dq-")
    os.environ |= {
        "HOME": home,
        "RAY_TMPDIR": home,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Inflict faults on collections and check them.")
    parser.add_argument(
        "--faults", type=int, default=200, help="total number, faults of earlier runs included"
    )
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="minutes after which no collection begins"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/soak"), help="folder of records")
    parser.add_argument("--out", type=Path, default=RESULT, help="file of the summary")
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
