"""Policy folders: safetensors for the weights, JSON for all else. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dqar.foreign_files import StoredTensor, read_json, read_tensors, require_file, spelled
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import SCHEMA_VERSION, PolicySpec
from dqar.registry import local_folder
from dqar.validation import shown, validate

MAX_BYTES = 64 * 2**20
"""Largest size of a policy's file in bytes; a policy has some thousand weights."""
MAX_HEADER_BYTES = 2 * 2**20
"""Largest header of the weights; 64 networks of 64 layers take two thirds of it."""
DIGEST = "weights_sha256"
"""Field of policy.json with the SHA-256 of policy.safetensors in the same folder."""
REQUIRED = (
    "features",
    "means",
    "scales",
    "hidden",
    "members",
    "savings",
    "sites",
    "num_layers",
    "steps",
    "sampler",
    "model_hash",
)
"""Fields that every release writes, and whose default would be silently wrong."""
FIX = "Train the policy again with jobs/train.py."


def save_policy(policy: ReusePolicy, folder: str | Path) -> None:
    """Write ``policy.safetensors`` and ``policy.json``; the folder is made if missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Removed first and written last, so that no reader pairs new weights with an old policy.json.
    (folder / "policy.json").unlink(missing_ok=True)
    save_file(
        {name: value.contiguous() for name, value in policy.state_dict().items()},
        folder / "policy.safetensors",
    )
    document = asdict(policy.spec) | {DIGEST: _digest(folder / "policy.safetensors")}
    (folder / "policy.json").write_text(json.dumps(document, indent=2) + "\n")


def load_policy(folder: str | Path, tracking_uri: str | None = None) -> ReusePolicy:
    """Read a policy, in eval mode and without gradients.

    Args:
        folder: policy folder; or URI of a registered policy (``models:/dqar-policy@champion``), or
            of a repository on the Hugging Face Hub (``hf://OWNER/NAME``).
        tracking_uri: MLflow store of a registered policy; None for ``MLFLOW_TRACKING_URI``.

    Raises:
        ValueError: naming the file, what is wrong with it, and the fix.
    """
    with local_folder(folder, tracking_uri) as place:
        return _load(place)


def _load(folder: Path) -> ReusePolicy:
    document = _read_document(folder / "policy.json")
    spec, path = _spec_of(document, folder / "policy.json"), folder / "policy.safetensors"
    try:
        # Before anything of the sizes that policy.json states is allocated.
        _refuse_other_shapes(path, spec)
        weights = _read_weights(path, document.get(DIGEST))
        policy = ReusePolicy(spec)
        policy.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{spelled(path)} must hold the weights that policy.json describes. "
            f"Got: {reason:.300}. {FIX}"
        ) from error
    return policy.eval().requires_grad_(False)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_other_shapes(path: Path, spec: PolicySpec) -> None:
    """Refuse a file whose header names other tensors than the policy has."""
    require_file(path, max_bytes=MAX_BYTES)
    found, wanted = read_tensors(path, max_header_bytes=MAX_HEADER_BYTES), _tensors_of(spec)
    for name in wanted.keys() | found.keys():
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{name!r:.60} of {_described(found.get(name))} in place of "
                f"{_described(wanted.get(name))}"
            )


def _tensors_of(spec: PolicySpec) -> dict[str, StoredTensor]:
    """Return the tensors of a policy by name; its state_dict without building it."""
    sizes = (len(spec.features), *spec.hidden, 1)
    shapes = {}
    for place, (before, after) in enumerate(itertools.pairwise(sizes)):
        for member in range(spec.members):
            # An activation stands between two linear layers.
            layer = f"networks.{member}.{2 * place}"
            shapes |= {f"{layer}.weight": (after, before), f"{layer}.bias": (after,)}
    return {name: StoredTensor(dtype="F32", shape=shape) for name, shape in shapes.items()}


def _described(tensor: StoredTensor | None) -> str:
    return "no tensor" if tensor is None else f"{tensor.dtype} {list(tensor.shape)!s:.60}"


def _read_weights(path: Path, digest: object) -> dict[str, Tensor]:
    # Policies of earlier releases have no digest.
    if digest is not None and digest != _digest(path):
        raise ValueError("other bytes than those that policy.json was written for")
    weights = load_file(path)
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"no finite numbers in {name!r:.60}")
    return weights


def _read_document(path: Path) -> dict[str, Any]:
    fix = "Pass a folder that jobs/train.py wrote."
    stored = read_json(path, what="a policy", fix=fix, max_bytes=MAX_BYTES)
    if (version := stored.get("schema_version")) != SCHEMA_VERSION:
        raise ValueError(
            f"{spelled(path)} must have schema version {SCHEMA_VERSION}. Got {shown(version)}. "
            "Train the policy again with this release."
        )
    return stored


def _spec_of(stored: dict[str, Any], path: Path) -> PolicySpec:
    if missing := [name for name in REQUIRED if name not in stored]:
        raise ValueError(f"{spelled(path)} must hold {missing[0]!r}. Got no such key. {FIX}")
    # Fields that other releases write besides are left out.
    known = {entry.name: stored[entry.name] for entry in fields(PolicySpec) if entry.name in stored}
    return validate(known, PolicySpec, name=spelled(path), fix=FIX, extra="forbid")
