"""The guidance of a run: declared by the caller, or found in the calls of the transformer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dqar.integration.guidance.call_sequence import CallSequence
from dqar.integration.guidance.model_call import ModelCall
from dqar.integration.guidance.stacking import count_branches


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchOfCall:
    """The branch of one call of the transformer."""

    name: str
    has_new_conditions: bool
    """True if the entries of the branch must not be read."""


class Guidance(ABC):
    """The number of samples and branches of a run, and the branch of each of its calls."""

    num_samples = 0
    """Samples of a batch; known from the first call on."""
    num_stacked = 1
    """Branches that the batch of the first call stacks."""

    @abstractmethod
    def begin(self, call: ModelCall) -> None:
        """Read the first call of a run."""

    @abstractmethod
    def is_repeat(self, call: ModelCall) -> bool:
        """True if a call belongs to the same step as the call before."""

    @abstractmethod
    def enter(self, call: ModelCall, *, begins_step: bool) -> BranchOfCall | None:
        """Note a call and return its branch; None if each step is one call of all branches.

        Raises:
            ValueError: if the rows are not those of whole branches.
        """


class DeclaredGuidance(Guidance):
    """Branches stacked in every batch, in a number that the caller knows; one call a step."""

    def __init__(self, num_stacked: int) -> None:
        self.num_stacked = num_stacked
        self._rows = 0

    def begin(self, call: ModelCall) -> None:
        self._rows = call.rows
        self.num_samples = call.rows // self.num_stacked

    def is_repeat(self, call: ModelCall) -> bool:
        del call
        return False

    def enter(self, call: ModelCall, *, begins_step: bool) -> None:
        del begins_step
        rows, branches = call.rows, self.num_stacked
        if rows != self._rows or rows % branches or not rows:
            raise ValueError(
                "Each call of a run must hold the first call's batch, num_branches rows a sample. "
                f"Got {rows} rows after {self._rows}, num_branches={branches}. Stack the "
                "guidance branches in every batch, and begin a new run where the batch changes."
            )


class FoundGuidance(Guidance):
    """Guidance as the calls show it: branches are stacked where the rows of the first batch repeat,
    and called separately where calls of equal timestep have equal latents. Both may change from
    step to step.

    Args:
        expected_samples: number of samples, where the caller knows it; it tells samples of equal
            noise from branches.
        trusts_names: True if a name in ``cache_context`` stands for one condition for a whole run.
    """

    def __init__(self, expected_samples: int | None = None, *, trusts_names: bool = True) -> None:
        self.expected_samples = expected_samples
        self.trusts_names = trusts_names
        self._sequence = CallSequence(num_samples=0)
        self._judged: tuple[ModelCall | None, bool] = None, False

    def begin(self, call: ModelCall) -> None:
        self.num_stacked = count_branches(call.latent, self.expected_samples)
        self.num_samples = call.rows // self.num_stacked
        self._sequence = CallSequence(num_samples=self.num_samples, trusts_names=self.trusts_names)

    def is_repeat(self, call: ModelCall) -> bool:
        if self._judged[0] is not call:
            self._judged = call, self._sequence.is_repeat(call)
        return self._judged[1]

    def enter(self, call: ModelCall, *, begins_step: bool) -> BranchOfCall:
        if not call.rows or call.rows % self.num_samples:
            raise ValueError(
                "Each call of a run must hold the first call's samples, some rows for each. Got "
                f"{call.rows} rows after {self.num_samples} samples. Begin a new run where the "
                "batch changes."
            )
        name, is_changed = self._sequence.enter(call, begins_step=begins_step)
        return BranchOfCall(name=name, has_new_conditions=is_changed)


def latent_of_samples(call: ModelCall, num_samples: int) -> Tensor | None:
    """Latents of one branch; None if each row is a tensor of another shape."""
    latent = call.latent[:num_samples]
    if isinstance(latent, Tensor):
        return latent
    has_one_shape = len({one.shape for one in latent}) == 1
    return torch.stack(list(latent)) if has_one_shape else None
