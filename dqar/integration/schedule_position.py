"""Position of a sampling run on its scheduler's timesteps, found by the timestep of each call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.integration.guidance.timestep_scale import (
    SCALES,
    TimestepScale,
    num_train_timesteps,
    scales_of,
)

Timestep = Int[Tensor, "*rows"] | Float[Tensor, "*rows"] | float | int
"""Timestep of one call of a transformer: a number, or a tensor with one value for each row, or for
each token of each row (tokens that are clean already have a smaller one)."""


class SchedulePosition:
    """Step of a sampling run that each call of the transformer belongs to.

    The first call may come at any timestep of the schedule: image-to-image pipelines skip the first
    steps. From then on each call must come at the schedule's next entry. A schedule that repeats a
    timestep, such as Heun's, is followed entry by entry; where the first call's timestep is
    repeated, the scheduler's ``begin_index`` says which entry is meant, else the first one.

    Pipelines of flow models pass another scale than the scheduler's, such as ``t / 1000``. The
    first call tells which one (:data:`~dqar.integration.guidance.timestep_scale.SCALES`).

    Args:
        scheduler: diffusers scheduler; its timesteps may be set up to the first call.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.timesteps: list[float] = []
        self.step: int | None = None
        """Step of the last call; None before the first."""
        self.scale: TimestepScale = SCALES[0]
        """Scale in which the model is given the schedule's timesteps."""
        self._num_train = num_train_timesteps(scheduler)
        self._unconfirmed: _DeviceTimestep | None = None

    @property
    def total(self) -> int:
        """Number of steps."""
        return len(self.timesteps)

    @property
    def now(self) -> float:
        """The schedule's timestep at the last step."""
        return self.timesteps[self.step or 0]

    def advance(self, timestep: Timestep) -> int:
        """Return the step of the next call.

        A timestep on a GPU is read by the host at the first call alone. Later ones are copied
        without waiting, and compared at the next call or in :meth:`finish`.

        Raises:
            ValueError: if the timestep is not on the schedule, is not its next entry, or differs
                between rows.
        """
        self.finish()
        if self.step is None:
            self._read_schedule()
            self.step = self._first_step(_value(timestep))
            return self.step
        self._require_next_entry()
        self.step += 1
        self._compare(timestep, self.step)
        return self.step

    def repeat(self, timestep: Timestep) -> None:
        """Compare the timestep of a further call of the same step, as :meth:`advance` does.

        Raises:
            ValueError: if the timestep is not the step's.
        """
        self.finish()
        assert self.step is not None
        self._compare(timestep, self.step)

    def _compare(self, timestep: Timestep, step: int) -> None:
        if isinstance(timestep, Tensor) and timestep.is_cuda:
            self._unconfirmed = _DeviceTimestep.copy(timestep, step)
        else:
            self._confirm(_value(timestep), step)

    def finish(self) -> None:
        """Compare the last timestep that was copied from a GPU.

        Raises:
            ValueError: as :meth:`advance`.
        """
        unconfirmed, self._unconfirmed = self._unconfirmed, None
        if unconfirmed is not None:
            self._confirm(unconfirmed.value(), unconfirmed.step)

    def _read_schedule(self) -> None:
        # Read once: a scheduler may hold its timesteps on the device.
        self.timesteps = [float(timestep) for timestep in self.scheduler.timesteps.tolist()]

    def _first_step(self, given: _Value) -> int:
        begins_at = getattr(self.scheduler, "begin_index", None)
        found = {scale: self._steps(given, scale) for scale in scales_of(given.dtype)}
        # A run that starts at step 0 is likelier than a late one, where a number fits both.
        for start in (begins_at, 0):
            for scale, steps in found.items():
                if start in steps:
                    self.scale = scale
                    return start
        fitting = [scale for scale, steps in found.items() if steps]
        if len(fitting) == 1 or fitting[:1] == [SCALES[0]]:
            self.scale = fitting[0]
            return found[self.scale][0]
        if fitting:
            formulas = " or ".join(scale.formula for scale in fitting)
            raise ValueError(
                "A run that starts late must start where it is known. Got timestep "
                f"{given.number}, which may be {formulas}. Call scheduler.set_begin_index before "
                "the first call."
            )
        raise ValueError(
            f"timestep must be one of the scheduler's {len(self.timesteps)} timesteps, "
            f"{self._ends()}. Got {given.number}. Call scheduler.set_timesteps before the "
            "first call of the model, and pass its timesteps."
        )

    def _steps(self, given: _Value, scale: TimestepScale) -> list[int]:
        """Steps whose timestep is nearest to the given one, if it is on the schedule at all."""
        distances = [self._distance(given, entry, scale) for entry in self.timesteps]
        nearest = min(distances, default=float("inf"))
        if nearest > 1:
            return []
        return [step for step, distance in enumerate(distances) if distance == nearest]

    def _distance(self, given: _Value, entry: float, scale: TimestepScale) -> float:
        return scale.distance(given.number, entry, given.dtype or torch.float32, self._num_train)

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
        if self._distance(given, self.timesteps[step], self.scale) > 1:
            self._refuse_repeated(given, step)
            scaled = "" if self.scale.is_exact else f" (passed as {self.scale.formula})"
            raise ValueError(
                "A run must call the model once a step, at the scheduler's timesteps in their "
                f"order. Got timestep {given.number:g} where {self.timesteps[step]:g}{scaled} is "
                "next. Stack the guidance branches in one batch, or call them with the same "
                "latents, and begin a new run for each sample call."
            )

    def _refuse_repeated(self, given: _Value, step: int) -> None:
        """Refuse a call beyond a timestep that the schedule repeats, where the latents stayed
        equal.

        Raises:
            ValueError: naming the repeated timestep.
        """
        repeated = self.timesteps[step]
        after = next((one for one in self.timesteps[step:] if one != repeated), None)
        if step == 0 or self.timesteps[step - 1] != repeated or after is None:
            return
        if self._distance(given, after, self.scale) <= 1:
            raise ValueError(
                "A timestep that the schedule repeats must come with other latents. Got "
                f"{given.number:g} where {repeated:g} is repeated: its second call, with the same "
                "latents, is taken for another guidance branch of its first. Leave the repeated "
                "timestep (or sigma) out of the schedule."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Value:
    """Timestep of a call as the host reads it."""

    number: float
    dtype: torch.dtype | None
    """Dtype that the number was rounded to; None for a Python number."""


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
    of_rows = timestep.flatten(1).amax(dim=1) if timestep.ndim > 1 else timestep.flatten()
    numbers = set(of_rows.tolist())
    if len(numbers) != 1:
        raise ValueError(
            f"timestep must be the same for all rows of a batch. Got {len(numbers)} different "
            "ones. Sample rows of different timesteps in runs of their own."
        )
    return _Value(number=float(numbers.pop()), dtype=timestep.dtype)
