"""What it costs to cache in fewer bits: half of the steps forced to reuse, by cache format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.timing.forced_reuse import beside_bounds, forced, forced_name
from benchmarks.timing.support.architectures import Architecture
from benchmarks.timing.support.flags import CACHE_BITS
from benchmarks.timing.support.interleaved_rounds import Rounds, Variant
from benchmarks.timing.support.median_interval import figures_of
from benchmarks.timing.support.timed_model import Stand

SITES, RATIO = ("attn", "ff"), 0.5


def formats(own_bits: int) -> list[int]:
    """Bits to compare, widest first: those that the run caches in, and fewer. A wider cache may
    not fit where the run's own does."""
    return sorted((bits for bits in CACHE_BITS if bits <= own_bits), reverse=True)


def format_variants(stand: Stand) -> Iterator[Variant]:
    """Each format but the stand's own, which forced reuse times already."""
    for bits in formats(stand.cache_bits)[1:]:
        yield forced(stand, SITES, RATIO, quantization_bits=bits)


def format_figures(rounds: Rounds, sizes: Architecture, own_bits: int) -> list[dict[str, Any]]:
    """A row for each format, beside the same bound, and its time over that of the run's own."""
    own = forced_name(SITES, RATIO, own_bits)
    return [
        {"cache_bits": bits, "sites": ",".join(SITES), "reuse_ratio": RATIO}
        | beside_bounds(rounds, sizes, SITES, RATIO, name)
        | figures_of("time_over_own", rounds.ratio(name, own))
        for bits in formats(own_bits)
        for name in [forced_name(SITES, RATIO, bits)]
    ]
