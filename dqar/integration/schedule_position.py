"""Position of a sampling run on its scheduler's timesteps, found by the timestep of each call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.scheduler_table import require_supported

Timestep = Int[Tensor, "*rows"] | Float[Tensor, "*rows"] | float | int
"""Timestep of one call of a transformer: a number, or a tensor with one value for each row."""


class SchedulePosition:
    """Step of a sampling run that each call of the transformer belongs to.

    The first call may come at any timestep of the schedule: image-to-image pipelines skip the first
    steps. From then on each call must come at the schedule's next entry. A schedule that repeats a
    timestep, such as Heun's, is followed entry by entry; where the first call's timestep is
    repeated, the scheduler's ``begin_index`` says which entry is meant, else the first one.

    Args:
        scheduler: diffusers scheduler; its timesteps may be set up to the first call.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.timesteps: list[float] = []
        self.step: int | None = None
        """Step of the last call; None before the first."""
        self._unconfirmed: _DeviceTimestep | None = None

    def advance(self, timestep: Timestep) -> int:
        """Return the step of the next call.

        A timestep on a GPU is read by the host at the first call alone. Later ones are copied
        without waiting, and compared at the next call or in :meth:`finish`.

        Raises:
            ValueError: if the timestep is not on the schedule, is not its next entry, or differs
                between rows, or if the scheduler is not supported.
        """
        self.finish()
        if self.step is None:
            self._read_schedule()
            self.step = self._first_step(_value(timestep))
            return self.step
        self._require_next_entry()
        self.step += 1
        if isinstance(timestep, Tensor) and timestep.is_cuda:
            self._unconfirmed = _DeviceTimestep.copy(timestep, self.step)
        else:
            self._confirm(_value(timestep), self.step)
        return self.step

    def finish(self) -> None:
        """Compare the last timestep that was copied from a GPU.

        Raises:
            ValueError: as :meth:`advance`.
        """
        unconfirmed, self._unconfirmed = self._unconfirmed, None
        if unconfirmed is not None:
            self._confirm(unconfirmed.value(), unconfirmed.step)

    def _read_schedule(self) -> None:
        require_supported(self.scheduler)
        # Read once: a scheduler may hold its timesteps on the device.
        self.timesteps = [float(timestep) for timestep in self.scheduler.timesteps.tolist()]

    def _first_step(self, given: _Value) -> int:
        steps = [step for step, entry in enumerate(self.timesteps) if given.equals(entry)]
        if not steps:
            raise ValueError(
                f"timestep must be one of the scheduler's {len(self.timesteps)} timesteps, "
                f"{self._ends()}. Got {given.number}. Call scheduler.set_timesteps before the "
                "first call of the model, and pass its timesteps."
            )
        begins_at = getattr(self.scheduler, "begin_index", None)
        return begins_at if begins_at in steps else steps[0]

    def _ends(self) -> str:
        return f"{self.timesteps[0]:g} to {self.timesteps[-1]:g}" if self.timesteps else "none set"

    def _require_next_entry(self) -> None:
        assert self.step is not None
        if self.step + 1 >= len(self.timesteps):
            raise ValueError(
                f"A run must call the model once a step. Got one more call after the last of "
                f"{len(self.timesteps)} steps. Begin a new run for each sample call."
            )

    def _confirm(self, given: _Value, step: int) -> None:
        if not given.equals(self.timesteps[step]):
            raise ValueError(
                "A run must call the model once a step, at the scheduler's timesteps in their "
                f"order. Got timestep {given.number:g} where {self.timesteps[step]:g} is next. "
                "Stack the guidance branches in one batch, and begin a new run for each sample "
                "call."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Value:
    """Timestep of a call as the host reads it."""

    number: float
    dtype: torch.dtype | None
    """Dtype that the number was rounded to; None for a Python number."""

    def equals(self, entry: float) -> bool:
        """True if the number is this entry of the schedule, rounded to the number's dtype."""
        rounded = entry if self.dtype is None else float(torch.tensor(entry).to(self.dtype))
        return self.number in (entry, rounded)


@dataclass(frozen=True, kw_only=True, slots=True)
class _DeviceTimestep:
    """Timestep of a call on its way from a GPU to the host."""

    values: Tensor
    copied: torch.cuda.Event
    step: int

    @classmethod
    def copy(cls, timestep: Tensor, step: int) -> _DeviceTimestep:
        """Begin to copy without waiting for the device."""
        values = torch.empty(timestep.shape, dtype=timestep.dtype, pin_memory=True)
        values.copy_(timestep, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(timestep.device))
        return cls(values=values, copied=copied, step=step)

    def value(self) -> _Value:
        """The timestep, once it has arrived."""
        self.copied.synchronize()
        return _value(self.values)


def _value(timestep: Timestep) -> _Value:
    if not isinstance(timestep, Tensor):
        return _Value(number=float(timestep), dtype=None)
    numbers = set(timestep.flatten().tolist())
    if len(numbers) != 1:
        raise ValueError(
            f"timestep must be the same for all rows of a batch. Got {len(numbers)} different "
            "ones. Sample rows of different timesteps in runs of their own."
        )
    return _Value(number=float(numbers.pop()), dtype=timestep.dtype)
