"""Operating points of ``router``: what routers after Learning-to-Cache compute."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from dqar.gates.rules import Scripted
from pipeline.methods.base import Point
from pipeline.methods.learning_to_cache import RouterProbe, Routers

PERIODS = (2, 3, 4)
"""Of the steps at which all sites compute. The paper's 2 reuses no more than half of the gates."""


def router_probes() -> list[RouterProbe]:
    """Routers of every period."""
    return [RouterProbe(period=period) for period in PERIODS]


def router_points(learned: list[tuple[RouterProbe, Routers]]) -> list[Point]:
    """A point for each penalty of each period, computing what its router computes by half or more;
    of those that compute the same, the first."""
    found: dict[bytes, Point] = {}
    for probe, routers in learned:
        for penalty, share in zip(probe.penalties, routers.share, strict=True):
            reuse = share < 0.5
            if reuse.any():
                key = reuse.numpy().tobytes()
                found.setdefault(key, _point(probe.period, penalty, reuse))
    return list(found.values())


def _point(period: int, penalty: float, reuse: Bool[Tensor, "t g"]) -> Point:
    return Point(
        method="router",
        operating_point=f"period={period},penalty={penalty:.3g}",
        steps=len(reuse),
        gate=Scripted(reuse[:, :, None]),
    )
