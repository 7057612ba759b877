"""Progress that reads well on a terminal and in a job's log: rate and time to go."""

from __future__ import annotations

import json
import sys
import time


class Progress:
    """Reports work done. A terminal gets one line that moves; a log gets a line now and then."""

    def __init__(self, what: str, total: int, unit: str, *, every_s: float = 5.0) -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.every_s = every_s
        self.started = time.monotonic()
        self.reported = 0.0
        self.first = 0
        self.done = 0

    def start_at(self, done: int) -> None:
        """Work that an earlier run finished does not count for the rate."""
        self.first = self.done = done

    def log(self, line: str) -> None:
        """A line of its own; on a terminal the line that moves is drawn again below it later."""
        print(f"\r\033[K{line}" if sys.stdout.isatty() else line, flush=True)

    def advance(self, count: int) -> None:
        """Some more is done."""
        self.done += count
        now = time.monotonic()
        is_last = self.done >= self.total
        if is_last or now - self.reported >= (0.2 if sys.stdout.isatty() else self.every_s):
            self.reported = now
            self._show(now, is_last)

    def finish(self) -> None:
        """There is no more to do, though less was done than was thought."""
        if self.done < self.total:
            self.total = self.done
            self.advance(0)

    def _show(self, now: float, is_last: bool) -> None:
        rate = (self.done - self.first) / max(1e-9, now - self.started)
        to_go = (self.total - self.done) / rate if rate else float("inf")
        line = (
            f"{self.what}: {self.done}/{self.total} {self.unit} "
            f"({self.done / max(1, self.total):.0%}), {rate:.2f} {self.unit}/s, {to_go:.0f} s to go"
        )
        if sys.stdout.isatty():
            print(f"\r\033[K{line}", end="\n" if is_last else "", flush=True)
        else:
            print(line, flush=True)


def fields_line(what: str, **fields: object) -> str:
    """``what key=value ...``; a value that is not one plain word is quoted as JSON does it."""
    words = [f"{name}={_word(value)}" for name, value in fields.items()]
    return " ".join([what, *words])


def _word(value: object) -> str:
    text = str(value)
    is_plain = text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if text and is_plain else json.dumps(text)
