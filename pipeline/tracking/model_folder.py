"""MLflow model folder of a policy: signature, pinned requirements, the policy's files."""

from __future__ import annotations

import shutil
import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

CODE = Path(__file__).with_name("policy_model.py")
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
    """Write a policy as an MLflow model without pickle, with the policy's own files at its top.

    ``mlflow.pyfunc.load_model`` and ``dqar.load_policy`` both read the folder.

    Args:
        policy: policy folder.
        folder: model folder, which must not exist.
    """
    with warnings.catch_warnings():
        # The signature describes the table; MLflow asks for type hints or an example besides.
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(CODE),
            signature=SIGNATURE,
            pip_requirements=[f"{name}=={_public(version(name))}" for name in REQUIRED],
        )
    for name in ("policy.json", "policy.safetensors"):
        shutil.copy(policy / name, folder / name)


def _public(installed: str) -> str:
    """Return a version without its local label, such as ``+cpu``, which no index serves."""
    return installed.partition("+")[0]
