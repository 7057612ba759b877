"""Cost table for a schedule planner: seconds of a gate that computes, measures or reuses, by site.

    python -m benchmarks.timing.cost_table --model dit-s-2-256 --device cpu --batch 4

The time of a gate is the difference between a step and a step whose sites of that kind cost
nothing, divided by the number of layers, within each round. The last line is JSON; its keys are in
docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.timing.gate_overhead import SURE, forced_policy
from benchmarks.timing.speed import timed_model_of
from benchmarks.timing.support.allocator import keep_memory
from benchmarks.timing.support.architectures import Architecture
from benchmarks.timing.support.flags import Settings, add_flags, count, hand_over, settings_of
from benchmarks.timing.support.interleaved_rounds import Rounds, Variant, time_rounds
from benchmarks.timing.support.median_interval import figures_of, to_digits
from benchmarks.timing.support.reuse_masks import mask_of
from benchmarks.timing.support.timed_model import STEPS, TimedModel, name_of
from dqar.gates.base import Gate
from dqar.gates.rules import Learned, MaskGate
from pipeline.statistics import median_spread_of

ROUNDS, QUICK_ROUNDS = 24, 6
WAYS = ("computed", "measured", "reused")
"""Computed and cached; computed and cached with every feature measured; read from the cache."""


def sites_of(sizes: Architecture) -> list[str]:
    """Names of all sites that can be reused, without repetition."""
    return list(dict.fromkeys(site for sites in sizes.site_sets for site in sites))


def cost_variants(timed_model: TimedModel, sizes: Architecture) -> Iterator[Variant]:
    """Yield the stock model, and each site at no cost and in each of :data:`WAYS`."""
    yield timed_model.stock()
    yield timed_model.free(("attn", "ff"))
    for site in sites_of(sizes):
        yield timed_model.free((site,))
        for way in WAYS:
            yield timed_model.patched(
                name_of(way, (site,)), (site,), gate_of(way, site, timed_model)
            )


def gate_of(way: str, site: str, timed_model: TimedModel) -> Gate:
    """Gate that treats every timed step of a site in the given one of :data:`WAYS`."""
    if way == "measured":
        return Learned(forced_policy("full", (site,)), log_threshold=-SURE)
    steps = [way == "reused"] * STEPS
    return MaskGate(mask_of(steps, timed_model.num_gates((site,)), timed_model.batch.num_samples))


def cost_rows(rounds: Rounds, settings: Settings) -> list[dict[str, Any]]:
    """One row for each site."""
    return [_row(rounds, settings, site) for site in sites_of(settings.sizes)]


def _row(rounds: Rounds, settings: Settings, site: str) -> dict[str, Any]:
    layers, free = settings.sizes.num_layers, rounds.seconds[name_of("free", (site,))]
    row = {
        **settings.facts(),
        "site": site,
        "layers": layers,
        "cache_mb": to_digits(rounds.cache_bytes[name_of("computed", (site,))] / 1e6),
    }
    for way, name in [("stock", "stock"), *((way, name_of(way, (site,))) for way in WAYS)]:
        row |= figures_of(
            f"{way}_s", median_spread_of(of_a_gate(rounds.seconds[name], free, layers))
        )
    return row


def of_a_gate(seconds: list[float], free: list[float], layers: int) -> list[float]:
    """Seconds of one gate, round by round; noise can make a value negative."""
    return [(taken - rest) / layers for taken, rest in zip(seconds, free, strict=True)]


def measure_costs(settings: Settings, rounds: int, budget_s: float | None = None) -> dict[str, Any]:
    """Measure the cost table of one model at one batch size."""
    timed_model = timed_model_of(settings)
    variants = list(cost_variants(timed_model, settings.sizes))
    timed = time_rounds(variants, rounds, settings.device, budget_s)
    steps = {"step_s": "stock", "rest_s": name_of("free", ("attn", "ff"))}
    medians = {key: statistics.median(timed.seconds[name]) for key, name in steps.items()}
    return {
        "rounds": timed.count,
        **{key: to_digits(value) for key, value in medians.items()},
        "costs": cost_rows(timed, settings),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time gates by site; the last line is JSON.")
    add_flags(parser)
    parser.add_argument("--rounds", type=count, help=f"default: {ROUNDS}")
    parser.add_argument("--budget", type=float, help="seconds after which no round begins")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds")
    arguments = parser.parse_args(argv)
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    settings = settings_of(parser, arguments)
    kept = {"keeps_memory": keep_memory()}
    hand_over(measure_costs(settings, rounds, arguments.budget) | kept, arguments.out)


if __name__ == "__main__":
    main()
