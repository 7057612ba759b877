"""The reference samples as a method of their own: no reuse, all steps."""

from __future__ import annotations

from pipeline.methods.base import Method, OperatingPoint, Session


class Baseline(Method):
    """Sampling without reuse, in all steps of the evaluation."""

    name = "baseline"
    role = "reference"

    def points(self, session: Session) -> list[OperatingPoint]:
        return [OperatingPoint(method=self.name, operating_point="twin", steps=session.steps)]
