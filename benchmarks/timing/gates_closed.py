"""What a patched model costs whose gates are closed: single steps, stock and closed in turn."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.timing.support.device_clock import clock
from benchmarks.timing.support.median_interval import figures_of
from benchmarks.timing.support.timed_model import Schedule, Stand
from dqar import DQARController
from dqar.gates.rules import NeverReuse
from pipeline.statistics import ratio_of

STEPS_OF_HALF = {"cpu": 1, "cuda": 4}
"""Steps between two looks at the clock: the shorter the closer the pair, and each look makes a GPU
wait."""
MOST_PAIRS = 200
"""More would ask the stand's schedule for one timestep twice."""


@torch.no_grad()
def closed_pairs(
    stand: Stand, pairs: int, budget_s: float | None = None
) -> tuple[list[float], list[float]]:
    """Seconds of stock and of closed halves, pair by pair; who goes first takes turns.

    Args:
        pairs: that count, at most.
        budget_s: seconds after which no pair begins, but for the first.

    Raises:
        ValueError: if there are none, or more than :data:`MOST_PAIRS`.
    """
    if not 1 <= pairs <= MOST_PAIRS:
        raise ValueError(f"pairs must be in [1, {MOST_PAIRS}]. Got {pairs=}. Pass {MOST_PAIRS}.")
    sites = ("attn", "ff")
    stock, wrapper = stand.plain, stand.wrapper(sites)
    steps = STEPS_OF_HALF[stand.device]
    # One pair more than is kept warms up.
    schedule = Schedule((pairs + 1) * steps - 1)
    seconds: tuple[list[float], list[float]] = ([], [])
    controller = DQARController(stand.config(sites), gate=NeverReuse())
    started = time.monotonic()
    with wrapper.run(schedule, num_branches=2, controller=controller):
        for pair in range(pairs + 1):
            if pair > 1 and budget_s is not None and time.monotonic() - started > budget_s:
                break
            timesteps = schedule.timesteps[pair * steps : (pair + 1) * steps].tolist()
            for who in (0, 1) if pair % 2 else (1, 0):
                seconds[who].append(_seconds(stand, (stock, wrapper)[who], timesteps))
    return seconds[0][1:], seconds[1][1:]


def _seconds(stand: Stand, model: Any, timesteps: list[float]) -> float:
    started = clock(stand.device)
    for timestep in timesteps:
        stand.batch.call(model, timestep)
    return clock(stand.device) - started


def closed_figures(stock: list[float], closed: list[float]) -> dict[str, Any]:
    """Stock time over closed time: 1 costs nothing, less is slower."""
    return figures_of("closed_ratio", ratio_of(stock, closed)) | {"closed_pairs": len(stock)}
