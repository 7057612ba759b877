"""Final errors of schedules by noise sample, measured at most once and counted in one currency.

The currency is the guided model evaluation: a step of one sample, with all its guidance branches. A
trajectory costs its number of steps, whatever it reuses, and so does the reference sample of each
noise sample. All methods that tune are counted alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from dqar.gates.rules import MaskGate
from dqar.step_schedule import StepSchedule
from pipeline.methods.base import Calibrate
from pipeline.methods.calibration import CalibrationTask

TASK_SAMPLES = 96
"""Most samples of one calibration task; a worker splits them into its own batches."""
NoisePair = tuple[StepSchedule, int]
"""A schedule, and the index of a calibration noise sample."""


class MeasuredErrors:
    """Relative L2 errors of schedules on calibration noise samples; each is measured once.

    Args:
        ask: runs calibration tasks.
        steps: sampling steps.
    """

    def __init__(self, ask: Calibrate, steps: int) -> None:
        self.steps = steps
        self._ask = ask
        self._errors: dict[NoisePair, float] = {}
        self._referenced: set[int] = set()
        self._tasks = 0
        self._snrs: list[float] = []

    @property
    def spent(self) -> int:
        """Model evaluations spent so far, reference samples included."""
        return self.steps * (len(self._errors) + len(self._referenced))

    @property
    def snrs(self) -> list[float]:
        """Signal-to-noise ratio of each sampling step; empty before the first measurement."""
        return self._snrs

    def mean_error(self, schedule: StepSchedule) -> float:
        """Return the mean error of a schedule over its noise samples; infinity if it has none."""
        found = [error for (one, _), error in self._errors.items() if one == schedule]
        return sum(found) / len(found) if found else math.inf

    def references_to_come(self, samples: int) -> int:
        """Return how many of the first noise samples have no reference sample yet."""
        return len(set(range(samples)) - self._referenced)

    def price(self, schedules: Sequence[StepSchedule], noise_ids: Sequence[int]) -> int:
        """Return the model evaluations that :meth:`errors` would spend."""
        references = set(noise_ids) - self._referenced if schedules else set()
        return self.steps * (len(self._missing(schedules, noise_ids)) + len(references))

    def errors(
        self, schedules: Sequence[StepSchedule], noise_ids: Sequence[int]
    ) -> Float[Tensor, "schedules samples"]:
        """Return the error of each schedule on each noise sample; infinity where it diverged."""
        missing = self._missing(schedules, noise_ids)
        starts = [*range(0, len(missing), TASK_SAMPLES), len(missing)]
        tasks = [self._task(missing[start:stop]) for start, stop in pairwise(starts)]
        found = self._ask(tasks)
        self._snrs = self._snrs or [snr for task in tasks[:1] for snr in found[task.name].snrs]
        measured = [float(error) for task in tasks for error in found[task.name].error]
        self._errors |= {
            pair: error if math.isfinite(error) else math.inf
            for pair, error in zip(missing, measured, strict=True)
        }
        self._referenced |= {noise for _, noise in missing}
        rows = [[self._errors[one, noise] for noise in noise_ids] for one in schedules]
        return torch.tensor(rows, dtype=torch.float64).view(len(schedules), len(noise_ids))

    def _missing(
        self, schedules: Sequence[StepSchedule], noise_ids: Sequence[int]
    ) -> list[NoisePair]:
        pairs = dict.fromkeys((one, noise) for one in schedules for noise in noise_ids)
        return [pair for pair in pairs if pair not in self._errors]

    def _task(self, pairs: list[NoisePair]) -> CalibrationTask:
        """Return one task that runs all pairs, each sample by its own schedule."""
        self._tasks += 1
        masks = torch.stack([one.mask(self.steps) for one, _ in pairs], dim=1)
        return CalibrationTask(
            name=f"schedules-{self._tasks:06d}",
            gate=MaskGate(masks[:, None, :]),
            num_samples=len(pairs),
            noise_ids=tuple(noise for _, noise in pairs),
            forecast_order=tuple(one.forecast_order for one, _ in pairs),
            feedback=tuple(one.feedback for one, _ in pairs),
        )
