"""A job that pauses in the middle of its work, until a file says that it may go on.

What is stopped in its middle must have a middle on every machine: a fast one would be done before
the stop arrives, and a busy one would look too late.
"""

from pathlib import Path

PAUSED = """
import glob, importlib, sys, time
from pathlib import Path
root, name, pattern, count, gate = sys.argv[1:6]
del sys.argv[1:6]
sys.path.insert(0, root)
from pipeline.progress import Progress
advance = Progress.advance
def advance_and_hold(self, number):
    advance(self, number)
    if len(glob.glob(pattern)) >= int(count):
        deadline = time.monotonic() + 600
        while not Path(gate).exists():
            if time.monotonic() > deadline:
                sys.exit('The gate was never opened.')
            time.sleep(0.02)
Progress.advance = advance_and_hold
job = importlib.import_module(f'jobs.{name}')
sys.exit(job.main())
"""
"""A job's program. Whenever progress is reported and enough files are there, it waits for the
gate file; units that are in flight by then are the last that are done. Without double quotes
and dollars, since the command of a submitted job passes through a shell."""


def paused_job(name: str, root: str | Path, pattern: str | Path, count: int, gate: Path) -> list:
    """Arguments of ``python`` that run ``jobs/NAME.py`` and pause it once ``count`` files
    of ``pattern`` are there, unless ``gate`` is. The project is found in ``root``."""
    return ["-c", PAUSED, str(root), name, str(pattern), str(count), str(gate)]
