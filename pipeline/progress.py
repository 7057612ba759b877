"""Progress lines for a terminal or a job's log: work done, rate and remaining time."""

from __future__ import annotations

import json
import sys
import time

from tqdm import tqdm

WIDTH = 96
"""Characters of a report."""


class Progress:
    """Report of the work done: one line redrawn in place on a terminal, a new line every
    ``every_s`` seconds in a log."""

    def __init__(self, what: str, total: int, unit: str, *, every_s: float = 15.0) -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.every_s = every_s
        self.started = time.monotonic()
        self.reported = 0.0
        self.first = 0
        self.done = 0

    def start_at(self, done: int) -> None:
        """Set the work that an earlier run finished, which does not count for the rate."""
        self.first = self.done = done

    def log(self, line: str) -> None:
        """Print a separate line; on a terminal the next report redraws the progress line below."""
        print(f"\r\033[K{line}" if sys.stdout.isatty() else line, flush=True)

    def advance(self, count: int) -> None:
        """Add finished work, and print a report if one is due."""
        self.done += count
        now = time.monotonic()
        is_last = self.done >= self.total
        if is_last or now - self.reported >= (0.2 if sys.stdout.isatty() else self.every_s):
            self.reported = now
            self._show(now, is_last)

    def finish(self) -> None:
        """End the report at the work done so far, where less was done than planned."""
        if self.done < self.total:
            self.total = self.done
            self.advance(0)

    def _show(self, now: float, is_last: bool) -> None:
        line = tqdm.format_meter(
            n=self.done,
            total=self.total,
            elapsed=now - self.started,
            initial=self.first,
            prefix=self.what,
            unit=f" {self.unit}",
            ncols=WIDTH,
            ascii=not sys.stdout.isatty(),
        )
        if sys.stdout.isatty():
            print(f"\r\033[K{line}", end="\n" if is_last else "", flush=True)
        else:
            print(line, flush=True)


def fields_line(what: str, **fields: object) -> str:
    """Format ``what key=value ...``; a value that is not one plain word is quoted as in JSON."""
    words = [f"{name}={_word(value)}" for name, value in fields.items()]
    return " ".join([what, *words])


def _word(value: object) -> str:
    text = str(value)
    is_plain = text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if text and is_plain else json.dumps(text)
