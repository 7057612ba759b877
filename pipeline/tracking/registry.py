"""Registered policy: its versions, their descriptions, and the aliases candidate and champion."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.tracking.connection import is_missing, is_taken
from pipeline.tracking.operations import DescribePolicy, PromotePolicy, RegisterPolicy

REGISTERED_POLICY = "dqar-policy"
CANDIDATE = "candidate"
"""Alias of the newest trained version."""
CHAMPION = "champion"
"""Alias of the version to use: the first that was evaluated, until another one has beaten it."""
ABOUT = (
    "Learned reuse schedules of diffusion transformers. `candidate` is the newest trained version. "
    "`champion` is the version to use: an evaluation moves this alias to another version only if "
    "that version has the smaller error on the same noise samples, beyond the 95% interval of the "
    "paired difference."
)


def register(client: MlflowClient, run_id: str, operation: RegisterPolicy) -> None:
    """Register a version with the alias of the candidate, unless an earlier try did."""
    try:
        client.create_registered_model(REGISTERED_POLICY, description=ABOUT)
    except Exception as error:
        if not is_taken(error):
            raise
    version = version_of(client, run_id)
    if version is None:
        root = client.get_run(run_id).info.artifact_uri
        source = f"{root}/{operation.folder}"
        version = str(client.create_model_version(REGISTERED_POLICY, source, run_id).version)
    client.set_registered_model_alias(REGISTERED_POLICY, CANDIDATE, version)
    client.set_tag(run_id, "policy_version", version)


def describe(client: MlflowClient, run_id: str, operation: DescribePolicy) -> None:
    """Describe the version of a training run, if it has one."""
    if (version := version_of(client, run_id)) is None:
        return
    client.update_model_version(REGISTERED_POLICY, version, description=operation.text)
    for name, value in operation.values.items():
        client.set_model_version_tag(REGISTERED_POLICY, version, name, value)


def promote(client: MlflowClient, run_id: str, operation: PromotePolicy) -> None:
    """Make the version of a training run the champion, if the evaluation allows it."""
    version = version_of(client, run_id)
    before = champion(client)
    if version is None or before == version:
        return
    if before is not None:
        run_before = client.get_model_version(REGISTERED_POLICY, before).run_id
        if run_before not in operation.beaten:
            return
    # MLflow cannot compare and set: another evaluation may have moved the alias in between.
    if champion(client) == before:
        client.set_registered_model_alias(REGISTERED_POLICY, CHAMPION, version)


def champion(client: MlflowClient) -> str | None:
    """Return the version with the alias of the champion; None without one."""
    try:
        return str(client.get_model_version_by_alias(REGISTERED_POLICY, CHAMPION).version)
    except MlflowException as error:
        # MLflow calls a missing alias an invalid parameter, a missing model missing. Any other
        # error says nothing about the alias.
        has_none = error.error_code == "INVALID_PARAMETER_VALUE" and "alias" in str(error).lower()
        if has_none or is_missing(error):
            return None
        raise


def version_of(client: MlflowClient, run_id: str) -> str | None:
    """Return the version that a training run has registered; None without one."""
    of_run = f"name = '{REGISTERED_POLICY}' and run_id = '{run_id}'"
    found = client.search_model_versions(of_run, max_results=1)
    return str(found[0].version) if found else None
