"""Profile of a step by torch's profiler: a stock step, and steps that reuse everything.

    python -m benchmarks.timing.step_profile --model dit-s-2-256 --device cpu --batch 4

On a GPU the profile has the time for which the device was busy. In the rest of the wall time the
device waited for the host, so the rest bounds what a faster host path could save. The last line is
JSON; its keys are in docs/performance.md.
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
from benchmarks.timing.speed import timed_model_of
from benchmarks.timing.support.allocator import keep_memory
from benchmarks.timing.support.architectures import Architecture
from benchmarks.timing.support.flags import Settings, add_flags, hand_over, settings_of
from benchmarks.timing.support.interleaved_rounds import Variant
from benchmarks.timing.support.median_interval import to_digits
from benchmarks.timing.support.timed_model import STEPS, TimedModel, name_of

RUNS = 5
"""Runs without the profiler, whose median is the wall time; the profiler slows a step."""
TOP = 8
"""Operators or kernels in the result, those with the largest own time."""


def watched_variants(timed_model: TimedModel, sizes: Architecture) -> Iterator[Variant]:
    """Yield the stock model, reuse of every step, and each gate that measures."""
    yield timed_model.stock()
    for sites in sizes.site_sets:
        yield forced(timed_model, sites, 1.0)
    for found in deciders(["full"]):
        yield timed_model.patched(name_of(found.name, SITES), SITES, found.gate)


def gap_of(timed_model: TimedModel, variant: Variant) -> dict[str, Any]:
    """Profile a variant: wall time of a step, busy time of the device, costliest operators."""
    on_gpu = timed_model.device == "cuda"
    wall = statistics.median(variant.run().seconds for _ in range(RUNS))
    # The first profile of a process includes the set-up of the profiler, so the second counts.
    averages = [profiled(timed_model, variant, on_gpu) for _ in range(2)][-1]
    named = {"variant": variant.name, "wall_s": to_digits(wall)}
    return named | account(averages, on_gpu, wall)


def profiled(timed_model: TimedModel, variant: Variant, on_gpu: bool) -> Any:
    """Profile the timed steps of one run; return the averages by operator and kernel."""
    both = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    seen = profile(activities=both if on_gpu else both[:1])
    timed_model.watch = lambda: seen
    try:
        variant.run()
    finally:
        timed_model.watch = nullcontext
    return seen.key_averages()


def account(averages: Any, on_gpu: bool, wall: float) -> dict[str, Any]:
    """Sum a profile up, per step: kernels and copies on a GPU, operators on a CPU."""
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
    """Profile every variant; return the result's JSON."""
    timed_model = timed_model_of(settings)
    variants = list(watched_variants(timed_model, settings.sizes))
    return settings.facts() | {"gaps": [gap_of(timed_model, variant) for variant in variants]}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Profile a step; the last line is JSON.")
    add_flags(parser)
    arguments = parser.parse_args(argv)
    settings = settings_of(parser, arguments)
    kept = {"keeps_memory": keep_memory()}
    hand_over(measure_gaps(settings) | kept, arguments.out)


if __name__ == "__main__":
    main()
