"""Where a step's time goes: torch's profiler on a stock step and on steps that reuse everything.

    python -m benchmarks.timing.step_profile --model dit-s-2-256 --device cpu --batch 4

On a GPU it tells how long the device was busy, so what is left is time that it waited for the
host: the largest gap that is left to close. The last line is JSON; its keys are in
docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing.forced_reuse import forced
from benchmarks.timing.gate_overhead import SITES, deciders
from benchmarks.timing.speed import stand_of
from benchmarks.timing.support.allocator import keep_memory
from benchmarks.timing.support.architectures import Architecture
from benchmarks.timing.support.flags import Settings, add_flags, hand_over, settings_of
from benchmarks.timing.support.interleaved_rounds import Variant
from benchmarks.timing.support.median_interval import to_digits
from benchmarks.timing.support.timed_model import STEPS, Stand, name_of

RUNS = 5
"""Unprofiled runs, whose median is the wall time; a profiler slows what it watches."""
TOP = 8
"""Operators or kernels named, by their own time."""


def watched_variants(stand: Stand, sizes: Architecture) -> Iterator[Variant]:
    """Stock, everything reused, and each gate that measures."""
    yield stand.stock()
    for sites in sizes.site_sets:
        yield forced(stand, sites, 1.0)
    for found in deciders(["full"]):
        yield stand.patched(name_of(found.name, SITES), SITES, found.gate)


def gap_of(stand: Stand, variant: Variant) -> dict[str, Any]:
    """Wall time of a step, how much of it the device worked, and on what."""
    on_gpu = stand.device == "cuda"
    wall = statistics.median(variant.run().seconds for _ in range(RUNS))
    # The first profile of a process pays for setting up, inside what it watches.
    averages = [profiled(stand, variant, on_gpu) for _ in range(2)][-1]
    named = {"variant": variant.name, "wall_s": to_digits(wall)}
    return named | account(averages, on_gpu, wall)


def profiled(stand: Stand, variant: Variant, on_gpu: bool) -> Any:
    """What the profiler saw in the timed steps of one run, by operator and kernel."""
    both = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    seen = profile(activities=both if on_gpu else both[:1])
    stand.watch = lambda: seen
    try:
        variant.run()
    finally:
        stand.watch = nullcontext
    return seen.key_averages()


def account(averages: Any, on_gpu: bool, wall: float) -> dict[str, Any]:
    """What a profile holds, per step. On a GPU the kernels and copies, else the operators."""
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    rows = [_row(found, on_gpu) for found in averages if found.device_type == kind]
    rows.sort(key=lambda row: -row["self_s"])
    busy = sum(row["self_s"] for row in rows)
    copies = sum(row["calls"] for row in rows if row["name"].startswith("Memcpy"))
    return {
        "busy_s": to_digits(busy),
        "idle_share": round(1.0 - busy / wall, 4) if on_gpu else None,
        "launches": to_digits(sum(row["calls"] for row in rows)) if on_gpu else None,
        "copies": copies if on_gpu else None,
        "top": [row | {"self_s": to_digits(row["self_s"])} for row in rows[:TOP]],
    }


def _row(found: Any, on_gpu: bool) -> dict[str, Any]:
    own_us = found.self_device_time_total if on_gpu else found.self_cpu_time_total
    return {
        "name": found.key[:120],
        "self_s": own_us / 1e6 / STEPS,
        "calls": found.count / STEPS,
    }


def measure_gaps(settings: Settings) -> dict[str, Any]:
    """Every variant, as the result's JSON."""
    stand = stand_of(settings)
    variants = list(watched_variants(stand, settings.sizes))
    return settings.facts() | {"gaps": [gap_of(stand, variant) for variant in variants]}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Profile what is left of a step; ends with JSON.")
    add_flags(parser)
    arguments = parser.parse_args(argv)
    settings = settings_of(parser, arguments)
    kept = {"keeps_memory": keep_memory()}
    hand_over(measure_gaps(settings) | kept, arguments.out)


if __name__ == "__main__":
    main()
