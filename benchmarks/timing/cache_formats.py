"""Cost of caching in fewer bits: half of the steps forced to reuse, by cache format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.timing.forced_reuse import beside_bounds, forced, forced_name
from benchmarks.timing.support.architectures import Architecture
from benchmarks.timing.support.flags import CACHE_BITS
from benchmarks.timing.support.interleaved_rounds import Rounds, Variant
from benchmarks.timing.support.median_interval import figures_of
from benchmarks.timing.support.timed_model import TimedModel

SITES, RATIO = ("attn", "ff"), 0.5


def formats(own_bits: int) -> list[int]:
    """Bits of the compared formats, widest first: the run's own format and all narrower ones.

    Wider formats are left out because they may not fit into the device's memory.
    """
    return sorted((bits for bits in CACHE_BITS if bits <= own_bits), reverse=True)


def format_variants(timed_model: TimedModel) -> Iterator[Variant]:
    """Yield each format except the run's own, which ``forced_reuse.py`` times already."""
    for bits in formats(timed_model.cache_bits)[1:]:
        yield forced(timed_model, SITES, RATIO, quantization_bits=bits)


def format_figures(rounds: Rounds, sizes: Architecture, own_bits: int) -> list[dict[str, Any]]:
    """One row for each format: speed-up, bound, and time over that of the run's own format."""
    own = forced_name(SITES, RATIO, own_bits)
    return [
        {"cache_bits": bits, "sites": ",".join(SITES), "reuse_ratio": RATIO}
        | beside_bounds(rounds, sizes, SITES, RATIO, name)
        | figures_of("time_over_own", rounds.ratio(name, own))
        for bits in formats(own_bits)
        for name in [forced_name(SITES, RATIO, bits)]
    ]
