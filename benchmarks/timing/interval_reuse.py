"""Reuse at an interval of 3, of ``attn,ff`` and of whole blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.timing.forced_reuse import beside_bounds
from benchmarks.timing.support.architectures import Architecture
from benchmarks.timing.support.interleaved_rounds import Rounds, Variant
from benchmarks.timing.support.median_interval import figures_of
from benchmarks.timing.support.reuse_masks import interval_steps, mask_of, ratio_of_mask
from benchmarks.timing.support.timed_model import TimedModel, name_of
from dqar.gates.rules import MaskGate

PERIOD = 3
"""Steps from one computation to the next: two of three steps reuse, at gaps 1 and 2."""
STEPS_OF_PERIODS = 6
"""Timed steps: two whole periods, so that one third of the timed steps computes."""


def compared(sizes: Architecture) -> list[tuple[str, ...]]:
    """Sets of sites that leave little work: ``attn,ff``, and ``block`` if the model allows it."""
    return [sites for sites in sizes.site_sets if sites != ("attn",)]


def interval_variants(timed_model: TimedModel, sizes: Architecture) -> Iterator[Variant]:
    """Yield a variant for each of the :func:`compared` sets of sites."""
    for sites in compared(sizes):
        mask = _mask(timed_model.num_gates(sites), timed_model.batch.num_samples)
        name = name_of("interval", sites, PERIOD)
        yield timed_model.patched(name, sites, MaskGate(mask), num_steps=STEPS_OF_PERIODS)


def _mask(num_gates: int, num_samples: int) -> Any:
    return mask_of(interval_steps(PERIOD, STEPS_OF_PERIODS), num_gates, num_samples)


def interval_figures(rounds: Rounds, sizes: Architecture) -> list[dict[str, Any]]:
    """One row for each of the :func:`compared` sets of sites."""
    ratio = ratio_of_mask(_mask(1, 1))
    return [
        {"sites": ",".join(sites), "interval": PERIOD, "reuse_ratio": round(ratio, 4)}
        | beside_bounds(rounds, sizes, sites, ratio, name_of("interval", sites, PERIOD))
        for sites in compared(sizes)
    ]


def block_against_sites(rounds: Rounds, sizes: Architecture) -> dict[str, Any] | None:
    """Time of ``attn,ff`` over that of whole blocks at the same interval; None for a model whose
    blocks cannot be reused whole."""
    if ("block",) not in compared(sizes):
        return None
    sites, block = (name_of("interval", of, PERIOD) for of in (("attn", "ff"), ("block",)))
    return {"interval": PERIOD} | figures_of("ratio", rounds.ratio(sites, block))
