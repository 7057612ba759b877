"""Interleaved rounds: each times every variant once, so that a slow minute affects all variants."""

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
    """Mean time of a timed step."""
    cache_bytes: int = 0
    """Bytes of the cache at the end of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to run a model, to be timed."""

    name: str
    run: Callable[[], Ran]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """Measurements by variant; values at the same index are of the same round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Mean time of a step in each round."""
    cache_bytes: dict[str, int] = field(default_factory=dict)
    """Bytes of the cache."""
    peak_bytes: dict[str, int | None] = field(default_factory=dict)
    """Peak bytes of all tensors while the variant ran; None on a CPU."""
    is_cold: bool = False
    """True if there was time for the warm-up round only, which then counts."""

    @property
    def count(self) -> int:
        """Number of rounds that count."""
        return min(map(len, self.seconds.values()), default=0)

    def ratio(self, over: str, under: str) -> dict[str, float]:
        """Median over rounds of the ratio of two variants' times, with its 95% interval."""
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

    A warm-up round before the first one measures memory; its times do not count.

    Args:
        rounds: largest number of rounds that count.
        budget_s: seconds; a round that would end later does not begin, if it takes as long as the
            round before. The first round always runs, unless ``may_be_cold``.
        tell: called with each line of progress.
        may_be_cold: let the warm-up round count if the budget does not allow the first round.
    """
    done, started = Rounds(), time.monotonic()
    cold = {variant.name: _note_memory(variant, done, device) for variant in variants}
    ends = [started, time.monotonic()]
    for index in range(rounds):
        is_over = budget_s is not None and 2 * ends[-1] - ends[-2] - started > budget_s
        if is_over and (index or may_be_cold):
            tell(f"the time budget ends after round {index} of {rounds}")
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
