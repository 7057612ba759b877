"""Upper bound of the speed-up by reuse: ``T / (T - r * T_sites)``.

T is the time of a forward pass, T_sites the time of the sites within it, both measured on this
device, and r the share of the sites that is reused. The bound assumes that reuse itself is free.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dqar.config import CachedParts
from pipeline.methods.site_hooks import Span, skipped_spans

REPEATS = 5
"""Forward passes that are timed, after one that warms up."""


def measure_site_share(
    transformer: Any,
    sites: tuple[str, ...],
    forward: Callable[[], Any],
    cached: CachedParts = "output",
) -> dict[str, float]:
    """Measure the share of a forward pass's time that each site takes, median over repeats.

    Args:
        transformer: DiT of diffusers.
        sites: sites to measure.
        forward: calls the transformer once, on a batch of the size to measure.
        cached: cached part of ``attn``, which decides the modules that a reuse skips.
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
    """Return the largest speed-up that a reuse ratio of each site allows.

    Args:
        site_share: share of a forward pass's time, by site.
        reuse_ratio: share of the site's rows that are not computed, by site.
    """
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
    for site in sites:
        for spans in skipped_spans(transformer, site, cached):
            for span in spans:
                handles += _clock(span, site, spent)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _clock(span: Span, site: str, spent: dict[str, float]) -> list[Any]:
    started = [0.0]

    def before(*_: Any) -> None:
        started[0] = _now()

    def after(*_: Any) -> None:
        spent[site] += _now() - started[0]

    first, last = span
    return [first.register_forward_pre_hook(before), last.register_forward_hook(after)]
