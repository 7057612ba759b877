"""Each solver alone, without reuse, at the numbers of evaluations that plans over solvers have.

DPM-Solver++ of second and third order (Lu et al. 2022, arXiv 2211.01095), UniPC (Zhao et al. 2023,
arXiv 2302.04867) and DEIS (Zhang and Chen 2023, arXiv 2204.13902), each over Karras sigmas and over
linearly spaced and trailing timesteps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from dqar.signals import relative_error
from pipeline.errors import InputError
from pipeline.methods.base import (
    CalibrationBudget,
    CalibrationCost,
    Method,
    OperatingPoint,
    Session,
)
from pipeline.methods.task import Arrays, ModelSampler, SolutionTask, Stored
from pipeline.models.model_info import ModelInfo
from pipeline.models.noise import batches_of
from pipeline.models.sampling_choices import Sampler, canonical_sampler
from pipeline.models.schedulers import scheduler_of_run

SOLVERS = ("dpm:solver_order=2", "dpm:solver_order=3", "unipc:solver_order=2", "deis")
SPACINGS = ("use_karras_sigmas=true", "timestep_spacing=linspace", "timestep_spacing=trailing")
SAMPLERS: tuple[Sampler, ...] = tuple(
    canonical_sampler(f"{solver}{',' if ':' in solver else ':'}{spacing}")
    for solver in SOLVERS
    for spacing in SPACINGS
)
"""Solvers with their settings."""
SHARES = (0.2, 0.24, 0.3, 0.4, 0.5, 0.66)
"""Shares of the evaluation's steps at which each solver is run: 10, 12, 15, 20, 25 and 33 of 50."""
CALIBRATION_SAMPLES = 32
"""Calibration noise samples on which the best solver of a number of steps is chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SolverError:
    """Errors of one solver on calibration noise samples."""

    errors: tuple[float, ...]
    """Relative L2 distance of each sample's final latent to its target."""

    @property
    def mean_log(self) -> float:
        """Mean of the log errors, which a few bad samples do not rule; infinity if one diverged."""
        mean = float(np.mean(np.log(np.maximum(self.errors, 1e-12))))
        return math.inf if math.isnan(mean) else mean

    def encode(self) -> tuple[Stored, Arrays]:
        """Return the result as JSON values and arrays."""
        return {"errors": self.errors}, {}


@dataclass(frozen=True, kw_only=True, slots=True)
class SolverTask:
    """Run of one solver on calibration noise samples, compared with their solutions by many steps
    or, without solutions, with their reference samples."""

    sampler: Sampler
    """Solver with its settings."""
    steps: int
    """Steps of the solver."""
    of_steps: int
    """Steps of the evaluation, in which the cost is counted."""
    noise_ids: tuple[int, ...]
    """Indices of the calibration noise samples."""
    solutions: Tensor | None = field(default=None, compare=False)
    """Solutions of the noise samples; None compares with their reference samples."""

    @property
    def name(self) -> str:
        """Name of the result."""
        return f"{self.sampler} {self.steps}"

    @property
    def trajectories(self) -> int:
        """Model evaluations in units of the evaluation's trajectories, rounded up."""
        return math.ceil(len(self.noise_ids) * self.steps / self.of_steps)

    @property
    def references(self) -> frozenset[int]:
        """Indices of the noise samples whose reference samples the task needs."""
        return frozenset(self.noise_ids if self.solutions is None else ())

    def run(self, sampler: ModelSampler) -> SolverError:
        """Run the solver on a worker, batch by batch."""
        batches = batches_of(len(self.noise_ids), sampler.config.batch_size)
        return SolverError(
            errors=tuple(one for rows in batches for one in self._run(sampler, rows))
        )

    def _run(self, sampler: ModelSampler, rows: range) -> list[float]:
        some = slice(rows.start, rows.stop)
        ids, solutions = list(self.noise_ids[some]), self.solutions
        noise, labels = sampler.draw("calibrate", ids)
        latents, _ = sampler.sample(noise, labels, self.steps, None, self.sampler)
        targets = sampler.calibration_references(ids) if solutions is None else solutions[some]
        return relative_error(latents.float().cpu(), targets.float().cpu()).double().tolist()

    def decode(self, stored: Stored, arrays: Arrays) -> SolverError:
        """Rebuild a result from its encoded form.

        Raises:
            ValueError, KeyError, TypeError: if the encoded form is damaged.
        """
        errors = tuple(float(error) for error in stored["errors"])
        if len(errors) != len(self.noise_ids):
            raise ValueError(f"errors must be {len(self.noise_ids)}. Got {len(errors)}.")
        return SolverError(errors=errors)


class SolversAlone(Method):
    """The best solver at each number of steps, chosen on calibration noise samples."""

    name = "solvers"
    role = "context"
    shown_at = ("flops_ratio", 2.0)
    note = (
        "`solvers` samples without reuse by the best of DPM-Solver++ 2M and 3M, UniPC and DEIS, "
        "each over Karras sigmas, linearly spaced and trailing timesteps; the best of each number "
        "of steps is chosen on calibration noise samples, by the distance to their solutions by "
        "many steps with `--solution-steps`, else to their reference samples. Its error against "
        "the reference samples holds the difference between the two solvers."
    )

    def __init__(self) -> None:
        self._best: dict[int, Sampler] = {}

    @classmethod
    def check(cls, info: ModelInfo) -> None:
        """Refuse a model whose noise schedule the solvers cannot take over."""
        try:
            for sampler in SAMPLERS:
                scheduler_of_run(info, sampler, 10)
        except InputError as error:
            raise InputError(
                f"--methods {cls.name} must come with a model whose noise schedule DPM-Solver++, "
                f"UniPC and DEIS can take over. Got: {error} Leave {cls.name} out otherwise."
            ) from error

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        """Choose the solver of each number of steps, on as many samples as the budget allows."""
        numbers, solved = solver_steps(session.steps), session.comparison.solution_steps
        ids = tuple(range(_num_samples(budget, session.steps, solved or session.steps)))
        solutions = None if solved is None else _solutions(session, ids, solved)
        tasks = [
            SolverTask(
                sampler=sampler,
                steps=steps,
                of_steps=session.steps,
                noise_ids=ids,
                solutions=solutions,
            )
            for steps in numbers
            for sampler in SAMPLERS
        ]
        found = session.calibrate(tasks)
        for steps in numbers:
            scores = {task.sampler: found[task.name] for task in tasks if task.steps == steps}
            self._best[steps] = min(scores, key=lambda sampler: scores[sampler].mean_log)
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return [
            _point(self.name, f"steps={steps}", steps, best) for steps, best in self._best.items()
        ]


class EverySolver(SolversAlone):
    """Every solver at each number of steps, without a choice."""

    name = "solvers-all"
    note = (
        "`solvers-all` has a row for each solver of `solvers` at each number of steps, so that its "
        "frontier is the best of many on the evaluation's own samples."
    )

    def tune(self, session: Session, budget: CalibrationBudget) -> CalibrationCost:
        """Calibrate nothing."""
        return session.cost

    def points(self, session: Session) -> list[OperatingPoint]:
        return [
            _point(self.name, f"{sampler} steps={steps}", steps, sampler)
            for sampler in SAMPLERS
            for steps in solver_steps(session.steps)
        ]


def solver_steps(steps: int) -> list[int]:
    """Return the numbers of steps at which solvers are run, most first."""
    return sorted({max(2, round(share * steps)) for share in SHARES}, reverse=True)


def _num_samples(budget: CalibrationBudget, steps: int, target_steps: int) -> int:
    """Return how many calibration samples all solvers and the targets may take.

    Raises:
        InputError: if the budget covers none.
    """
    if budget.evaluations is None:
        return CALIBRATION_SAMPLES
    for count in range(CALIBRATION_SAMPLES, 0, -1):
        numbers = [*solver_steps(steps) * len(SAMPLERS), target_steps]
        if steps * sum(math.ceil(count * few / steps) for few in numbers) <= budget.evaluations:
            return count
    raise InputError(
        "--tuning-evaluations must cover one sample by every solver of --methods solvers. Got "
        f"{budget.evaluations}. Pass a larger one, or solvers-all, which calibrates nothing."
    )


def _solutions(session: Session, ids: tuple[int, ...], steps: int) -> Tensor:
    cost = math.ceil(len(ids) * steps / session.steps)
    task = SolutionTask(purpose="calibrate", noise_ids=ids, trajectories=cost)
    return session.calibrate([task])[task.name].latents


def _point(method: str, name: str, steps: int, sampler: Sampler) -> OperatingPoint:
    return OperatingPoint(method=method, operating_point=name, steps=steps, sampler=sampler)
