"""Collect, train and evaluate on this machine, through a Ray head and an MLflow server.

python jobs/demo.py --out runs/demo
python jobs/demo.py --out runs/demo --ui
"""

import sys
from pathlib import Path

from pipeline.cli import run_job
from pipeline.demo.run import DemoConfig, run_demo, serve_ui
from pipeline.storage.path_checks import refuse_odd_paths

FLAGS = DemoConfig


def run(config: DemoConfig) -> int:
    refuse_odd_paths(out=config.out)
    if config.ui:
        serve_ui(Path(config.out), config.port)
    else:
        run_demo(config)
    return 0


def main() -> int:
    return run_job(FLAGS, run, name="demo.py")


if __name__ == "__main__":
    sys.exit(main())
