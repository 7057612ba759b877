"""How far the sites' outputs move in a few steps of a stock run: the curves of SmoothCache."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dqar.config import CachedParts
from pipeline.methods.site_hooks import Place, hooked
from pipeline.models.noise import side_by_side


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveProbe:
    """Calibration: watch the sites over stock runs of some calibration noise."""

    name: str = "curves"
    num_samples: int = 16
    at_once: int = 4
    """Samples side by side. The outputs of ``largest_gap`` steps are held for them, of every site
    and layer, which bounds the memory."""
    largest_gap: int = 8
    """Steps between two outputs that are compared, at most."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "at_once", "largest_gap"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1. Got {value}. Pass 8.")

    def batches(self) -> list[range]:
        """The noises of each run."""
        return side_by_side(self.num_samples, self.at_once)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """What a curve probe saw."""

    error: Float[Tensor, "s l k t"]
    """By site, layer, gap (from 1 on) and step: relative L1 distance of the site's output at the
    step from its output so many steps before, mean over samples and guidance branches (Liu et al.
    2024, arXiv 2411.10510). NaN where there is no step so long before."""


class Watch:
    """One run of a model: what its sites put out lately, and how far each output was from those.

    Args:
        largest_gap: outputs that are held of each place.
    """

    def __init__(self, largest_gap: int) -> None:
        self.largest_gap = largest_gap
        self.past: defaultdict[Place, deque[Tensor]] = defaultdict(deque)
        self.moved: defaultdict[Place, list[Float[Tensor, " k"]]] = defaultdict(list)

    def note(self, place: Place, output: Float[Tensor, "r n d"]) -> None:
        """Compare the next step's output with those before it, the last first."""
        past = self.past[place]
        errors = torch.full((self.largest_gap,), torch.nan, device=output.device)
        for index, earlier in enumerate(past):
            errors[index] = relative_l1(earlier, output)
        self.moved[place].append(errors)
        past.appendleft(output)
        if len(past) > self.largest_gap:
            past.pop()

    def curves(self) -> Float[Tensor, "s l k t"]:
        """By site, layer, gap and step; the modules of a site count alike."""
        places = sorted(self.moved)
        rows = torch.stack([torch.stack(self.moved[place], dim=1) for place in places])
        shape = [len(set(column)) for column in zip(*places, strict=True)]
        return rows.unflatten(0, shape).mean(dim=2).cpu()


def relative_l1(
    earlier: Float[Tensor, "r *axes"], output: Float[Tensor, "r *axes"]
) -> Float[Tensor, ""]:
    """``||output - earlier||_1 / ||output||_1``, mean over rows."""
    distance = (output.float() - earlier.float()).flatten(1).abs().sum(dim=1)
    size = output.float().flatten(1).abs().sum(dim=1)
    return (distance / size.clamp_min(1e-12)).mean()


@contextmanager
def watched(
    transformer: Any, sites: tuple[str, ...], cached: CachedParts, largest_gap: int
) -> Iterator[Watch]:
    """Watch what the sites would cache, while the model runs as it is.

    Args:
        cached: what ``attn`` caches: its output, or its keys and values.
    """
    watch = Watch(largest_gap)
    with hooked(transformer, sites, cached, watch.note):
        yield watch
