"""Seconds of a gate that computes, measures or reuses, by site: what a schedule planner weighs.

    python -m benchmarks.timing.cost_table --model dit-s-2-256 --device cpu --batch 4

A gate's time is what a step takes more than one whose sites of that kind cost nothing, over the
number of layers, paired within the round. The last line is JSON; its keys are in
docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.timing.gate_overhead import SURE, forced_policy
from benchmarks.timing.speed import stand_of
from benchmarks.timing.support.allocator import keep_memory
from benchmarks.timing.support.architectures import Architecture
from benchmarks.timing.support.flags import Settings, add_flags, count, hand_over, settings_of
from benchmarks.timing.support.interleaved_rounds import Rounds, Variant, time_rounds
from benchmarks.timing.support.median_interval import figures_of, to_digits
from benchmarks.timing.support.reuse_masks import mask_of
from benchmarks.timing.support.timed_model import STEPS, Stand, name_of
from dqar.gates.base import Gate
from dqar.gates.rules import Learned, MaskGate
from pipeline.statistics import median_spread_of

ROUNDS, QUICK_ROUNDS = 24, 6
WAYS = ("computed", "measured", "reused")
"""Computed and cached; the same with every feature measured; taken from the cache."""


def sites_of(sizes: Architecture) -> list[str]:
    """Sites that may be reused, each on its own."""
    return list(dict.fromkeys(site for sites in sizes.site_sets for site in sites))


def cost_variants(stand: Stand, sizes: Architecture) -> Iterator[Variant]:
    """The stock model, and each site free and in each way."""
    yield stand.stock()
    yield stand.free(("attn", "ff"))
    for site in sites_of(sizes):
        yield stand.free((site,))
        for way in WAYS:
            yield stand.patched(name_of(way, (site,)), (site,), gate_of(way, site, stand))


def gate_of(way: str, site: str, stand: Stand) -> Gate:
    """What sends every timed step of a site the same way."""
    if way == "measured":
        return Learned(forced_policy("full", (site,)), log_threshold=-SURE)
    steps = [way == "reused"] * STEPS
    return MaskGate(mask_of(steps, stand.num_gates((site,)), stand.batch.num_samples))


def cost_rows(rounds: Rounds, settings: Settings) -> list[dict[str, Any]]:
    """A row for each site."""
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
    """Seconds of one gate, round by round. Noise may leave less than nothing."""
    return [(taken - rest) / layers for taken, rest in zip(seconds, free, strict=True)]


def measure_costs(settings: Settings, rounds: int, budget_s: float | None = None) -> dict[str, Any]:
    """The table of one model at one batch."""
    stand = stand_of(settings)
    variants = list(cost_variants(stand, settings.sizes))
    timed = time_rounds(variants, rounds, settings.device, budget_s)
    steps = {"step_s": "stock", "rest_s": name_of("free", ("attn", "ff"))}
    medians = {key: statistics.median(timed.seconds[name]) for key, name in steps.items()}
    return {
        "rounds": timed.count,
        **{key: to_digits(value) for key, value in medians.items()},
        "costs": cost_rows(timed, settings),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time gates by site; ends with JSON.")
    add_flags(parser)
    parser.add_argument("--rounds", type=count, help=f"default {ROUNDS}")
    parser.add_argument("--budget", type=float, help="seconds after which no round begins")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds")
    arguments = parser.parse_args(argv)
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    settings = settings_of(parser, arguments)
    kept = {"keeps_memory": keep_memory()}
    hand_over(measure_costs(settings, rounds, arguments.budget) | kept, arguments.out)


if __name__ == "__main__":
    main()
