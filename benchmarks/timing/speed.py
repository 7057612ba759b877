"""Speed-up by reuse beside its upper bound, on models with random weights.

    python -m benchmarks.timing.speed --model dit-s-2-256 --device cpu --batch 4 --quick

Needs torch, diffusers, jaxtyping and safetensors. Every round times each variant once, in an order
that rotates; a figure is the median over rounds of a ratio within the round, with its 95% interval.
The upper bound of reuse at ratio r is ``T / (T - r * T_sites)``: T is the time of a stock step, and
T_sites the time that a step saves when the sites return their input at once. The last line is JSON;
its keys are in docs/performance.md.
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
from benchmarks.timing.support.timed_model import TimedModel
from pipeline.statistics import ratio_of

__all__ = ["ARCHITECTURES", "build_batch", "build_model", "clock", "device_name", "ratio_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """Numbers of rounds and pairs, time budget and policies of one measurement."""

    rounds: int = 24
    """Largest number of rounds; fewer than 6 give no 95% interval."""
    pairs: int = 100
    """Largest number of pairs of stock steps and steps whose gates never reuse."""
    budget_s: float | None = None
    """Seconds; no round begins that would end later."""
    feature_sets: tuple[str, ...] = ("full", "schedule")
    """Feature sets of the learned policies."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 1 <= self.pairs <= MOST_PAIRS:
            raise ValueError(
                f"rounds must be at least 1, pairs in [1, {MOST_PAIRS}]. Got {self.rounds=}, "
                f"{self.pairs=}. Pass 24 and 100."
            )


# DiT-S/2 at batch 4 takes under ten minutes on two slow cores: 9 for rounds, 1 to spare.
QUICK = Effort(rounds=8, pairs=40, budget_s=540.0, feature_sets=("full",))
SHARE_OF_PAIRS = 1 / 6
"""Largest share of the budget for pairs of stock steps and steps whose gates never reuse."""


def measure(
    settings: Settings, effort: Effort, tell: Callable[[str], None] = print
) -> dict[str, Any]:
    """Time all variants of one model at one batch size; return the result's JSON."""
    started, budget = time.monotonic(), effort.budget_s
    timed_model = timed_model_of(settings)
    pairs = closed_pairs(timed_model, effort.pairs, budget and SHARE_OF_PAIRS * budget)
    decided = decide_all(timed_model, effort.feature_sets)
    variants = list(variants_of(timed_model, settings, decided))
    left = None if budget is None else budget - (time.monotonic() - started)
    # A first round that compiles models or wakes a GPU must not count.
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


def timed_model_of(settings: Settings) -> TimedModel:
    """Build the model and its inputs, ready to be timed."""
    what = settings.device, settings.torch_dtype
    return TimedModel(
        build_model(settings.model, *what),
        build_batch(settings.model, settings.batch, *what),
        cache_bits=settings.cache_bits,
        compiled=settings.compiled,
    )


def variants_of(
    timed_model: TimedModel, settings: Settings, decided: list[Decided]
) -> Iterator[Variant]:
    """Yield all variants that a round times.

    To time a further way to run a model, add a file with its variants and its figures beside
    ``forced_reuse.py``, yield the variants here and add the figures to :func:`report`.
    """
    yield timed_model.stock()
    if settings.compiled:
        yield timed_model.uncompiled()
    yield from forced_variants(timed_model, settings.sizes)
    yield from interval_variants(timed_model, settings.sizes)
    yield from deciding_variants(timed_model, decided)
    yield from format_variants(timed_model)


def report(rounds: Rounds, settings: Settings, decided: list[Decided]) -> dict[str, Any]:
    """Figures of the timed rounds, as in the result's JSON."""
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
    parser = argparse.ArgumentParser(description="Time reuse; the last line is JSON.")
    add_flags(parser)
    parser.add_argument("--rounds", type=count, help="largest number of rounds; default: 24")
    parser.add_argument(
        "--pairs",
        type=count,
        help="largest number of pairs of stock steps and steps that never reuse; default: 100",
    )
    parser.add_argument("--budget", type=float, help="seconds after which no round begins")
    parser.add_argument("--quick", action="store_true", help="8 rounds, 40 pairs, 10 minutes")
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
