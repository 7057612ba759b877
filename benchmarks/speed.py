"""What reuse takes on the clock, beside what it could take: random weights, interleaved.

    python -m benchmarks.speed --model dit-s-2-256 --device cpu --batch 4 --quick

Needs torch and diffusers alone. Every round times each variant once, in an order that rotates; a
figure is the median over rounds of a ratio within the round, with its 95% interval. The bound of
reuse at ratio r is ``T / (T - r * T_sites)``: T_sites is what a step takes less when the sites
return at once. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.subjects import ARCHITECTURES, Batch, build_batch, build_model
from dqar import DQARConfig, DQARController, DQARDiTWrapper
from dqar.gates import Scripted

SITES = (("attn",), ("attn", "ff"), ("block",))
RATIOS = (0.25, 0.5, 0.75, 1.0)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
STEPS = 4
"""Timed steps of a run, after a first one that fills the cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One thing to time."""

    name: str
    seconds: Callable[[], float]
    """Of one run of :data:`STEPS` steps."""


def clock(device: str) -> float:
    """Seconds; on a GPU after all work is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def time_steps(step: Callable[[int], Any], device: str) -> float:
    """Seconds of the steps after the first."""
    step(0)
    started = clock(device)
    for index in range(1, STEPS + 1):
        step(index)
    return clock(device) - started


class Schedule:
    """Stands in for a sampler's scheduler: its timesteps, and alphas for the SNR."""

    def __init__(self) -> None:
        self.timesteps = torch.linspace(999, 0, STEPS + 1).round()
        self.alphas_cumprod = torch.linspace(0.9999, 0.0001, 1000)


def forced_mask(ratio: float, num_gates: int, num_samples: int) -> torch.Tensor:
    """Reuse whole steps, spread evenly over the timed ones; the first step fills the cache."""
    reused = [int(ratio * (index + 1)) - int(ratio * index) for index in range(STEPS)]
    steps = torch.tensor([0, *reused], dtype=torch.bool)
    return steps[:, None, None].expand(STEPS + 1, num_gates, num_samples)


def run_with(model: Any, batch: Batch, wrapper: DQARDiTWrapper, controller: DQARController) -> Any:
    """Times one run under a controller."""
    schedule = Schedule()
    device = model.device.type
    with wrapper.run(schedule, num_branches=2, controller=controller):
        return time_steps(lambda i: batch.call(model, float(schedule.timesteps[i])), device)


@contextmanager
def free_sites(model: Any, sites: tuple[str, ...]) -> Iterator[None]:
    """The sites return what they were given, at no cost."""
    names = {"attn": "attn1", "ff": "ff"}
    modules = [
        block if site == "block" else getattr(block, names[site])
        for block in model.transformer_blocks
        for site in sites
    ]
    for module in modules:
        module.forward = lambda hidden_states, *_, **__: hidden_states
    try:
        yield
    finally:
        for module in modules:
            del module.__dict__["forward"]


def stock_variant(model: Any, batch: Batch) -> Variant:
    """The model as it is."""
    schedule, device = Schedule(), model.device.type

    def seconds() -> float:
        return time_steps(lambda i: batch.call(model, float(schedule.timesteps[i])), device)

    return Variant(name="stock", seconds=seconds)


def free_variant(model: Any, batch: Batch, sites: tuple[str, ...]) -> Variant:
    """The model with free sites: what is left of a step when all of them are reused at no cost."""
    stock = stock_variant(model, batch)

    def seconds() -> float:
        with free_sites(model, sites):
            return stock.seconds()

    return Variant(name=f"free {','.join(sites)}", seconds=seconds)


def patched_variant(
    name: str, model: Any, batch: Batch, config: DQARConfig, mask: torch.Tensor | None
) -> Variant:
    """A patched model; ``mask`` forces reuse, None leaves it to the configuration."""

    def seconds() -> float:
        gate = None if mask is None else Scripted(mask)
        controller = DQARController(config, gate=gate)
        wrapper = DQARDiTWrapper(model, config)
        try:
            return run_with(model, batch, wrapper, controller)
        finally:
            wrapper.unpatch()

    return Variant(name=name, seconds=seconds)


def variants(model: Any, batch: Batch, bits: Any) -> Iterator[Variant]:
    """Everything that a round times."""
    yield stock_variant(model, batch)
    yield patched_variant("closed", model, batch, DQARConfig.never(), None)
    for sites in SITES:
        yield free_variant(model, batch, sites)
        config = DQARConfig(sites=sites, quantization_bits=bits)
        num_gates = len(sites) * len(model.transformer_blocks)
        for ratio in RATIOS:
            mask = forced_mask(ratio, num_gates, batch.num_samples)
            name = f"forced {','.join(sites)} {ratio:g}"
            yield patched_variant(name, model, batch, config, mask)


def time_rounds(all_variants: list[Variant], rounds: int) -> dict[str, list[float]]:
    """Seconds by variant and round; the first round is thrown away."""
    seconds: dict[str, list[float]] = {variant.name: [] for variant in all_variants}
    for index in range(rounds + 1):
        start = index % len(all_variants)
        for variant in all_variants[start:] + all_variants[:start]:
            taken = variant.seconds()
            if index:
                seconds[variant.name].append(taken)
        print(f"round {index} of {rounds}", flush=True)
    return seconds


def ratio_of(over: list[float], under: list[float]) -> dict[str, float]:
    """Median over rounds of a ratio, with the 95% interval of the median (order statistics)."""
    ratios = sorted(a / b for a, b in zip(over, under, strict=True))
    # Half-width of a binomial interval for the median, in ranks.
    reach = 0.98 * len(ratios) ** 0.5
    low = max(0, round(len(ratios) / 2 - reach) - 1)
    high = min(len(ratios) - 1, round(len(ratios) / 2 + reach))
    return {"median": statistics.median(ratios), "low": ratios[low], "high": ratios[high]}


def forced_figures(seconds: dict[str, list[float]], sites: str, ratio: float) -> dict[str, Any]:
    """Speed-up of one forced ratio beside its bound, each paired within its round."""
    stock, free = seconds["stock"], seconds[f"free {sites}"]
    forced = seconds[f"forced {sites} {ratio:g}"]
    least = [t - ratio * (t - rest) for t, rest in zip(stock, free, strict=True)]
    speedup, bound = ratio_of(stock, forced), ratio_of(stock, least)
    reached = ratio_of(least, forced)
    return {
        "sites": sites,
        "reuse_ratio": ratio,
        "speedup": round(speedup["median"], 4),
        "speedup_ci95": [round(speedup["low"], 4), round(speedup["high"], 4)],
        "bound": round(bound["median"], 4),
        "fraction_of_bound": round(reached["median"], 4),
        "fraction_ci95": [round(reached["low"], 4), round(reached["high"], 4)],
    }


def report(seconds: dict[str, list[float]], arguments: argparse.Namespace) -> dict[str, Any]:
    """The JSON line."""
    closed = ratio_of(seconds["stock"], seconds["closed"])
    names = [",".join(sites) for sites in SITES]
    return {
        "model": arguments.model,
        "weights": "random",
        "device": device_name(arguments.device),
        "dtype": arguments.dtype,
        "batch": arguments.batch,
        "cache_bits": arguments.cache_bits,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": arguments.rounds,
        "step_seconds": round(statistics.median(seconds["stock"]) / STEPS, 5),
        "closed_ratio": round(closed["median"], 4),
        "closed_ratio_ci95": [round(closed["low"], 4), round(closed["high"], 4)],
        "forced": [forced_figures(seconds, name, ratio) for name in names for ratio in RATIOS],
    }


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's architecture."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu {platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time reuse beside its bound; ends with JSON.")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--batch", type=int, default=4, help="samples; rows are twice as many")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--cache-bits", type=int, choices=[4, 8, 16, 32], default=32)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--quick", action="store_true", help="8 rounds")
    parser.add_argument("--out", type=Path, help="also write the JSON line to this file")
    arguments = parser.parse_args()
    arguments.rounds = 8 if arguments.quick else arguments.rounds
    dtype = DTYPES[arguments.dtype]
    model = build_model(arguments.model, arguments.device, dtype)
    batch = build_batch(arguments.model, arguments.batch, arguments.device, dtype)
    everything = list(variants(model, batch, arguments.cache_bits))
    line = json.dumps(report(time_rounds(everything, arguments.rounds), arguments))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
