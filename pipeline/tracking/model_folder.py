"""MLflow model folder of a policy: signature, pinned requirements, the policy folder within."""

from __future__ import annotations

import shutil
import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

CODE = Path(__file__).with_name("policy_model.py")
POLICY = "artifacts/policy"
"""Policy folder within the model folder."""
REQUIRED = ("mlflow", "pandas", "torch", "safetensors", "numpy", "pydantic")
"""Libraries of a model's environment, each in the version of this process: MLflow's and pandas
for the schedules, the others for ``dqar.load_policy``."""
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("long", "computed_steps")]),
    outputs=Schema(
        [
            ColSpec("string", "computed"),
            ColSpec("double", "predicted_rel_l2"),
            ColSpec("long", "sampling_steps"),
            ColSpec("long", "forecast_order"),
            ColSpec("double", "error_feedback"),
        ]
    ),
)


def write_model_folder(policy: Path, folder: Path) -> None:
    """Write a policy folder as an MLflow model without pickle.

    Args:
        policy: policy folder.
        folder: model folder, which must not exist.
    """
    staged = folder.with_name(f"{folder.name}-files") / "policy"
    staged.mkdir(parents=True)
    for name in ("policy.json", "policy.safetensors"):
        shutil.copy(policy / name, staged / name)
    with warnings.catch_warnings():
        # A table of whole numbers is described by the signature; MLflow asks for type hints too.
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(CODE),
            artifacts={"policy": str(staged)},
            signature=SIGNATURE,
            pip_requirements=[f"{name}=={_public(version(name))}" for name in REQUIRED],
            input_example=None,
        )
    shutil.rmtree(staged.parent)


def _public(installed: str) -> str:
    """Return a version without its local label, such as ``+cpu``, which no index serves."""
    return installed.partition("+")[0]


def example_input(counts: list[int]) -> pd.DataFrame:
    """Return the model's input for some numbers of computed steps."""
    return pd.DataFrame({"computed_steps": counts})
