"""Operating points of ``router``: what routers after Learning-to-Cache compute."""

from __future__ import annotations

from dqar.gates import Scripted
from pipeline.methods import Point
from pipeline.router import RouterProbe, Routers

PERIODS = (2, 3, 4)
"""Of the steps at which all sites compute. The paper's 2 reuses no more than half of the gates."""


def router_probes() -> list[RouterProbe]:
    """Routers of every period."""
    return [RouterProbe(name=f"router{period}", period=period) for period in PERIODS]


def router_points(probe: RouterProbe, routers: Routers) -> list[Point]:
    """A point for each penalty, computing what its router computes by more than half; of those
    that compute the same, the one of the least penalty."""
    found: dict[bytes, Point] = {}
    for penalty, share in zip(probe.penalties, routers.share, strict=True):
        reuse = share < 0.5
        point = Point(
            method="router",
            operating_point=f"period={probe.period},penalty={penalty:.3g}",
            steps=len(reuse),
            gate=Scripted(reuse[:, :, None]),
        )
        if reuse.any():
            found.setdefault(reuse.numpy().tobytes(), point)
    return list(found.values())
