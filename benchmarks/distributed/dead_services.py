"""Seconds from a dead service to the one line: Ray head, MLflow, object store; refusing and silent.

    python -m benchmarks.distributed.dead_services --out benchmarks/results/cpu
    python -m benchmarks.distributed.dead_services --out runs/dead --only ray,doctor

Every case is a real process against a real address: one at which nothing listens (refused), or a
server that accepts connections and never answers (silent). At the start of a job the service is
dead from the beginning; in mid-stage it is killed once the stage has begun. A case has
300 s; the table says what was printed last, the exit code, and whether there was a traceback.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.distributed.dead_at_start import dead_at_start
from benchmarks.distributed.dead_in_mid_stage import dead_in_mid_stage
from benchmarks.distributed.timed_jobs import Outcome
from pipeline.cli import run_job
from pipeline.markdown import markdown_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Flags:
    """Measure the seconds from a dead service to the one line."""

    out: Path
    """Folder for dead-services.json."""
    only: tuple[str, ...] = ()
    """Words of which a case's name must contain one, such as ray or doctor; default: all cases."""


def run(flags: Flags) -> int:
    rows: list[dict[str, Any]] = []
    scratch = Path(tempfile.mkdtemp(prefix="ds"))

    def is_wanted(name: str) -> bool:
        return not flags.only or any(word in name for word in flags.only)

    flags.out.mkdir(parents=True, exist_ok=True)
    try:
        at_start = dead_at_start(is_wanted, Path(tempfile.mkdtemp(dir=scratch)))
        for outcome in chain(at_start, dead_in_mid_stage(is_wanted, scratch)):
            rows.append(asdict(outcome))
            print(json.dumps(rows[-1]), flush=True)
            document = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "cases": rows}
            (flags.out / "dead-services.json").write_text(json.dumps(document, indent=2) + "\n")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    cells = [[str(value) for value in row.values()] for row in rows]
    print(markdown_table(list(Outcome.__dataclass_fields__), cells))
    return 0


if __name__ == "__main__":
    sys.exit(run_job(Flags, run, name="dead_services"))
