"""Bound of the speed-up by reuse: ``T / (T - r * T_sites)``, T_sites measured on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dqar.config import CachedParts
from pipeline.methods.site_hooks import skipped_modules

REPEATS = 5


def measure_site_share(
    transformer: Any,
    sites: tuple[str, ...],
    forward: Callable[[], Any],
    cached: CachedParts = "output",
) -> dict[str, float]:
    """Share of a forward's time that each site takes, median over repeats.

    Args:
        forward: calls the transformer once on a batch of the size in question.
    """
    shares: dict[str, list[float]] = {site: [] for site in sites}
    forward()
    for _ in range(REPEATS):
        spent = dict.fromkeys(sites, 0.0)
        with _clocks(transformer, sites, cached, spent):
            started = _now()
            forward()
            total = _now() - started
        for site in sites:
            shares[site].append(spent[site] / total)
    return {site: statistics.median(values) for site, values in shares.items()}


def speed_bound(site_share: dict[str, float], reuse_ratio: dict[str, float]) -> float:
    """Largest speed-up of skipping these shares of the sites."""
    saved = sum(share * reuse_ratio.get(site, 0.0) for site, share in site_share.items())
    return 1.0 / (1.0 - saved)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def _clocks(
    transformer: Any, sites: tuple[str, ...], cached: CachedParts, spent: dict[str, float]
) -> Iterator[None]:
    handles = []
    for block in transformer.transformer_blocks:
        for site in sites:
            for module in skipped_modules(block, site, cached):
                handles += _clock(module, site, spent)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _clock(module: nn.Module, site: str, spent: dict[str, float]) -> list[Any]:
    started = [0.0]

    def before(*_: Any) -> None:
        started[0] = _now()

    def after(*_: Any) -> None:
        spent[site] += _now() - started[0]

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
