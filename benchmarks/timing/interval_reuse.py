"""Plain reuse at an interval of 3, and whole blocks against their sites one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.timing.forced_reuse import beside_bounds
from benchmarks.timing.support.architectures import Architecture
from benchmarks.timing.support.interleaved_rounds import Rounds, Variant
from benchmarks.timing.support.median_interval import figures_of
from benchmarks.timing.support.reuse_masks import interval_steps, mask_of, ratio_of_mask
from benchmarks.timing.support.timed_model import Stand, name_of
from dqar.gates.rules import MaskGate

PERIOD = 3
"""Two steps of three reuse, at gaps 1 and 2."""
STEPS_OF_PERIODS = 6
"""Timed steps: two whole periods, so that what is timed computes as often as the interval does."""


def compared(sizes: Architecture) -> list[tuple[str, ...]]:
    """What leaves next to nothing of a block: ``attn,ff``, and whole blocks where they may."""
    return [sites for sites in sizes.site_sets if sites != ("attn",)]


def interval_variants(stand: Stand, sizes: Architecture) -> Iterator[Variant]:
    """Each of those sites."""
    for sites in compared(sizes):
        mask = _mask(stand.num_gates(sites), stand.batch.num_samples)
        name = name_of("interval", sites, PERIOD)
        yield stand.patched(name, sites, MaskGate(mask), num_steps=STEPS_OF_PERIODS)


def _mask(num_gates: int, num_samples: int) -> Any:
    return mask_of(interval_steps(PERIOD, STEPS_OF_PERIODS), num_gates, num_samples)


def interval_figures(rounds: Rounds, sizes: Architecture) -> list[dict[str, Any]]:
    """A row for each."""
    ratio = ratio_of_mask(_mask(1, 1))
    return [
        {"sites": ",".join(sites), "interval": PERIOD, "reuse_ratio": round(ratio, 4)}
        | beside_bounds(rounds, sizes, sites, ratio, name_of("interval", sites, PERIOD))
        for sites in compared(sizes)
    ]


def block_against_sites(rounds: Rounds, sizes: Architecture) -> dict[str, Any] | None:
    """How much faster whole blocks are than ``attn,ff`` at the same interval; None where blocks
    cannot be reused whole."""
    if ("block",) not in compared(sizes):
        return None
    sites, block = (name_of("interval", of, PERIOD) for of in (("attn", "ff"), ("block",)))
    return {"interval": PERIOD} | figures_of("ratio", rounds.ratio(sites, block))
