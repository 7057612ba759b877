"""Forced reuse of 25, 50, 75 and 100% of the timed steps, beside the bounds of its speed-up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from benchmarks.timing.support.architectures import Architecture, flops_bound
from benchmarks.timing.support.interleaved_rounds import Rounds, Variant
from benchmarks.timing.support.median_interval import figures_of, to_digits
from benchmarks.timing.support.reuse_masks import forced_steps, mask_of
from benchmarks.timing.support.timed_model import STEPS, TimedModel, name_of
from dqar.gates.rules import MaskGate
from pipeline.statistics import ratio_of

RATIOS = (0.25, 0.5, 0.75, 1.0)


def forced(
    timed_model: TimedModel, sites: tuple[str, ...], ratio: float, **changes: Any
) -> Variant:
    """Variant that reuses a share of whole steps by a mask, so that decisions take no time."""
    gates, samples = timed_model.num_gates(sites), timed_model.batch.num_samples
    gate = MaskGate(mask_of(forced_steps(ratio, STEPS), gates, samples))
    bits = changes.get("quantization_bits", timed_model.cache_bits)
    return timed_model.patched(forced_name(sites, ratio, bits), sites, gate, **changes)


def forced_name(sites: tuple[str, ...], ratio: float, bits: int) -> str:
    """Name of a variant of :func:`forced`."""
    return name_of("forced", sites, f"{ratio:g}", f"{bits} bits")


def forced_variants(timed_model: TimedModel, sizes: Architecture) -> Iterator[Variant]:
    """Yield each set of sites at each ratio, and the model whose sites cost nothing."""
    for sites in sizes.site_sets:
        yield timed_model.free(sites)
        for ratio in RATIOS:
            yield forced(timed_model, sites, ratio)


def forced_figures(rounds: Rounds, sizes: Architecture, bits: int) -> list[dict[str, Any]]:
    """One row for each set of sites and each ratio."""
    return [
        {"sites": ",".join(sites), "reuse_ratio": ratio}
        | beside_bounds(rounds, sizes, sites, ratio, forced_name(sites, ratio, bits))
        for sites in sizes.site_sets
        for ratio in RATIOS
    ]


def least_seconds(stock: float, free: float, ratio: float) -> float:
    """Mean time of a step if a share ``ratio`` of the steps skips the sites at no cost."""
    return stock - ratio * (stock - free)


def beside_bounds(
    rounds: Rounds, sizes: Architecture, sites: tuple[str, ...], ratio: float, name: str
) -> dict[str, Any]:
    """Speed-up of a variant beside its bounds, from ratios within each round."""
    stock, reused = rounds.seconds["stock"], rounds.seconds[name]
    free = rounds.seconds[name_of("free", sites)]
    least = [least_seconds(t, rest, ratio) for t, rest in zip(stock, free, strict=True)]
    fraction = figures_of("fraction_of_bound", ratio_of(least, reused))
    by_flops = flops_bound(sizes, sites, ratio)
    return {
        **figures_of("speedup", ratio_of(stock, reused)),
        "bound": to_digits(ratio_of(stock, least)["median"]),
        "fraction_of_bound": fraction["fraction_of_bound"],
        "fraction_ci95": fraction["fraction_of_bound_ci95"],
        # JSON has no infinity.
        "flops_bound": to_digits(by_flops) if math.isfinite(by_flops) else None,
        **memory_of(rounds, name),
    }


def memory_of(rounds: Rounds, name: str) -> dict[str, Any]:
    """MB (10^6 bytes) of a variant's cache, and the peak of all tensors."""
    peak = rounds.peak_bytes[name]
    return {
        "cache_mb": to_digits(rounds.cache_bytes[name] / 1e6),
        "peak_memory_mb": None if peak is None else to_digits(peak / 1e6, 6),
    }
