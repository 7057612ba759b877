"""Overhead of a patched model whose gates never reuse, in pairs with the stock model."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.timing.support.device_clock import clock
from benchmarks.timing.support.median_interval import figures_of
from benchmarks.timing.support.timed_model import Schedule, TimedModel
from dqar import DQARController
from dqar.gates.rules import NeverReuse
from pipeline.statistics import ratio_of

STEPS_OF_HALF = {"cpu": 1, "cuda": 4}
"""Steps between two readings of the clock, by device: few, so that the two halves of a pair are
close in time; more on a GPU, which each reading makes wait."""
MOST_PAIRS = 200
"""Largest number of pairs; with more, the schedule of the run would repeat a timestep."""


@torch.no_grad()
def closed_pairs(
    timed_model: TimedModel, pairs: int, budget_s: float | None = None
) -> tuple[list[float], list[float]]:
    """Time the stock model and the patched model in pairs, in alternating order.

    Args:
        pairs: largest number of pairs, beside one that warms up.
        budget_s: seconds after which no pair begins, except the first.

    Returns:
        Seconds of the stock model and of the patched model, pair by pair.

    Raises:
        ValueError: if ``pairs`` is below 1 or above :data:`MOST_PAIRS`.
    """
    if not 1 <= pairs <= MOST_PAIRS:
        raise ValueError(f"pairs must be in [1, {MOST_PAIRS}]. Got {pairs=}. Pass {MOST_PAIRS}.")
    sites = ("attn", "ff")
    stock, wrapper = timed_model.plain, timed_model.wrapper(sites)
    steps = STEPS_OF_HALF[timed_model.device]
    # The first pair warms up and does not count.
    schedule = Schedule((pairs + 1) * steps - 1)
    seconds: tuple[list[float], list[float]] = ([], [])
    controller = DQARController(timed_model.config(sites), gate=NeverReuse())
    started = time.monotonic()
    with wrapper.run(schedule, num_branches=2, controller=controller):
        for pair in range(pairs + 1):
            if pair > 1 and budget_s is not None and time.monotonic() - started > budget_s:
                break
            timesteps = schedule.timesteps[pair * steps : (pair + 1) * steps].tolist()
            for who in (0, 1) if pair % 2 else (1, 0):
                seconds[who].append(_seconds(timed_model, (stock, wrapper)[who], timesteps))
    return seconds[0][1:], seconds[1][1:]


def _seconds(timed_model: TimedModel, model: Any, timesteps: list[float]) -> float:
    started = clock(timed_model.device)
    for timestep in timesteps:
        timed_model.batch.call(model, timestep)
    return clock(timed_model.device) - started


def closed_figures(stock: list[float], closed: list[float]) -> dict[str, Any]:
    """Time of the stock model over that of the patched one; below 1, the patched one is slower."""
    return figures_of("closed_ratio", ratio_of(stock, closed)) | {"closed_pairs": len(stock)}
