"""Runs that compute 6 of 13 steps: time of a skipped step, and what the run reaches of its bound.

    python -m benchmarks.timing.skipped_steps --model dit-s-2-256 --device cpu --batch 4 --quick

Whole runs of diffusers' DDIM on random weights, interleaved: the stock model, the site ``stack``
and the sites ``attn,ff`` under a controller and as a planned model, and other packages with
forecasts at the same steps: TaylorSeer of diffusers on blocks, and cache-dit where it is installed
(a folder of ``pip install --target`` on PYTHONPATH). With r, the time of a skipped step over that
of a stock step, a run of T steps of which K are computed is at most ``T / (K + (T - K) * r)`` times
as fast as the stock model. The last line is JSON; its keys are in docs/performance.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.timing.speed import timed_model_of
from benchmarks.timing.support.allocator import keep_memory
from benchmarks.timing.support.device_clock import clock
from benchmarks.timing.support.flags import Settings, add_flags, count, hand_over, settings_of
from benchmarks.timing.support.interleaved_rounds import Ran, Variant, time_rounds
from benchmarks.timing.support.median_interval import figures_of, to_digits
from benchmarks.timing.support.peers import Peer, cache_dit, taylorseer
from benchmarks.timing.support.timed_model import TimedModel
from dqar import DQARController, DQARDiTWrapper, StaticPlan
from dqar.integration import Compilation, DQARSampler, PlannedDiT, SamplerConfig
from dqar.schedules.export import export_plan
from pipeline.statistics import ratio_of

STEPS, PERIOD, WARM = 13, 3, (0, 1)
"""Sampling steps; after the first two every third is computed, as in diffusers' TaylorSeer."""
COMPUTED = tuple(step in WARM or step % PERIOD == 0 for step in range(STEPS))
"""True for the 6 of 13 steps that compute everything."""
STACK, SITES = ("stack",), ("attn", "ff")


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to sample, with the seconds of every step in each of its runs."""

    name: str
    model: Any
    begin: Callable[[], None] = lambda: None
    """Called before each run."""
    controller: Callable[[], DQARController | None] = lambda: None
    """Makes the controller of each run."""
    seconds: list[list[float]] = field(default_factory=list)
    """Seconds by run and step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """Noise, labels and scheduler from which every run starts."""

    latents: Any
    labels: Any
    scheduler: Any
    clock: Callable[[], float]
    """Seconds of the wall clock, or of the process's CPU time."""

    def variant(self, way: Way) -> Variant:
        """Return the variant that samples with a way and notes the time of each step."""

        def run() -> Ran:
            way.begin()
            config = SamplerConfig(num_inference_steps=STEPS, guidance_scale=4.0)
            sampler = DQARSampler(way.model, self.scheduler, config)
            ends = [self.clock()]
            sampler.sample(
                len(self.labels),
                self.labels,
                latents=self.latents,
                controller=way.controller(),
                on_step=lambda _: ends.append(self.clock()),
            )
            # The first step includes what a run prepares, which the run's time includes too.
            way.seconds.append([end - begin for begin, end in itertools.pairwise(ends)])
            return Ran(seconds=(ends[-1] - ends[0]) / STEPS)

        return Variant(name=way.name, run=run)


def sampled_of(timed_model: TimedModel, *, by_cpu_time: bool = False) -> Sampled:
    """Return the start of every run: the latents and labels of the model's timed batch."""
    from diffusers import DDIMScheduler

    batch = timed_model.batch
    return Sampled(
        latents=batch.latents[: batch.num_samples],
        labels=batch.conditions["class_labels"][: batch.num_samples],
        scheduler=DDIMScheduler(num_train_timesteps=1000, clip_sample=False),
        clock=time.process_time if by_cpu_time else partial(clock, timed_model.device),
    )


def plan_for(sites: tuple[str, ...], order: int, num_layers: int) -> StaticPlan:
    """Return the plan that computes the steps of :data:`COMPUTED`."""
    from dqar.gates.rules import MaskGate

    gate = MaskGate(~torch.tensor(COMPUTED)[:, None, None])
    return export_plan(gate, sites=sites, num_layers=num_layers, steps=STEPS, forecast_order=order)


def ways_of(timed_model: TimedModel, settings: Settings, orders: tuple[int, ...]) -> Iterator[Way]:
    """Yield the stock model and every way to skip steps, each on a copy of the model."""
    yield Way(name="stock", model=timed_model.plain)
    for order in orders:
        for sites in (STACK, SITES):
            plan = plan_for(sites, order, settings.sizes.num_layers)
            yield _controlled(timed_model, plan)
            yield _planned(timed_model, plan)
        if not settings.compiled:
            yield from _peers(timed_model, order)


def _controlled(timed_model: TimedModel, plan: StaticPlan) -> Way:
    config = timed_model.config(plan.sites, forecast_order=plan.forecast_order)
    return Way(
        name=name_of("controller", ",".join(plan.sites), plan.forecast_order),
        model=DQARDiTWrapper(timed_model.ready(timed_model.another()), config),
        controller=lambda: DQARController(config, gate=plan.gate()),
    )


def _planned(timed_model: TimedModel, plan: StaticPlan) -> Way:
    compilation = Compilation() if timed_model.compiled else None
    return Way(
        name=name_of("planned", ",".join(plan.sites), plan.forecast_order),
        model=PlannedDiT(timed_model.another(), plan, compilation=compilation),
    )


def _peers(timed_model: TimedModel, order: int) -> Iterator[Way]:
    peers: dict[str, Peer | None] = {
        "taylorseer": taylorseer(timed_model.another(), order, PERIOD),
        "cache-dit": cache_dit(timed_model.another(), order, COMPUTED),
    }
    for name, peer in peers.items():
        if peer is not None:
            yield Way(name=name_of(name, "", order), model=peer.model, begin=peer.begin)


def name_of(kind: str, sites: str, order: int) -> str:
    """Return the name of a way, such as ``controller stack 1``."""
    return " ".join(part for part in (kind, sites, str(order)) if part)


def figures(stock: Way, way: Way) -> dict[str, Any]:
    """Return the figures of a way, from ratios within each round.

    ``r`` is the mean time of a skipped step over the mean time of a stock step, ``computed`` that
    of a computed step; ``fraction`` is the speed-up over its bound for the measured ``r``.
    """
    means, whole = [_mean(run) for run in stock.seconds], [sum(run) for run in stock.seconds]
    skipped = [_mean(_some(run, computed=False)) for run in way.seconds]
    computed = [_mean(_some(run, computed=True)) for run in way.seconds]
    own, number = [sum(run) for run in way.seconds], sum(COMPUTED)
    shares = [one / mean for one, mean in zip(skipped, means, strict=True)]
    bounds = [STEPS / (number + (STEPS - number) * share) for share in shares]
    reached = [t * bound for t, bound in zip(own, bounds, strict=True)]
    return {
        "way": way.name,
        **figures_of("speedup", ratio_of(whole, own)),
        **figures_of("r", ratio_of(skipped, means)),
        **figures_of("computed", ratio_of(computed, means)),
        **figures_of("bound", ratio_of(bounds, [1.0] * len(bounds))),
        **figures_of("fraction", ratio_of(whole, reached)),
    }


def _some(run: list[float], *, computed: bool) -> list[float]:
    return [seconds for seconds, one in zip(run, COMPUTED, strict=True) if one == computed]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def measure(
    settings: Settings,
    rounds: int,
    orders: tuple[int, ...] = (1, 2),
    budget_s: float | None = None,
    tell: Callable[[str], None] = print,
    *,
    by_cpu_time: bool = False,
    without: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Time the ways of one model at one batch size; return the result's JSON.

    Args:
        without: words of the names of ways that are left out, such as ``attn,ff``.
    """
    started, timed_model = time.monotonic(), timed_model_of(settings)
    sampled = sampled_of(timed_model, by_cpu_time=by_cpu_time)
    ways = list(ways_of(timed_model, settings, orders))
    ways = [way for way in ways if not any(word in way.name for word in without)]
    variants = [sampled.variant(way) for way in ways]
    may_be_cold = settings.device == "cpu" and not settings.compiled
    timed = time_rounds(variants, rounds, settings.device, budget_s, tell, may_be_cold=may_be_cold)
    for way in ways if not timed.is_cold else ():
        del way.seconds[0]  # the warm-up round
    return {
        **settings.facts(),
        "steps": STEPS,
        "computed_steps": [step for step, is_computed in enumerate(COMPUTED) if is_computed],
        "rounds": timed.count,
        "is_cold": timed.is_cold,
        "clock": "process CPU time" if by_cpu_time else "wall",
        "stock_step_s": to_digits(statistics.median(map(_mean, ways[0].seconds))),
        "ways": [figures(ways[0], way) for way in ways[1:]],
        "seconds": round(time.monotonic() - started, 1),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time skipped steps; the last line is JSON.")
    add_flags(parser)
    parser.add_argument("--rounds", type=count, default=12, help="largest number of rounds")
    parser.add_argument("--budget", type=float, help="seconds after which no round begins")
    parser.add_argument(
        "--quick", action="store_true", help="6 rounds of forecasts of order 1, 10 minutes"
    )
    parser.add_argument(
        "--orders", default="1,2", help="forecast orders, such as 1,2; default: 1,2"
    )
    parser.add_argument(
        "--without", nargs="*", default=[], help="words of ways to leave out, such as attn,ff"
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="time by the process's CPU time, on a CPU that other processes share",
    )
    arguments = parser.parse_args(argv)
    settings = settings_of(parser, arguments)
    quick = {"rounds": 6, "orders": (1,), "budget_s": 600.0}
    orders = tuple(map(int, arguments.orders.split(",")))
    long = {"rounds": arguments.rounds, "orders": orders, "budget_s": arguments.budget}
    kept = {"keeps_memory": keep_memory()}
    result = measure(
        settings,
        **(quick if arguments.quick else long),
        tell=lambda line: print(line, flush=True),
        by_cpu_time=arguments.cpu_time,
        without=tuple(arguments.without),
    )
    command = [
        "python -m benchmarks.timing.skipped_steps",
        *(sys.argv[1:] if argv is None else argv),
    ]
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    hand_over(result | kept | machine | {"command": " ".join(command)}, arguments.out)


if __name__ == "__main__":
    main()
