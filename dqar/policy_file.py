"""A policy as a folder: safetensors for the weights, JSON for the rest. Nothing is unpickled."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dqar.policy import ReusePolicy
from dqar.policy_spec import SCHEMA_VERSION, PolicySpec


def save_policy(policy: ReusePolicy, folder: str | Path) -> None:
    """Write ``policy.safetensors`` and ``policy.json``; the folder is made if missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in policy.state_dict().items()},
        folder / "policy.safetensors",
    )
    (folder / "policy.json").write_text(json.dumps(asdict(policy.spec), indent=2) + "\n")


def load_policy(folder: str | Path) -> ReusePolicy:
    """Read a policy folder, in eval mode and without gradients.

    Raises:
        ValueError: naming the file, what is wrong with it, and the mend.
    """
    folder = Path(folder)
    policy = ReusePolicy(_read_spec(folder / "policy.json"))
    try:
        policy.load_state_dict(load_file(folder / "policy.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{folder}/policy.safetensors must hold the weights that policy.json describes. "
            f"Got: {reason}. Train the policy again with jobs/train.py."
        ) from error
    return policy.eval().requires_grad_(False)


def _read_spec(path: Path) -> PolicySpec:
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} must be a policy's JSON. Got: {error}. Pass a folder that jobs/train.py wrote."
        ) from error
    if not isinstance(stored, dict) or stored.get("schema_version") != SCHEMA_VERSION:
        version = stored.get("schema_version") if isinstance(stored, dict) else None
        raise ValueError(
            f"{path} must have schema version {SCHEMA_VERSION}. Got {version}. "
            "Train the policy again with this release."
        )
    return _spec_of(stored, path)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _spec_of(stored: dict[str, Any], path: Path) -> PolicySpec:
    known = {entry.name for entry in fields(PolicySpec)}
    given: dict[str, Any] = {
        key: _as_tuples(value) for key, value in stored.items() if key in known
    }
    try:
        return PolicySpec(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a policy: {error}") from error
