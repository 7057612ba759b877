"""Fewer sampling steps without reuse: the same sampler, or DPM-Solver++ of second order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dqar.integration import DQARDPMSolverSampler
from pipeline.errors import InputError
from pipeline.methods.base import Method, OperatingPoint, Session, SweepGrid
from pipeline.models.loading import saved_scheduler
from pipeline.models.model_info import ModelInfo

PREDICTIONS = ("epsilon", "sample", "v_prediction")
"""Outputs of a model that both DDIM and DPM-Solver++ can read."""


class FewerSteps(Method):
    """The same sampler with fewer steps: the baseline that every reuse must beat."""

    name = "fewer-steps"
    role = "context"
    shown_at = ("flops_ratio", 2.0)

    def points(self, session: Session) -> list[OperatingPoint]:
        return fewer_steps_points(session.comparison.grid, session.steps)


class FewerSolverSteps(Method):
    """A better solver with fewer steps: DPM-Solver++ of second order, from the same noise samples.

    Its latents differ from the reference samples also by the solver's own path: with as many steps
    it would not end where they end, since their steps err too.
    """

    name = "fewer-steps-dpmsolver"
    role = "context"
    shown_at = ("flops_ratio", 2.0)
    note = (
        "`fewer-steps-dpmsolver` samples with second-order DPM-Solver++ in place of the "
        "evaluation's sampler. Its error is against the same reference samples as that of every "
        "other method, so part of it is the difference between the two solvers, which more steps "
        "do not remove."
    )

    @classmethod
    def check(cls, info: ModelInfo) -> None:
        """Refuse a model whose noise schedule or prediction the solver does not know.

        Sigmas that a model learned do no harm: samplers leave them out.
        """
        scheduler = saved_scheduler(info)
        prediction = scheduler.config.get("prediction_type", "epsilon")
        if prediction not in PREDICTIONS or not _can_lend(scheduler):
            raise InputError(
                f"--methods {cls.name} must come with a model whose noise schedule and prediction "
                f"type DPM-Solver++ supports. Got a {type(scheduler).__name__} that predicts "
                f"{prediction!r:.40} in {info.name}. Leave {cls.name} out."
            )

    def points(self, session: Session) -> list[OperatingPoint]:
        points = fewer_steps_points(session.comparison.grid, session.steps)
        return [replace(point, method=self.name, sampler="dpm") for point in points]


def fewer_steps_points(grid: SweepGrid, steps: int) -> list[OperatingPoint]:
    """The evaluation's sampler at each share of the steps that the grid keeps."""
    kept = [max(1, round(share * steps)) for share in grid.steps]
    return [
        OperatingPoint(method=FewerSteps.name, operating_point=f"steps={few}", steps=few)
        for few in kept
    ]


def _can_lend(scheduler: Any) -> bool:
    try:
        DQARDPMSolverSampler(None, scheduler)
    # The solver raises NotImplementedError for some schedules of betas.
    except (ValueError, NotImplementedError):
        return False
    return True
