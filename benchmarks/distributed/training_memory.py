"""Peak memory of a training by the number of gate rows, on synthetic traces.

    python -m benchmarks.distributed.training_memory --out benchmarks/results/cpu

Each size is trained in a separate process, whose peak resident memory and wall time are measured,
and the seconds in which the traces are opened and compared with their SHA-256.
:mod:`benchmarks.distributed.synthetic_traces` writes the rows; a trajectory has 1,400 gates: 50
steps of the 28 layers of DiT-XL/2. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.distributed.synthetic_traces import write_traces
from pipeline.cluster.hardware import describe_machine, peak_resident_mb

SIZES = (1_000_000, 5_000_000, 50_000_000)
"""Gate rows of each training."""
CHILD = (
    "from benchmarks.distributed.training_memory import train_once; import sys; "
    "train_once(*sys.argv[1:])"
)


def train_once(uri: str, features: str) -> None:
    """Train on traces, and print time and peak memory as JSON; runs in a separate process."""
    import torch

    from pipeline.traces.multi_dataset import open_traces
    from pipeline.train.train import TrainConfig, train

    torch.set_num_threads(1)
    started = time.perf_counter()
    traces = open_traces(uri)
    traces.verify()
    verified = time.perf_counter()
    trained = train(TrainConfig(features=features), traces)  # pyright: ignore[reportArgumentType] # a flag's text
    result = {
        "seconds": round(time.perf_counter() - started, 1),
        "verify_s": round(verified - started, 2),
        "peak_rss_mb": round(peak_resident_mb(), 1),
        "held_out_r2": round(trained.validation.metrics["r2"], 4),
        "fit_steps": trained.validation.metrics["fit_steps"],
    }
    print(json.dumps(result), flush=True)


def measure(rows: int, features: str, folder: Path) -> dict[str, Any]:
    """Write traces with at least ``rows`` gate rows, train on them, and remove them."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        started = time.perf_counter()
        written = write_traces(Path(root) / "traces", rows)
        written["writing_s"] = round(time.perf_counter() - started, 1)
        written["megabytes"] = round(
            sum(f.stat().st_size for f in Path(root).rglob("*.parquet")) / 1e6, 1
        )
        words = [sys.executable, "-c", CHILD, str(Path(root) / "traces"), features]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
    return written | json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Peak memory of training by gate rows.")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=list(SIZES), help="gate rows of each training"
    )
    parser.add_argument("--features", default="schedule", help="feature set, as for jobs/train.py")
    parser.add_argument("--scratch", type=Path, help="folder for the traces; default: temporary")
    parser.add_argument("--out", type=Path, help="folder for the result's file")
    arguments = parser.parse_args(argv)
    sizes = []
    for rows in arguments.rows:
        sizes.append(measure(rows, arguments.features, arguments.scratch))
        print(json.dumps(sizes[-1]), flush=True)
    peaks = np.array([size["peak_rss_mb"] for size in sizes])
    result = {
        "features": arguments.features,
        "sizes": sizes,
        "growth": round(float(peaks.max() / peaks.min() - 1.0), 4),
        "machine": describe_machine("cpu"),
    }
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"training-memory-{arguments.features}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
