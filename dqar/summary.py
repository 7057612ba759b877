"""The account of a run: what fired, what refused and why, what the cache holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from dqar.records import Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class ReuseSummary:
    """Counts over gates times samples. ``reuse_ratio`` is reused / all, first step included."""

    gates: int
    """Decisions taken."""
    reused: int
    """Decisions that reused."""
    by_reason: dict[str, int]
    """Decisions by reason; ``reuse`` is a reason."""
    by_site: dict[str, int]
    """Reuses by site."""
    by_layer: list[int]
    """Reuses by layer, all sites together."""
    by_step: list[int]
    """Reuses by step."""
    cache_bytes: int
    """Bytes that the cache held at the end."""

    @property
    def reuse_ratio(self) -> float:
        """Gates not computed / all gates."""
        return self.reused / max(1, self.gates)

    @property
    def note(self) -> str:
        """One sentence; says so when a run never reused although it was asked to."""
        if self.gates and not self.reused:
            refusals = ", ".join(f"{name} {count}" for name, count in self.by_reason.items())
            return f"No gate reused: {self.gates} asked, all refused ({refusals})."
        return f"{self.reused} of {self.gates} gates reused ({self.reuse_ratio:.1%})."


def summarize(
    reasons: Sequence[UInt8[Tensor, "g b"]],
    sites: tuple[str, ...],
    num_layers: int,
    cache_bytes: int,
) -> ReuseSummary:
    """Count the reasons of every step."""
    if not reasons:
        return ReuseSummary(
            gates=0,
            reused=0,
            by_reason={},
            by_site={},
            by_layer=[],
            by_step=[],
            cache_bytes=cache_bytes,
        )
    stacked = torch.stack(list(reasons))
    counts = torch.bincount(stacked.flatten().long(), minlength=len(Reason)).tolist()
    reused = stacked == Reason.REUSE
    by_gate = reused.unflatten(1, (len(sites), num_layers)).sum(dim=(0, 3))
    return ReuseSummary(
        gates=stacked.numel(),
        reused=int(reused.sum()),
        by_reason={reason.label: counts[reason] for reason in Reason if counts[reason]},
        by_site=dict(zip(sites, by_gate.sum(dim=1).tolist(), strict=True)),
        by_layer=by_gate.sum(dim=0).tolist(),
        by_step=reused.sum(dim=(1, 2)).tolist(),
        cache_bytes=cache_bytes,
    )
