"""The whole flow on this machine: a Ray head, an MLflow server, collect, train, evaluate.

python jobs/demo.py --out runs/demo
python jobs/demo.py --out runs/demo --ui
"""

import argparse
import sys
from pathlib import Path

from pipeline.cli import JobParser, enter
from pipeline.errors import checked


def run(arguments: argparse.Namespace) -> int:
    from pipeline.demo.run import DemoConfig, run_demo, serve_ui

    out = Path(arguments.out)
    if arguments.ui:
        serve_ui(out, arguments.port)
        return 0
    config = checked(
        DemoConfig,
        out=out,
        num_trajectories=arguments.num_trajectories,
        num_samples=arguments.num_samples,
        steps=arguments.steps,
    )
    run_demo(config)
    return 0


def parser() -> JobParser:
    job = JobParser("Collect, train and evaluate on this machine, through Ray and MLflow.")
    job.add_argument("--out", default="runs/demo", help="folder to write")
    job.add_argument("--num-trajectories", type=int, default=192, help="randomised trajectories")
    job.add_argument("--num-samples", type=int, default=32, help="samples of each point")
    job.add_argument("--steps", type=int, default=50, help="sampling steps")
    job.add_argument("--ui", action="store_true", help="serve the MLflow UI on an earlier run")
    job.add_argument("--port", type=int, default=5000, help="port of the UI")
    return job


if __name__ == "__main__":
    sys.exit(enter(parser(), run))
