"""A policy as a folder: safetensors for the weights, JSON for the rest. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dqar.policy.network import ReusePolicy
from dqar.policy.spec import SCHEMA_VERSION, PolicySpec
from dqar.step_schedule import StepSchedule

MAX_BYTES = 64 * 2**20
"""Size of a file beyond which it is no policy's; a policy has some thousand weights."""
MAX_COUNT = 2**31 - 1
"""The largest whole number of a field."""
DIGEST = "weights_sha256"
"""Field of policy.json: of the bytes of policy.safetensors, which lie beside it."""
WIDEST, MOST = 4096, 64
"""Units of a hidden layer and networks of a policy, at most."""


def _is_count(value: object) -> bool:
    # By type and not by instance, since a truth is an int.
    return type(value) is int and 0 <= value <= MAX_COUNT


def _is_number(value: object) -> bool:
    if type(value) is int:
        return abs(value) <= MAX_COUNT
    return type(value) is float and math.isfinite(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _each(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


def _named(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


def _is_width(value: object) -> bool:
    return type(value) is int and 1 <= value <= WIDEST


def _is_rival(value: object) -> bool:
    kinds = {"computed": _each(_is_count), "forecast_order": _is_count, "feedback": _is_number}
    return (
        isinstance(value, dict)
        and value.keys() == kinds.keys()
        and all(is_right(value[name]) for name, is_right in kinds.items())
    )


KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("features", "sites", "actions"), (_each(_is_text), "a list of names")),
    **dict.fromkeys(("means", "scales", "plan_errors"), (_each(_is_number), "a list of numbers")),
    "hidden": (_each(_is_width), f"a list of whole numbers from 1 to {WIDEST}"),
    "members": (lambda value: type(value) is int and 1 <= value <= MOST, f"from 1 to {MOST}"),
    "plans": (_each(_each(_is_count)), "a list of lists of whole numbers"),
    "rivals": (_each(_is_rival), "plans with the order of their forecasts and their feedback"),
    **dict.fromkeys(
        ("max_gap", "forecast_order", "num_layers", "steps", "schema_version"),
        (_is_count, "a whole number"),
    ),
    **dict.fromkeys(
        ("log_threshold", "error_budget", "temperature", "guidance", "feedback"),
        (_is_number, "a number"),
    ),
    **dict.fromkeys(
        ("granularity", "cache_mode", "branch_mode", "sampler", "model_hash", "trace_digest"),
        (_is_text, "a text"),
    ),
    **dict.fromkeys(("savings", "metrics"), (_named(_is_number), "numbers by name")),
    "lineage": (_named(_is_text), "texts by name"),
}
"""What each field of policy.json must be; what other releases write besides is left out."""

FRACTIONS = frozenset(
    {"means", "scales", "plan_errors", "savings", "metrics"}
    | {"log_threshold", "error_budget", "temperature", "guidance", "feedback"}
)
"""Fields that hold floats."""


def save_policy(policy: ReusePolicy, folder: str | Path) -> None:
    """Write ``policy.safetensors`` and ``policy.json``; the folder is made if missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # First gone and last written, so that weights never lie beside another policy's description.
    (folder / "policy.json").unlink(missing_ok=True)
    save_file(
        {name: value.contiguous() for name, value in policy.state_dict().items()},
        folder / "policy.safetensors",
    )
    document = asdict(policy.spec) | {DIGEST: _digest(folder / "policy.safetensors")}
    (folder / "policy.json").write_text(json.dumps(document, indent=2) + "\n")


def load_policy(folder: str | Path) -> ReusePolicy:
    """Read a policy folder, in eval mode and without gradients.

    Raises:
        ValueError: naming the file, what is wrong with it, and the mend.
    """
    folder = Path(folder)
    document = _read_document(folder / "policy.json")
    policy = ReusePolicy(_spec_of(document, folder / "policy.json"))
    try:
        weights = _read_weights(folder / "policy.safetensors", document.get(DIGEST))
        policy.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{folder}/policy.safetensors must hold the weights that policy.json describes. "
            f"Got: {reason:.300}. Train the policy again with jobs/train.py."
        ) from error
    return policy.eval().requires_grad_(False)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_weights(path: Path, digest: object) -> dict[str, Tensor]:
    _refuse_large(path)
    # Policies of earlier releases name none.
    if digest is not None and digest != _digest(path):
        raise ValueError("other bytes than those that policy.json was written for")
    weights = load_file(path)
    for name, value in weights.items():
        # Copied into a network, other kinds would be rounded without a word.
        if value.dtype != torch.float32 or not value.isfinite().all():
            raise ValueError(f"{value.dtype} or no finite numbers in {name!r:.60}")
    return weights


def _refuse_large(path: Path) -> None:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")


def _read_document(path: Path) -> dict[str, Any]:
    try:
        _refuse_large(path)
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be a policy's JSON. Got: {error}. Pass a folder that jobs/train.py wrote."
        ) from error
    if not isinstance(stored, dict) or stored.get("schema_version") != SCHEMA_VERSION:
        version = stored.get("schema_version") if isinstance(stored, dict) else None
        raise ValueError(
            f"{path} must have schema version {SCHEMA_VERSION}. Got {version!r:.60}. "
            "Train the policy again with this release."
        )
    return stored


def _spec_of(stored: dict[str, Any], path: Path) -> PolicySpec:
    given = {name: stored[name] for name in KINDS if name in stored}
    for name, value in given.items():
        is_right, kind = KINDS[name]
        if not is_right(value):
            raise ValueError(
                f"{path} does not describe a policy: {name} must be {kind}. Got {value!r:.60}. "
                "Train the policy again with jobs/train.py."
            )
    try:
        return PolicySpec(**{name: _as_given(name, value) for name, value in given.items()})
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not describe a policy: {reason:.600}") from error


def _as_given(name: str, value: Any) -> Any:
    """Lists as tuples, rivals as such, and whole numbers as the floats that a field may hold."""
    if name == "rivals" and isinstance(value, dict):
        return StepSchedule(**{key: _as_given(key, item) for key, item in value.items()})
    if isinstance(value, list):
        return tuple(_as_given(name, item) for item in value)
    if isinstance(value, dict):
        return {key: _as_given(name, item) for key, item in value.items()}
    return float(value) if type(value) is int and name in FRACTIONS else value
