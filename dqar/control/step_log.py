"""Events of the open step: the gates that computed or reused, and the measurements taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from dqar.control.entry_state import BRANCH_GAP, MEASURES
from dqar.records import STACKED, DecisionReason, GateDecision


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows of a stacked batch that compute: those of some samples, in every branch."""

    samples: Int[Tensor, " s"]
    """Indices of the samples that compute, on the host."""
    rows: Int[Tensor, " r"]
    """Indices of their rows in the branch-major batch, on the host."""
    samples_at: Int[Tensor, " s"]
    """``samples`` on the model's device."""
    rows_at: Int[Tensor, " r"]
    """``rows`` on the model's device."""


def rows_that_compute(
    reuse: Bool[Tensor, " b"], num_rows: int, device: torch.device | str = "cpu"
) -> Rows:
    """Return the rows of a branch-major batch whose sample does not reuse.

    Args:
        reuse: decision of each sample, on the host, so that reading it does not wait for the
            device.
    """
    samples = torch.nonzero(~reuse).flatten()
    branches = torch.arange(num_rows // len(reuse))
    rows = (branches[:, None] * len(reuse) + samples).flatten()
    samples_at, rows_at = (index.to(device, non_blocking=True) for index in (samples, rows))
    return Rows(samples=samples, rows=rows, samples_at=samples_at, rows_at=rows_at)


class StepLog:
    """The events of one step, collected gate by gate and read as tensors over all gates."""

    def __init__(self, decision: GateDecision) -> None:
        self.decision = decision
        self._num_gates, self._num_samples = decision.reason.shape
        self.present = torch.ones(self._num_gates, dtype=torch.bool)
        """True for each gate whose transformer the step calls, ``[g]``."""
        self._is_whole = True
        self._committed: dict[int, dict[str, Rows | None]] = {}
        self._reused: dict[int, set[str]] = {}
        self._measured: dict[str, dict[int, Tensor]] = {name: {} for name in MEASURES}
        self._measured[BRANCH_GAP] = {}
        self._local_error: dict[int, Tensor] = {}

    def reach(self, gates: Bool[Tensor, " g"]) -> None:
        """Record that a call reaches these gates; from the first record on, others are absent."""
        self.present = gates if self._is_whole else self.present | gates
        self._is_whole = False

    def mark_committed(self, gate: int, rows: Rows | None, branch: str = STACKED) -> None:
        """Record that a gate cached new values, for some rows or (None) for all."""
        self._committed.setdefault(gate, {})[branch] = rows

    def mark_reused(self, gate: int, branch: str = STACKED) -> None:
        """Record that a gate returned cached values where its decision is to reuse."""
        self._reused.setdefault(gate, set()).add(branch)

    def measure(self, name: str, gate: int, value: Float[Tensor, " r"], rows: Rows | None) -> None:
        """Record a measurement by batch row; a sample's value is the mean over its branches."""
        by_sample = self._by_sample(value, rows)
        earlier = self._measured[name].get(gate)
        # Two branches committed one after the other get the same mean as in a stacked batch.
        self._measured[name][gate] = by_sample if earlier is None else (earlier + by_sample) / 2

    def note_local_error(self, gate: int, value: Float[Tensor, " r"]) -> None:
        """Record the relative error of the reused against the computed value, by batch row."""
        self._local_error[gate] = self._by_sample(value, None)

    def note_branch_gap(self, gate: int, value: Float[Tensor, " s"], rows: Rows | None) -> None:
        """Record the distance between the branches of the samples that computed. For a sample
        that shared its branches the distance is meaningless, and :attr:`compared` is false."""
        self._measured[BRANCH_GAP][gate] = self._by_sample(value, rows)

    def branches_committed(self, gate: int) -> set[str]:
        """Guidance branches that cached new values in this step."""
        return set(self._committed.get(gate, ()))

    def _by_sample(self, value: Tensor, rows: Rows | None) -> Tensor:
        value = value.detach()
        if rows is None:
            return value.float().view(-1, self._num_samples).mean(dim=0)
        mean = value.float().view(-1, len(rows.samples)).mean(dim=0)
        return mean.new_zeros(self._num_samples).index_copy(0, rows.samples_at, mean)

    @property
    def computed(self) -> Bool[Tensor, "g b"]:
        """True where a new value was cached."""
        computed = torch.zeros_like(self.decision.reuse)
        for gate, by_branch in self._committed.items():
            # Most gates compute all rows of a single call, for which no tensor is needed.
            is_plain = gate not in self._reused and not any(by_branch.values())
            computed[gate] = True if is_plain else self._computed_by_all(gate, by_branch)
        return computed

    def _computed_by_all(self, gate: int, by_branch: dict[str, Rows | None]) -> Bool[Tensor, " b"]:
        """Samples that every called branch computed. Where one branch reuses and the other
        computes, the gate counts as reused, with the age of the older value."""
        is_split = self._reused.get(gate, set()) - by_branch.keys()
        reuse = self.decision.reuse[gate]
        everyone = ~reuse if is_split else torch.ones_like(reuse)
        for rows in by_branch.values():
            if rows is not None:
                computing = torch.zeros_like(reuse)
                computing[rows.samples] = True
                everyone = everyone & computing
        return everyone

    @property
    def reused(self) -> Bool[Tensor, "g b"]:
        """True where a cached value was returned and no new value was computed."""
        return self.reused_beside(self.computed)

    def reused_beside(self, computed: Bool[Tensor, "g b"]) -> Bool[Tensor, "g b"]:
        """Return :attr:`reused`, given :attr:`computed`."""
        used = torch.zeros_like(self.decision.reuse)
        for gate in self._reused:
            used[gate] = True
        return self.decision.reuse & used & ~computed

    @property
    def outcome(self) -> UInt8[Tensor, "g b"]:
        """Reasons of the decisions, with ``DECLINED`` where reuse was allowed and not used, and
        ``ABSENT`` where the gate's transformer was not called."""
        return self.outcome_beside(self.reused)

    def outcome_beside(self, reused: Bool[Tensor, "g b"]) -> UInt8[Tensor, "g b"]:
        """Return :attr:`outcome`, given :attr:`reused`."""
        is_declined = self.decision.reuse & ~reused
        reasons = torch.where(is_declined, int(DecisionReason.DECLINED), self.decision.reason)
        return torch.where(self.present[:, None], reasons, int(DecisionReason.ABSENT))

    @property
    def measured(self) -> dict[str, Float[Tensor, "g b"]]:
        """All measurements by name; 0 where a gate measured nothing."""
        return {name: self._filled(found, 0.0) for name, found in self._measured.items() if found}

    @property
    def local_error(self) -> Float[Tensor, "g b"]:
        """Relative error of a reuse; NaN where no cached value was compared to a computed one."""
        return self._filled(self._local_error, float("nan"))

    @property
    def compared(self) -> Bool[Tensor, "g b"] | None:
        """True where the distance between the branches was measured on two computed branches;
        None if no distance was measured in this step."""
        if not self._measured[BRANCH_GAP]:
            return None
        asked = torch.zeros_like(self.decision.reuse)
        asked[list(self._measured[BRANCH_GAP])] = True
        return asked & self.computed & (self.decision.reason != DecisionReason.SHARED)

    def _filled(self, found: dict[int, Tensor], empty: float) -> Tensor:
        device = next(iter(found.values())).device if found else None
        blank = torch.full((self._num_samples,), empty, device=device)
        return torch.stack([found.get(gate, blank) for gate in range(self._num_gates)])
