"""What happened in the open step: which gates computed or reused, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from dqar.control.entry_state import BRANCH_GAP, MEASURES
from dqar.records import STACKED, DecisionReason, GateDecision


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The part of a stacked batch that computes: some samples, in each of its branches."""

    samples: Int[Tensor, " s"]
    """Which decisions, on the host."""
    rows: Int[Tensor, " r"]
    """Their rows in the batch, branch-major, on the host."""
    samples_at: Int[Tensor, " s"]
    """``samples`` on the model's device."""
    rows_at: Int[Tensor, " r"]
    """``rows`` on the model's device."""


def rows_that_compute(
    reuse: Bool[Tensor, " b"], num_rows: int, device: torch.device | str = "cpu"
) -> Rows:
    """The rows of a branch-major batch whose sample does not reuse.

    Args:
        reuse: on the host, so that nothing waits for the device.
    """
    samples = torch.nonzero(~reuse).flatten()
    branches = torch.arange(num_rows // len(reuse))
    rows = (branches[:, None] * len(reuse) + samples).flatten()
    samples_at, rows_at = (index.to(device, non_blocking=True) for index in (samples, rows))
    return Rows(samples=samples, rows=rows, samples_at=samples_at, rows_at=rows_at)


class StepLog:
    """Collects one step's events gate by gate, and hands them to the ledger as arrays."""

    def __init__(self, decision: GateDecision) -> None:
        self.decision = decision
        self._num_gates, self._num_samples = decision.reason.shape
        self._committed: dict[int, Rows | None] = {}
        self._reused: dict[int, set[str]] = {}
        self._branches: dict[int, set[str]] = {}
        self._measured: dict[str, dict[int, Tensor]] = {name: {} for name in MEASURES}
        self._measured[BRANCH_GAP] = {}
        self._local_error: dict[int, Tensor] = {}

    def mark_committed(self, gate: int, rows: Rows | None, branch: str = STACKED) -> None:
        """A gate cached new values, for some rows or (None) for all."""
        self._committed[gate] = rows
        self._branches.setdefault(gate, set()).add(branch)

    def mark_reused(self, gate: int, branch: str = STACKED) -> None:
        """A gate handed out cached values where its verdict says so."""
        self._reused.setdefault(gate, set()).add(branch)

    def measure(self, name: str, gate: int, value: Float[Tensor, " r"], rows: Rows | None) -> None:
        """Note a measurement by batch row; branches of one sample share their mean."""
        by_sample = self._by_sample(value, rows)
        earlier = self._measured[name].get(gate)
        # Branches committed one by one end with the mean that a stacked batch gives.
        self._measured[name][gate] = by_sample if earlier is None else (earlier + by_sample) / 2

    def note_local_error(self, gate: int, value: Float[Tensor, " r"]) -> None:
        """Relative error of the cached against the fresh output, by batch row."""
        self._local_error[gate] = self._by_sample(value, None)

    def note_branch_gap(self, gate: int, value: Float[Tensor, " s"], rows: Rows | None) -> None:
        """Distance between the branches of the samples that computed; of one that shared its
        branches it says nothing, and is left out of :attr:`compared`."""
        self._measured[BRANCH_GAP][gate] = self._by_sample(value, rows)

    def branches_committed(self, gate: int) -> set[str]:
        """Branches that cached new values in this step."""
        return self._branches.get(gate, set())

    def _by_sample(self, value: Tensor, rows: Rows | None) -> Tensor:
        value = value.detach()
        if rows is None:
            return value.float().view(-1, self._num_samples).mean(dim=0)
        mean = value.float().view(-1, len(rows.samples)).mean(dim=0)
        return mean.new_zeros(self._num_samples).index_copy(0, rows.samples_at, mean)

    @property
    def computed(self) -> Bool[Tensor, "g b"]:
        """Where a new value was cached."""
        computed = torch.zeros_like(self.decision.reuse)
        for gate, rows in self._committed.items():
            if rows is None:
                # By hand one branch may reuse while another commits: the older value counts.
                is_split = self._reused.get(gate, set()) - self._branches[gate]
                computed[gate] = ~self.decision.reuse[gate] if is_split else True
            else:
                computed[gate, rows.samples] = True
        return computed

    @property
    def reused(self) -> Bool[Tensor, "g b"]:
        """Where a cached value was handed out and not computed after all."""
        used = torch.zeros_like(self.decision.reuse)
        for gate in self._reused:
            used[gate] = True
        return self.decision.reuse & used & ~self.computed

    @property
    def outcome(self) -> UInt8[Tensor, "g b"]:
        """The verdict's reasons, with ``DECLINED`` where reuse was allowed and not taken."""
        is_declined = self.decision.reuse & ~self.reused
        return torch.where(is_declined, int(DecisionReason.DECLINED), self.decision.reason)

    @property
    def measured(self) -> dict[str, Float[Tensor, "g b"]]:
        """Every measurement; 0 where nothing was measured."""
        return {name: self._filled(found, 0.0) for name, found in self._measured.items() if found}

    @property
    def local_error(self) -> Float[Tensor, "g b"]:
        """NaN where no cached value met a fresh one."""
        return self._filled(self._local_error, float("nan"))

    @property
    def compared(self) -> Bool[Tensor, "g b"] | None:
        """Where the branches were both computed; None where nobody asked."""
        if not self._measured[BRANCH_GAP]:
            return None
        asked = torch.zeros_like(self.decision.reuse)
        asked[list(self._measured[BRANCH_GAP])] = True
        return asked & self.computed & (self.decision.reason != DecisionReason.SHARED)

    def _filled(self, found: dict[int, Tensor], empty: float) -> Tensor:
        device = next(iter(found.values())).device if found else None
        blank = torch.full((self._num_samples,), empty, device=device)
        return torch.stack([found.get(gate, blank) for gate in range(self._num_gates)])
