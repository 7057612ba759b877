"""Scaling of the time of a step, and of the time that reuse saves, with tokens, layers and batch.

    python -m benchmarks.timing.scaling --device cpu

On a CPU the model is a DiT of width 128, to save time: the exponent in tokens holds for that width
and rises with ``tokens / width``. One round times every point once; an exponent is fitted within
each round. The last line is JSON; its keys are in docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.timing.forced_reuse import forced, forced_name
from benchmarks.timing.support.allocator import keep_memory
from benchmarks.timing.support.architectures import Architecture
from benchmarks.timing.support.device_clock import device_name
from benchmarks.timing.support.flags import DEVICES, DTYPES, count, hand_over, machine_facts
from benchmarks.timing.support.interleaved_rounds import Rounds, Variant, time_rounds
from benchmarks.timing.support.median_interval import to_digits
from benchmarks.timing.support.models import batch_of, model_of
from benchmarks.timing.support.power_fit import exponent_figures
from benchmarks.timing.support.timed_model import TimedModel

BASE_BATCH = 2
ROUNDS, QUICK_ROUNDS = 12, 6
CACHE_BITS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Points along one axis; all other sizes are those of the base."""

    axis: str
    values: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Base model and axes to time on a device."""

    base: Architecture
    lines: tuple[Line, ...]


PLANS = {
    "cpu": Plan(
        base=Architecture(num_layers=4, num_heads=4, head_dim=32, latent_size=16),
        lines=(
            Line(axis="tokens", values=(64, 256, 576, 1024)),
            Line(axis="layers", values=(4, 8, 12, 16)),
            Line(axis="batch", values=(1, 2, 4, 8)),
        ),
    ),
    # The width of DiT-XL: a narrow model would measure kernel launches.
    "cuda": Plan(
        base=Architecture(num_layers=4, num_heads=16, head_dim=72, latent_size=32),
        lines=(
            Line(axis="tokens", values=(256, 1024, 4096)),
            Line(axis="layers", values=(4, 8, 16, 28)),
            Line(axis="batch", values=(1, 4, 16, 64)),
        ),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One model at one batch."""

    sizes: Architecture
    batch: int

    def named(self, what: str) -> str:
        """Name of a variant at this point."""
        return f"{self.sizes.num_tokens}t {self.sizes.num_layers}l {self.batch}b: {what}"


def point(axis: str, value: int, base: Architecture) -> Point:
    """Change one size of the base.

    Raises:
        ValueError: if no square image has that many tokens, or the axis is unknown.
    """
    if axis == "batch":
        return Point(sizes=base, batch=value)
    if axis == "layers":
        return Point(sizes=replace(base, num_layers=value), batch=BASE_BATCH)
    side = round(value**0.5)
    if axis != "tokens" or side * side != value:
        raise ValueError(
            f"axis must be tokens (a square), layers or batch. Got {axis!r}, {value}. "
            "Pass 'tokens', 64."
        )
    return Point(sizes=replace(base, latent_size=2 * side), batch=BASE_BATCH)


def point_variants(at: Point, device: str, dtype: str) -> Iterator[Variant]:
    """Yield the stock model, and reuse of every step for each set of sites."""
    given = at.sizes, at.batch, device, DTYPES[dtype]
    model = model_of(at.sizes, device, DTYPES[dtype])
    timed_model = TimedModel(model, batch_of(*given), cache_bits=CACHE_BITS)
    found = [
        timed_model.stock(),
        *(forced(timed_model, sites, 1.0) for sites in at.sizes.site_sets),
    ]
    for variant in found:
        yield replace(variant, name=at.named(variant.name))


def costs_of(rounds: Rounds, at: Point) -> dict[str, list[float]]:
    """Seconds of a stock step, and seconds that reuse of each set of sites saves, by round."""
    stock = rounds.seconds[at.named("stock")]
    costs = {"step": stock}
    for sites in at.sizes.site_sets:
        reused = rounds.seconds[at.named(forced_name(sites, 1.0, CACHE_BITS))]
        saved = [whole - part for whole, part in zip(stock, reused, strict=True)]
        costs[f"saved by {','.join(sites)}"] = saved
    return costs


def line_figures(rounds: Rounds, line: Line, base: Architecture) -> dict[str, Any]:
    """Exponents along one axis, with the median seconds at each point."""
    by_value = {value: costs_of(rounds, point(line.axis, value, base)) for value in line.values}
    figures = {}
    for what in by_value[line.values[0]]:
        costs = {value: by_value[value][what] for value in line.values}
        seconds = [to_digits(statistics.median(found)) for found in costs.values()]
        figures[what] = {"fit": exponent_figures(costs), "seconds": seconds}
    return {"axis": line.axis, "values": list(line.values), "costs": figures}


def measure_scaling(
    device: str,
    dtype: str,
    rounds: int,
    budget_s: float | None = None,
    plan: Plan | None = None,
) -> dict[str, Any]:
    """Time every line of a plan (default: the device's); return the result's JSON."""
    plan = plan or PLANS[device]
    base, lines = plan.base, plan.lines
    points = {point(line.axis, value, base) for line in lines for value in line.values}
    ordered = sorted(points, key=lambda at: at.named(""))
    variants = [found for at in ordered for found in point_variants(at, device, dtype)]
    timed = time_rounds(variants, rounds, device, budget_s)
    return {
        **{"base": asdict(base), "base_batch": BASE_BATCH, "weights": "random"},
        **{"device": device_name(device), "dtype": dtype, "cache_bits": CACHE_BITS},
        **machine_facts(),
        "rounds": timed.count,
        "lines": [line_figures(timed, line, base) for line in lines],
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fit scaling exponents; the last line is JSON.")
    parser.add_argument("--device", choices=DEVICES, required=True, help="device to time")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="fp32", help="type of weights and activations"
    )
    parser.add_argument("--rounds", type=count, help=f"default: {ROUNDS}")
    parser.add_argument("--budget", type=float, help="seconds after which no round begins")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds")
    parser.add_argument("--out", type=Path, help="also write the JSON line to this file")
    arguments = parser.parse_args(argv)
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    kept = {"keeps_memory": keep_memory()}
    result = measure_scaling(arguments.device, arguments.dtype, rounds, budget_s=arguments.budget)
    hand_over(result | kept, arguments.out)


if __name__ == "__main__":
    main()
