"""Links into MLflow's web page."""

from __future__ import annotations

from urllib.parse import quote

from pipeline.redaction import without_secrets
from pipeline.tracking.connection import connect
from pipeline.tracking.registry import REGISTERED_POLICY
from pipeline.tracking.saved_view import VIEW_KEY, VIEW_TAG

EVALUATION = "dqar.evaluation"
"""Tag of an experiment that compares the methods of an evaluation: the evaluation's run."""
LOCAL_SERVER = "http://127.0.0.1:5000"
"""Address of a server that :func:`serving_command` starts."""


def charts_page(experiment_id: str, *, has_view: bool) -> str:
    """Return the fragment of an experiment's charts.

    The page opens under "Model training": without ``workflowType`` it opens on an empty overview
    of traces of language models.

    Args:
        has_view: True if the experiment has a saved view (:mod:`pipeline.tracking.saved_view`).
    """
    view = f"&viewStateShareKey={VIEW_KEY}" if has_view else ""
    charts = "workflowType=machine_learning&compareRunsMode=CHART"
    return f"#/experiments/{experiment_id}/runs?{charts}{view}"


def artifact_page(experiment_id: str, run_id: str, path: str) -> str:
    """Return the fragment of an artifact, which the page shows in place."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(path)}"


def model_page(model: str = REGISTERED_POLICY) -> str:
    """Return the fragment of a registered model, with its versions and their aliases."""
    return f"#/models/{quote(model, safe='')}"


def address_of(uri: str, fragment: str) -> str:
    """Return the address of a page.

    Args:
        uri: tracking URI. A store without a server is opened by a server on this machine.
        fragment: fragment of the page.
    """
    is_server = uri.startswith(("http://", "https://"))
    return f"{without_secrets(uri).rstrip('/') if is_server else LOCAL_SERVER}/{fragment}"


def serving_command(uri: str) -> str | None:
    """Return the command that serves a store; None for the URI of a server."""
    if uri.startswith(("http://", "https://")):
        return None
    return f"mlflow server --workers 1 --backend-store-uri {without_secrets(uri)}"


def latest_comparison(uri: str) -> str | None:
    """Return the fragment of the newest evaluation's charts; None if the store has none.

    Raises:
        Exception: whatever the store's library raises, within 30 s.
    """
    newest_first = connect(uri).search_experiments(order_by=["creation_time DESC"])
    for found in newest_first:
        if EVALUATION in found.tags:
            return charts_page(found.experiment_id, has_view=VIEW_TAG in found.tags)
    return None
