"""Draw the page of an evaluation again from its results folder.

    python -m pipeline.report runs/results

The samples are left out, since a results folder does not store them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.errors import InputError
from pipeline.report.results_folder import draw_again


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="results folder of jobs/evaluate.py")
    try:
        print(draw_again(parser.parse_args().folder))
    except InputError as refusal:
        print(f"pipeline.report: {refusal}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
