"""Time of reuse beside its bound: random weights, interleaved rounds.

    python -m benchmarks.timing.speed --model dit-s-2-256 --device cpu --batch 4 --quick

Needs torch and diffusers alone (and jaxtyping and safetensors, which dqar imports). Every round
times each variant once, in an order that rotates; a figure is the median over rounds of a ratio
within the round, with its 95% interval. The bound of reuse at ratio r is ``T / (T - r * T_sites)``:
T_sites is what a step takes less when the sites return at once. The last line is JSON; its keys
are in docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.timing.cache_formats import format_figures, format_variants
from benchmarks.timing.forced_reuse import forced_figures, forced_variants
from benchmarks.timing.gate_overhead import Decided, decide_all, deciding_figures, deciding_variants
from benchmarks.timing.gates_closed import MOST_PAIRS, closed_figures, closed_pairs
from benchmarks.timing.interval_reuse import (
    block_against_sites,
    interval_figures,
    interval_variants,
)
from benchmarks.timing.support.allocator import keep_memory
from benchmarks.timing.support.architectures import ARCHITECTURES, share_of_flops
from benchmarks.timing.support.device_clock import clock, device_name
from benchmarks.timing.support.flags import Settings, add_flags, count, hand_over, settings_of
from benchmarks.timing.support.interleaved_rounds import Rounds, Variant, time_rounds
from benchmarks.timing.support.median_interval import figures_of, to_digits
from benchmarks.timing.support.models import build_batch, build_model
from benchmarks.timing.support.timed_model import Stand
from pipeline.statistics import ratio_of

__all__ = ["ARCHITECTURES", "build_batch", "build_model", "clock", "device_name", "ratio_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """Amount of what is timed."""

    rounds: int = 24
    """Most rounds that count. Under 6 there is no 95% interval."""
    pairs: int = 100
    """Most pairs of rounds of stock and closed gates."""
    budget_s: float | None = None
    """No round begins that would end later."""
    feature_sets: tuple[str, ...] = ("full", "schedule")
    """Feature sets of the learned policies."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 1 <= self.pairs <= MOST_PAIRS:
            raise ValueError(
                f"rounds must be at least 1, pairs in [1, {MOST_PAIRS}]. Got {self.rounds=}, "
                f"{self.pairs=}. Pass 24 and 100."
            )


# Ten minutes for DiT-S/2 at batch 4 on two slow cores, with one to spare.
QUICK = Effort(rounds=8, pairs=40, budget_s=540.0, feature_sets=("full",))
SHARE_OF_PAIRS = 1 / 6
"""Largest share of the budget for the pairs of stock and closed gates."""


def measure(
    settings: Settings, effort: Effort, tell: Callable[[str], None] = print
) -> dict[str, Any]:
    """Everything about one model at one batch, as the result's JSON."""
    started, budget = time.monotonic(), effort.budget_s
    stand = stand_of(settings)
    pairs = closed_pairs(stand, effort.pairs, budget and SHARE_OF_PAIRS * budget)
    decided = decide_all(stand, effort.feature_sets)
    variants = list(variants_of(stand, settings, decided))
    left = None if budget is None else budget - (time.monotonic() - started)
    # What compiles, or wakes a GPU, must not be counted.
    may_be_cold = settings.device == "cpu" and not settings.compiled
    timed = time_rounds(
        variants, effort.rounds, settings.device, left, tell, may_be_cold=may_be_cold
    )
    return {
        **settings.facts(),
        "rounds": timed.count,
        "is_cold": timed.is_cold,
        **closed_figures(*pairs),
        **report(timed, settings, decided),
        "seconds": round(time.monotonic() - started, 1),
    }


def stand_of(settings: Settings) -> Stand:
    """The model and its inputs, ready to be timed."""
    what = settings.device, settings.torch_dtype
    return Stand(
        build_model(settings.model, *what),
        build_batch(settings.model, settings.batch, *what),
        cache_bits=settings.cache_bits,
        compiled=settings.compiled,
    )


def variants_of(stand: Stand, settings: Settings, decided: list[Decided]) -> Iterator[Variant]:
    """Everything that a round times. A further way to run a model, such as a static plan, is a
    file of its own beside these, with its variants here and its figures in :func:`report`."""
    yield stand.stock()
    if settings.compiled:
        yield stand.uncompiled()
    yield from forced_variants(stand, settings.sizes)
    yield from interval_variants(stand, settings.sizes)
    yield from deciding_variants(stand, decided)
    yield from format_variants(stand)


def report(rounds: Rounds, settings: Settings, decided: list[Decided]) -> dict[str, Any]:
    """Figures of the rounds."""
    sizes, peak = settings.sizes, rounds.peak_bytes["stock"]
    return {
        "step_seconds": to_digits(statistics.median(rounds.seconds["stock"])),
        "stock_peak_memory_mb": None if peak is None else to_digits(peak / 1e6, 6),
        "compile_speedup": compile_speedup(rounds),
        "flops_shares": {
            ",".join(sites): round(share_of_flops(sizes, sites), 4) for sites in sizes.site_sets
        },
        "forced": forced_figures(rounds, sizes, settings.cache_bits),
        "intervals": interval_figures(rounds, sizes),
        "block_over_sites": block_against_sites(rounds, sizes),
        "policies": deciding_figures(rounds, sizes, decided),
        "formats": format_figures(rounds, sizes, settings.cache_bits),
    }


def compile_speedup(rounds: Rounds) -> dict[str, Any] | None:
    """The stock model's time over the compiled stock model's; None where nothing is compiled."""
    if "uncompiled" not in rounds.seconds:
        return None
    return dict(figures_of("ratio", rounds.ratio("uncompiled", "stock")))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time reuse beside its bound; ends with JSON.")
    add_flags(parser)
    parser.add_argument("--rounds", type=count, help="at most; 24 by default")
    parser.add_argument("--pairs", type=count, help="of closed gates, at most; 100 by default")
    parser.add_argument("--budget", type=float, help="seconds after which no round begins")
    parser.add_argument("--quick", action="store_true", help="8 rounds, 40 pairs, ten minutes")
    arguments = parser.parse_args(argv)
    settings = settings_of(parser, arguments)
    given = {"rounds": arguments.rounds, "pairs": arguments.pairs, "budget_s": arguments.budget}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    try:
        effort = replace(QUICK if arguments.quick else Effort(), **changes)
    except ValueError as error:
        parser.error(str(error))
    kept = {"keeps_memory": keep_memory()}
    result = measure(settings, effort, lambda line: print(line, flush=True))
    hand_over(result | kept, arguments.out)


if __name__ == "__main__":
    main()
