"""Summary of a run: counts of reuses and of refusals by reason, and the size of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from dqar.gate_table import GateTable
from dqar.records import ACTIONS, DecisionReason


@dataclass(frozen=True, kw_only=True, slots=True)
class ReuseSummary:
    """Counts of the reuse decisions of a run, one decision for each gate, step and sample, the
    first step included."""

    gates: int
    """Number of decisions."""
    reused: int
    """Number of decisions that reused."""
    by_reason: dict[str, int]
    """Decisions by reason; ``reuse`` is one of the reasons."""
    by_site: dict[str, int]
    """Reuses by site."""
    by_layer: list[int]
    """Reuses by layer, all sites together."""
    by_step: list[int]
    """Reuses by step."""
    shared_by_site: dict[str, int]
    """Decisions by site in which the unconditional branch took the conditional branch's value."""
    reasons_by_layer: list[dict[str, int]]
    """Decisions by reason, for each layer, all sites together."""
    reasons_by_step: list[dict[str, int]]
    """Decisions by reason, for each step."""
    cache_bytes: int
    """Bytes of the cache and of the error feedback's outputs at the end of the run."""
    actions_by_site: dict[str, dict[str, int]]
    """Reuses by site and by action of :data:`dqar.records.ACTIONS`."""

    @property
    def reuse_ratio(self) -> float:
        """Share of the decisions that reused: ``reused / gates``."""
        return self.reused / max(1, self.gates)

    @property
    def note(self) -> str:
        """One sentence about the run; if the run never reused, the reasons of the refusals."""
        if not self.gates:
            return "No step ran under this controller."
        if not self.reused and not any(self.shared_by_site.values()):
            refusals = ", ".join(f"{name} {count}" for name, count in self.by_reason.items())
            return f"No gate reused: {self.gates} asked, all refused ({refusals})."
        shared = sum(self.shared_by_site.values())
        borrowed = f", {shared} shared between branches" if shared else ""
        return f"{self.reused} of {self.gates} gates reused ({self.reuse_ratio:.1%}){borrowed}."


def summarize(
    reasons: Sequence[UInt8[Tensor, "g b"]],
    table: GateTable,
    cache_bytes: int,
    orders: Sequence[Int[Tensor, "g b"]] | None = None,
) -> ReuseSummary:
    """Count the decisions of a run.

    Args:
        reasons: reason of each decision, one tensor for each step. Gates whose transformer a step
            did not call are not counted.
        table: gates of the model.
        cache_bytes: bytes that the cache holds.
        orders: forecast order of each gate in each step; 0 by default.
    """
    # A run without steps gives zero counts of the same shapes.
    blank = torch.zeros(0, table.num_gates, 1, dtype=torch.uint8)
    stacked = torch.stack(list(reasons)) if reasons else blank
    reused, shared = stacked == DecisionReason.REUSE, stacked == DecisionReason.SHARED
    shown = torch.stack(list(orders)) if orders else torch.zeros_like(stacked).long()
    layers = [table.layers == layer for layer in range(table.num_layers)]
    return ReuseSummary(
        gates=int((stacked != DecisionReason.ABSENT).sum()),
        reused=int(reused.sum()),
        by_reason=_by_reason(stacked),
        by_site=_by_site(reused, table),
        by_layer=[int(reused[:, of_layer].sum()) for of_layer in layers],
        by_step=reused.sum(dim=(1, 2)).tolist(),
        shared_by_site=_by_site(shared, table),
        reasons_by_layer=[_by_reason(stacked[:, of_layer]) for of_layer in layers],
        reasons_by_step=[_by_reason(step) for step in stacked],
        cache_bytes=cache_bytes,
        actions_by_site=_by_action(reused, shown, table),
    )


def _by_reason(reasons: UInt8[Tensor, "*axes"]) -> dict[str, int]:
    counts = torch.bincount(reasons.flatten().long(), minlength=len(DecisionReason)).tolist()
    counted = [reason for reason in DecisionReason if reason != DecisionReason.ABSENT]
    return {reason.label: counts[reason] for reason in counted if counts[reason]}


def _by_site(where: Bool[Tensor, "t g b"], table: GateTable) -> dict[str, int]:
    return {site: int(where[:, gates].sum()) for site, gates in table.slices.items()}


def _by_action(
    reused: Bool[Tensor, "t g b"], shown: Int[Tensor, "t g b"], table: GateTable
) -> dict[str, dict[str, int]]:
    by_action = [_by_site(reused & (shown == order), table) for order in range(len(ACTIONS))]
    return {
        site: {
            action: counts[site]
            for action, counts in zip(ACTIONS, by_action, strict=True)
            if counts[site]
        }
        for site in table.sites
    }
