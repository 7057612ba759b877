"""Fewer sampling steps without reuse: the same sampler, or DPM-Solver++ of second order."""

from __future__ import annotations

from dataclasses import replace

from pipeline.errors import InputError
from pipeline.methods.base import Method, OperatingPoint, Session, SweepGrid
from pipeline.models.loading import load_scheduler
from pipeline.models.model_info import ModelInfo


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
        "`fewer-steps-dpmsolver` is compared with the same reference samples as the others. Its "
        "latents differ from these also by the solver's own path, however many its steps."
    )

    @classmethod
    def check(cls, info: ModelInfo) -> None:
        """Refuse a model whose noise schedule or prediction the solver does not know.

        Sigmas that a model learned do no harm: samplers leave them out.
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
    """The evaluation's sampler at each share of the steps that the grid keeps."""
    kept = [max(1, round(share * steps)) for share in grid.steps]
    return [
        OperatingPoint(method=FewerSteps.name, operating_point=f"steps={few}", steps=few)
        for few in kept
    ]
