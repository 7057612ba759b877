"""Policies in MLflow's model registry, by URIs such as ``models:/dqar-policy@champion``."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEME = "models:/"
NAMED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
REQUESTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Settings of MLflow's requests, where the environment has none."""


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
        from mlflow import MlflowClient
        from mlflow.artifacts import download_artifacts
    except ImportError as error:
        raise ValueError(
            f"{uri} must be read by MLflow. Got an environment without MLflow. Run pip install "
            "mlflow, or pass a folder."
        ) from error
    try:
        with _bounded_requests():
            # MLflow resolves models:/ URIs in the store of the environment alone.
            source = _source_of(MlflowClient(tracking_uri, tracking_uri), uri)
            return Path(download_artifacts(source, dst_path=folder, tracking_uri=tracking_uri))
    # A store raises what its own library raises, and its text may hold a password.
    except Exception as error:
        reason = re.sub(r"(?<=//)\S*@", "...@", " ".join(str(error).split()))[:200]
        raise ValueError(
            f"{uri} must be a registered model of the MLflow store. Got: {reason}. Check the name, "
            "the alias, and the tracking URI."
        ) from None


def _source_of(client: Any, uri: str) -> str:
    """Return the place of the artifacts of a registered model."""
    if (named := NAMED.fullmatch(uri)) is None:
        raise ValueError("no models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, version = named["name"], named["alias"], named["version"]
    if alias is not None:
        version = client.get_model_version_by_alias(name, alias).version
    return client.get_model_version_download_uri(name, str(version))


@contextmanager
def _bounded_requests() -> Iterator[None]:
    """Let MLflow give up after half a minute, where it would try again for minutes, and draw no
    progress bar."""
    before = {name: os.environ.get(name) for name in REQUESTS}
    os.environ.update({name: before[name] or value for name, value in REQUESTS.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
