"""The order of a run's calls: which of them begin a step, and which branch each belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dqar.integration.guidance.model_call import ModelCall, are_same_objects, equal
from dqar.records import STACKED

LEARNT = 2
"""Steps that are compared by value. Later ones are distinguished without waiting for the device,
where the calls of the first ones could be."""


@dataclass(kw_only=True, slots=True)
class Branch:
    """A guidance branch, or several that are stacked in one batch."""

    name: str
    last: ModelCall
    """Last call of the branch."""

    def is_like(self, call: ModelCall) -> bool:
        """True if a call has the branch's rows, settings and name in ``cache_context``."""
        last = self.last
        same = (last.rows, last.context) == (call.rows, call.context)
        return same and equal(last.settings, call.settings)

    def has_conditions_of(self, call: ModelCall) -> bool:
        """True if a call has the branch's conditions."""
        mine, its = self.last.conditions, call.conditions
        return mine.keys() == its.keys() and all(equal(mine[name], its[name]) for name in mine)


@dataclass(kw_only=True, slots=True)
class CallSequence:
    """The calls of one run so far.

    Two calls of one step have the same timestep and the same latent. A scheduler that repeats a
    timestep, such as Heun's, calls with another latent. The branch of a call is seen by its rows,
    settings (the layers that skip-layer guidance leaves out) and name in ``cache_context``, and by
    its conditions where these leave a choice.
    """

    num_samples: int
    trusts_names: bool = True
    """True if a name in ``cache_context`` stands for one condition for a whole run."""
    branches: list[Branch] = field(default_factory=list)
    previous: ModelCall | None = None
    """The last call."""
    steps: int = 0
    """Steps that began."""
    _called: list[Branch] = field(default_factory=list)
    """Branches that the open step has called, in order."""
    _has_equal_tensors: bool = False
    """True if a further call of a step came with other tensors of equal values."""

    def is_repeat(self, call: ModelCall) -> bool:
        """True if a call belongs to the same step as the call before."""
        before = self.previous
        if before is None or _surely_differ(before.timestep, call.timestep):
            return False
        if before.was_overwritten_by(call):
            return False
        if call.has_the_latent_of(before):
            return True
        if self._looks_like_a_new_step(call) or not _are_equal(before.timestep, call.timestep):
            return False
        found = call.equals_the_latent_of(before, self.num_samples)
        self._has_equal_tensors |= found
        return found

    def _looks_like_a_new_step(self, call: ModelCall) -> bool:
        """True if a timestep on a GPU need not be waited for: further calls of a step came with the
        same tensor so far, and this call is like the first of its step."""
        if not _is_on_gpu(call.timestep) or self._has_equal_tensors or self.steps < LEARNT:
            return False
        first = self._called[0]
        conditions = (list(one.conditions.values()) for one in (first.last, call))
        return first.is_like(call) and are_same_objects(*conditions)

    def enter(self, call: ModelCall, *, begins_step: bool) -> tuple[str, bool]:
        """Note a call, and return its branch's name, and True if the branch is a former one with
        new conditions, so that its entries must not be read."""
        if begins_step:
            self.steps += 1
            self._called = []
        branch, is_changed = self._branch(call)
        branch.last = self.previous = call
        self._called.append(branch)
        return branch.name, is_changed

    def _branch(self, call: ModelCall) -> tuple[Branch, bool]:
        alike = [one for one in self.branches if one.is_like(call)]
        free = [one for one in alike if not any(one is called for called in self._called)]
        is_named = self.trusts_names and call.context is not None and len(alike) == 1
        for one in free:
            if is_named or one.has_conditions_of(call):
                return one, False
        if free and self.steps > LEARNT:
            return free[0], True
        self.branches.append(branch := Branch(name=self._new_name(call), last=call))
        return branch, False

    def _new_name(self, call: ModelCall) -> str:
        same = [one for one in self.branches if one.last.context == call.context]
        return f"{call.context or 'call'} {len(same) + 1}" if same else call.context or STACKED


def _is_on_gpu(timestep: Any) -> bool:
    return isinstance(timestep, Tensor) and timestep.is_cuda


def _surely_differ(one: Any, other: Any) -> bool:
    """True if two timesteps differ, as far as the host knows."""
    return not (_is_on_gpu(one) or _is_on_gpu(other)) and not _are_equal(one, other)


def _are_equal(one: Any, other: Any) -> bool:
    return one is other or bool(_largest(one) == _largest(other))


def _largest(timestep: Any) -> Any:
    return timestep.max() if isinstance(timestep, Tensor) else timestep
