"""Single flipped bits in the files of a collection: refused, harmless, or read silently.

    python -m benchmarks.distributed.bit_flips --flips 2000 --out benchmarks/results/cpu

A small collection is written twice, once with the shards of its units and once with merged shards.
Each flip inverts one random bit of one file at equal size; the file is restored afterwards. All
readers are run on the damaged folder: the command that resumes the collection, and both tables.
Each flip is counted as

- ``refused``: a reader raised an error of one line, or collects the damaged unit again;
- ``harmless``: plan, receipts, manifest and all rows are those of the undamaged collection;
- ``silent``: a reader returned anything else;
- ``crashed``: a reader raised another error, such as a ``KeyError``.

The last line is JSON. The exit code is 1 if a flip was silent or crashed a reader.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.distributed.synthetic_traces import plan_of, write_traces
from pipeline.cluster.hardware import describe_machine
from pipeline.errors import InputError
from pipeline.exploration.collect_plan import CollectPlan, canonical_json
from pipeline.storage.object_store import open_storage
from pipeline.traces.commit import claim_output, committed_receipts
from pipeline.traces.compaction import compact, vacuum
from pipeline.traces.manifest import publish_manifest
from pipeline.traces.multi_dataset import open_traces

ROWS, UNIT = 16_800, 3
"""Gate rows of the collection, and trajectories of a unit: 4 units of 3 trajectories."""
KINDS = {
    "gates": "single/gates",
    "trajectories": "single/trajectories",
    "receipts": "single/_receipts",
    "manifest": "single/_manifest",
    "plan": "single",
    "merged gates": "merged/gates",
    "merged trajectories": "merged/trajectories",
    "manifest of merged shards": "merged/_manifest",
}
"""Folder of each kind of file."""
Reader = Callable[[Path], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Undamaged:
    """A collection's plan and what its readers return before any damage."""

    plan: CollectPlan
    """Plan of the collection."""
    found: dict[str, Any]
    """Results of the readers by name."""


def readers_of(plan: CollectPlan) -> dict[str, Reader]:
    """Return the readers of a folder: the resuming driver's, and those of a training."""
    return {
        "claim": lambda root: claim_output(root, plan),
        "receipts": lambda root: {
            unit: canonical_json(receipt)
            for unit, receipt in committed_receipts(root, plan).items()
        },
        "documents": lambda root: canonical_json(
            {"plan": open_traces(root).plan, "manifest": open_traces(root).manifest}
        ),
        "trajectories": lambda root: open_traces(root).trajectories,
        "gates": lambda root: open_traces(root).read_gates(),
    }


def write_collections(root: Path) -> Undamaged:
    """Write the collection into ``root/single``, and with merged shards into ``root/merged``."""
    for name in ("single", "merged"):
        write_traces(root / name, ROWS, batch_size=UNIT)
    storage = open_storage(root / "merged")
    manifest = open_traces(storage).manifest
    parts = compact(storage, manifest, 1e9)
    vacuum(storage, publish_manifest(storage, manifest | {"parts": parts}))
    plan = plan_of(ROWS, UNIT)
    readers = readers_of(plan)
    return Undamaged(
        plan=plan,
        found={
            f"{one} {name}": read(root / one)
            for one in ("single", "merged")
            for name, read in readers.items()
        },
    )


def files_of(root: Path) -> dict[str, list[Path]]:
    """Return the files of each kind; of manifests the newest version alone."""
    found = {
        kind: sorted(p for p in (root / place).iterdir() if p.is_file())
        for kind, place in KINDS.items()
    }
    return {kind: files[-1:] if "manifest" in kind else files for kind, files in found.items()}


def outcome_of(root: Path, undamaged: Undamaged) -> str:
    """Return the outcome of the readers of one damaged collection."""
    outcomes = {
        _outcome(name, partial(read, root), undamaged.found[f"{root.name} {name}"])
        for name, read in readers_of(undamaged.plan).items()
    }
    return next(one for one in ("crashed", "silent", "refused", "harmless") if one in outcomes)


def _outcome(name: str, read: Callable[[], Any], wanted: Any) -> str:
    try:
        found = read()
    except InputError as refusal:
        return "crashed" if "\n" in str(refusal) else "refused"
    except Exception:  # a reader may raise anything but must not
        return "crashed"
    if found.equals(wanted) if hasattr(found, "equals") else found == wanted:
        return "harmless"
    return "refused" if name == "receipts" and found.items() <= wanted.items() else "silent"


def flip(path: Path, bit: int) -> None:
    """Invert one bit of a file."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def measure(flips: int, seed: int, root: Path) -> dict[str, Counter[str]]:
    """Flip random bits, one at a time, in files of all kinds in turns; return the outcomes."""
    undamaged = write_collections(root)
    files, draw = files_of(root), random.Random(seed)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for index in range(flips):
        kind = list(KINDS)[index % len(KINDS)]
        path = draw.choice(files[kind])
        bit = draw.randrange(path.stat().st_size * 8)
        flip(path, bit)
        outcome = outcome_of(root / KINDS[kind].partition("/")[0], undamaged)
        flip(path, bit)
        outcomes[kind][outcome] += 1
        if outcome in ("silent", "crashed"):
            print(f"{outcome}: bit {bit} of {path.relative_to(root)}", file=sys.stderr, flush=True)
    return outcomes


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Flipped bits in a collection's files.")
    parser.add_argument("--flips", type=int, default=2000, help="number of flipped bits")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the flips")
    parser.add_argument("--out", type=Path, help="folder for the result's file")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    # The readers announce each verification.
    with tempfile.TemporaryDirectory() as root, redirect_stdout(StringIO()):
        outcomes = measure(arguments.flips, arguments.seed, Path(root))
    total = sum(outcomes.values(), Counter())
    result = {
        "flips": arguments.flips,
        "seed": arguments.seed,
        "total": total,
        "by_kind": outcomes,
        "seconds": round(time.perf_counter() - started, 1),
        "machine": describe_machine("cpu"),
    }
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "bit-flips.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return int(bool(total["silent"] or total["crashed"]))


if __name__ == "__main__":
    sys.exit(main())
