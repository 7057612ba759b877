"""Interleaved rounds: each times every variant once, so that a slow minute slows all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.clock import forget_peak, peak_bytes
from benchmarks.spread import ratio_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """One run of a variant."""

    seconds: float
    """Of a timed step, mean over them."""
    cache_bytes: int = 0
    """That its cache held in the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One thing to time."""

    name: str
    run: Callable[[], Ran]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """What was timed, by variant. Values at the same place are of the same round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Of a step."""
    cache_bytes: dict[str, int] = field(default_factory=dict)
    """That the cache held."""
    peak_bytes: dict[str, int | None] = field(default_factory=dict)
    """The most that tensors held while it ran; None where the device does not tell."""

    @property
    def count(self) -> int:
        """Rounds that count."""
        return min(map(len, self.seconds.values()), default=0)

    def ratio(self, over: str, under: str) -> dict[str, float]:
        """Median over rounds of seconds / seconds, with its 95% interval."""
        return ratio_of(self.seconds[over], self.seconds[under])


def time_rounds(
    variants: Sequence[Variant],
    rounds: int,
    device: str,
    budget_s: float | None = None,
    tell: Callable[[str], None] = print,
) -> Rounds:
    """Time every variant once a round, in an order that rotates.

    A round before the first warms up and notes memory; its times are thrown away.

    Args:
        rounds: that count, at most.
        budget_s: seconds; no round begins that would end later. The first one always does.
    """
    done = Rounds()
    started = time.monotonic()
    for variant in variants:
        _note_memory(variant, done, device)
    for index in range(rounds):
        elapsed = time.monotonic() - started
        if index and budget_s is not None and elapsed * (index + 2) / (index + 1) > budget_s:
            tell(f"time is up after round {index} of {rounds}")
            break
        start = index % len(variants)
        for variant in [*variants[start:], *variants[:start]]:
            done.seconds[variant.name].append(variant.run().seconds)
        tell(f"round {index + 1} of {rounds}, {time.monotonic() - started:.0f} s")
    return done


def _note_memory(variant: Variant, done: Rounds, device: str) -> None:
    forget_peak(device)
    ran = variant.run()
    done.seconds[variant.name] = []
    done.cache_bytes[variant.name] = ran.cache_bytes
    done.peak_bytes[variant.name] = peak_bytes(device)
