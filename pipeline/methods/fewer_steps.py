"""Sampling without reuse: all steps, and fewer by the evaluation's sampler or by DPM-Solver++.

DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) is used in its multistep form of second order.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.errors import InputError
from pipeline.methods.base import Method, OperatingPoint, Session, SweepGrid
from pipeline.models.model_info import ModelInfo
from pipeline.models.schedulers import load_scheduler


class Baseline(Method):
    """Sampling without reuse, with all steps of the evaluation; its samples are the references."""

    name = "baseline"
    role = "reference"

    def points(self, session: Session) -> list[OperatingPoint]:
        return [OperatingPoint(method=self.name, operating_point="twin", steps=session.steps)]


class FewerSteps(Method):
    """Fewer steps of the evaluation's sampler: the baseline that any reuse must beat."""

    name = "fewer-steps"
    role = "context"
    shown_at = ("flops_ratio", 2.0)

    def points(self, session: Session) -> list[OperatingPoint]:
        return fewer_steps_points(session.comparison.grid, session.steps)


class FewerSolverSteps(Method):
    """Fewer steps of second-order DPM-Solver++, from the same noise samples.

    The latents differ from the reference samples by the number of steps and by the solver. With as
    many steps as the reference samples they would still differ, since the evaluation's sampler has
    a discretization error too.
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
        """Refuse a model whose noise schedule or prediction type the solver does not support.

        Learned variances are accepted, since the samplers drop them.
        """
        try:
            load_scheduler(info, "dpm")
        except InputError as error:
            raise InputError(
                f"--methods {cls.name} must come with a model whose noise schedule DPM-Solver++ "
                f"can take over. Got: {error} Leave {cls.name} out otherwise."
            ) from error

    def points(self, session: Session) -> list[OperatingPoint]:
        points = fewer_steps_points(session.comparison.grid, session.steps)
        return [replace(point, method=self.name, sampler="dpm") for point in points]


def fewer_steps_points(grid: SweepGrid, steps: int) -> list[OperatingPoint]:
    """Return an operating point for each share of the sampling steps in the grid."""
    kept = [max(1, round(share * steps)) for share in grid.steps]
    return [
        OperatingPoint(method=FewerSteps.name, operating_point=f"steps={few}", steps=few)
        for few in kept
    ]
