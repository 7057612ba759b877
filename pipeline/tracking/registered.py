"""Files of a registered model, fetched from the MLflow store that is named; offered to the library
as the entry point ``models`` of ``dqar.sources``."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from pipeline.tracking.connection import bounded_requests, reason_of

NAMED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


@contextmanager
def fetched_model(uri: str, tracking_uri: str | None) -> Iterator[Path]:
    """Yield a temporary folder with the files of a registered model.

    Args:
        uri: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        tracking_uri: MLflow store; None for that of ``MLFLOW_TRACKING_URI``.

    Raises:
        ValueError: if MLflow does not answer, or has no such model; as the block raises it, with
            the URI in place of the temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="dqar-") as scratch:
        folder = _download(uri, tracking_uri, scratch)
        try:
            yield folder
        except ValueError as refusal:
            if type(refusal) is not ValueError:
                raise
            # The temporary folder is gone when the message is read.
            raise ValueError(str(refusal).replace(str(folder), uri)) from refusal


def _download(uri: str, tracking_uri: str | None, folder: str) -> Path:
    try:
        with bounded_requests():
            # MLflow resolves models:/ URIs in the store of the environment alone.
            source = _source_of(MlflowClient(tracking_uri, tracking_uri), uri)
            return Path(download_artifacts(source, dst_path=folder, tracking_uri=tracking_uri))
    # A store raises what its own library raises, and its text may hold a password.
    except Exception as error:
        raise ValueError(
            f"{uri} must be a registered model of the MLflow store. Got: {reason_of(error)}. Check "
            "the name, the alias, and the tracking URI."
        ) from None


def _source_of(client: MlflowClient, uri: str) -> str:
    """Return the place of the artifacts of a registered model."""
    if (named := NAMED.fullmatch(uri)) is None:
        raise ValueError("no models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, version = named["name"], named["alias"], named["version"]
    if alias is not None:
        version = client.get_model_version_by_alias(name, alias).version
    return client.get_model_version_download_uri(name, str(version))
