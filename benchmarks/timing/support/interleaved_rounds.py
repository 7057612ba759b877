"""Interleaved rounds: each times every variant once, so that a slow minute slows all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.timing.support.device_clock import forget_peak, peak_bytes
from pipeline.statistics import ratio_of


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
    is_cold: bool = False
    """Whether time sufficed for the round that warms up alone, which then counts."""

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
    *,
    may_be_cold: bool = False,
) -> Rounds:
    """Time every variant once a round, in an order that rotates.

    A round before the first warms up and notes memory; its times are thrown away.

    Args:
        rounds: that count, at most.
        budget_s: seconds; no round begins that would end later, if it takes as long as the last.
            The first one always does.
        may_be_cold: unless the budget ends before the first one would; then the round before it
            counts.
    """
    done, started = Rounds(), time.monotonic()
    cold = {variant.name: _note_memory(variant, done, device) for variant in variants}
    ends = [started, time.monotonic()]
    for index in range(rounds):
        is_over = budget_s is not None and 2 * ends[-1] - ends[-2] - started > budget_s
        if is_over and (index or may_be_cold):
            tell(f"time is up after round {index} of {rounds}")
            break
        _time_round(variants, index, done)
        ends.append(time.monotonic())
        tell(f"round {index + 1} of {rounds}, {ends[-1] - started:.0f} s")
    if done.count:
        return done
    return replace(done, seconds={name: [taken] for name, taken in cold.items()}, is_cold=True)


def _time_round(variants: Sequence[Variant], index: int, done: Rounds) -> None:
    start = index % len(variants)
    for variant in [*variants[start:], *variants[:start]]:
        done.seconds[variant.name].append(variant.run().seconds)


def _note_memory(variant: Variant, done: Rounds, device: str) -> float:
    forget_peak(device)
    ran = variant.run()
    done.seconds[variant.name] = []
    done.cache_bytes[variant.name] = ran.cache_bytes
    done.peak_bytes[variant.name] = peak_bytes(device)
    return ran.seconds
