"""Policies in MLflow's model registry, by URIs such as ``models:/dqar-policy@champion``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCHEME = "models:/"


@contextmanager
def local_folder(place: str | Path, tracking_uri: str | None = None) -> Iterator[Path]:
    """Yield the folder of a path, or a temporary folder with the files of a registered model.

    Args:
        place: path, or URI of a registered model: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``.
        tracking_uri: MLflow store of the model; None for that of ``MLFLOW_TRACKING_URI``.

    Raises:
        ValueError: if MLflow is not installed, does not answer, or has no such model.
    """
    if not is_registered(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="dqar-") as scratch:
        folder = _download(str(place), tracking_uri, scratch)
        try:
            yield folder
        except ValueError as refusal:
            if type(refusal) is not ValueError:
                raise
            # The temporary folder is gone when the message is read.
            raise ValueError(str(refusal).replace(str(folder), str(place))) from refusal


def is_registered(place: str | Path) -> bool:
    """Return True for the URI of a registered model."""
    return str(place).startswith(SCHEME)


def _download(uri: str, tracking_uri: str | None, folder: str) -> Path:
    try:
        # Loaded here alone: the library does without MLflow.
        from mlflow.artifacts import download_artifacts
    except ImportError as error:
        raise ValueError(
            f"{uri} must be read by MLflow. Got an environment without MLflow. Run pip install "
            "mlflow, or pass a folder."
        ) from error
    try:
        found = download_artifacts(
            uri, dst_path=folder, tracking_uri=tracking_uri, registry_uri=tracking_uri
        )
    # A store raises what its own library raises.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{uri} must be a registered model of the MLflow store. Got: {reason}. Check the name, "
            "the alias and MLFLOW_TRACKING_URI."
        ) from error
    return Path(found)
