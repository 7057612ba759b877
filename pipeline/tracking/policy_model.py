"""MLflow model of a policy, as code: from a number of computed steps to the policy's schedule.

MLflow copies this file into the model and runs it where the model is loaded, so that nothing is
unpickled and this package need not be installed there. Nothing else may import this file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel


class PolicySchedules(PythonModel):
    """Schedules that a policy planned, by their number of computed steps."""

    def load_context(self, context: Any) -> None:
        """Read the schedules of the policy, whose files lie beside this one.

        Args:
            context: unused.
        """
        text = Path(__file__).with_name("policy.json").read_text(encoding="utf-8")
        self.policy = json.loads(text)
        found = zip(self.policy["plans"], self.policy["plan_errors"], strict=True)
        self.schedules = {len(computed): (computed, error) for computed, error in found}

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride] MLflow annotates no result
        self, context: Any, model_input: pd.DataFrame, params: Any = None
    ) -> pd.DataFrame:
        """Return a row for each row of the input.

        Args:
            context: unused.
            model_input: table with the column ``computed_steps``.
            params: unused.

        Raises:
            ValueError: for a number of steps that the policy has no schedule for.
        """
        rows = [self._schedule(int(count)) for count in model_input["computed_steps"]]
        return pd.DataFrame(rows)

    def _schedule(self, count: int) -> dict[str, Any]:
        if count not in self.schedules:
            raise ValueError(
                f"computed_steps must be one of {sorted(self.schedules)}. Got {count}. Pass one of "
                "these, or collect and train for others."
            )
        computed, error = self.schedules[count]
        return {
            "computed": json.dumps(computed),
            "predicted_rel_l2": float(error),
            "sampling_steps": int(self.policy["steps"]),
            "forecast_order": int(self.policy["forecast_order"]),
            "error_feedback": float(self.policy["feedback"]),
        }


mlflow.models.set_model(PolicySchedules())
