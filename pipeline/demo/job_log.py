"""Output of a submitted job: all of it in a file, the stage's own lines on the terminal."""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

OWN = re.compile(r"(?:collect|train|evaluate|verify|calibrate [\w.-]+):")
"""Begins of the lines that a stage prints about itself; Ray and MLflow print others."""
OF_A_UNIT = re.compile(r"collect: unit=")
BAR = re.compile(r"\| \d+/\d+ \[")
"""Progress report, which a terminal redraws in place."""
EVERY_S = 25.0
"""Seconds without a line after which a line says that the stage still runs: more than the 15 s
between the progress reports of a stage."""
TAIL = 15
"""Last lines of the log that a failure shows."""


class JobLog:
    """Output of one stage.

    Args:
        stage: name of the stage, such as ``collect``.
        path: file for the whole output.
        every_s: seconds without a line after which a line says that the stage still runs.
    """

    def __init__(self, stage: str, path: Path, every_s: float = EVERY_S) -> None:
        self.stage, self.path, self.every_s = stage, path, every_s
        self.last: deque[str] = deque(maxlen=TAIL)
        self._is_open = False
        self._started = time.monotonic()

    def follow(self, process: subprocess.Popen[str]) -> int:
        """Copy a process's output until it ends; return its exit code."""
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", encoding="utf-8") as log:
            for line in _until_end(lines, self.every_s):
                if line is None:
                    self._show_alive()
                    continue
                log.write(line)
                log.flush()
                self._show(line.rstrip())
        self._end_bar()
        return process.wait()

    def _show(self, line: str) -> None:
        self.last.append(line)
        if OWN.match(line) is None or OF_A_UNIT.match(line):
            return
        if sys.stdout.isatty() and BAR.search(line):
            print(f"\r\033[K{line}", end="", flush=True)
            self._is_open = True
            return
        self._end_bar()
        print(line, flush=True)

    def _show_alive(self) -> None:
        seconds = time.monotonic() - self._started
        if not sys.stdout.isatty():
            print(f"{self.stage}: running for {seconds:.0f} s", flush=True)

    def _end_bar(self) -> None:
        if self._is_open:
            print(flush=True)
            self._is_open = False


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            lines.put(line)
    lines.put(None)


def _until_end(lines: queue.SimpleQueue[str | None], every_s: float) -> Iterator[str | None]:
    """Yield the lines until the end of the output, and None after some seconds without a line."""
    while True:
        try:
            line = lines.get(timeout=every_s)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line
