"""Baseline method: sampling without reuse, at all steps."""

from __future__ import annotations

from pipeline.methods.base import Method, OperatingPoint, Session


class Baseline(Method):
    """Sampling without reuse, with all steps of the evaluation; its samples are the references."""

    name = "baseline"
    role = "reference"

    def points(self, session: Session) -> list[OperatingPoint]:
        return [OperatingPoint(method=self.name, operating_point="twin", steps=session.steps)]
