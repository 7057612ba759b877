"""Description of a model from its configuration files, without its weights.

A model is named ``digits`` (shipped), by a local diffusers folder, or by a Hugging Face hub id. The
folder has the layout of ``save_pretrained``: ``transformer/``, ``scheduler/``, and ``vae/`` for a
latent model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

DIGITS = Path(__file__).parent / "digits"
"""Folder of the shipped model."""

GATED = ("geglu", "swiglu")
"""Gated activations of a feed-forward network, which multiply one half of their input by the
other."""
# File patterns that are downloaded from the hub.
PARTS = ["transformer/*", "scheduler/*", "vae/*", "model_index.json"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """Description of a class-conditional DiT from its configuration files."""

    name: str
    """Name as passed to --model."""
    folder: Path
    """Local folder of the model."""
    model_hash: str
    """First 16 hex digits of the SHA-256 over the transformer's files."""
    num_layers: int
    """Number of transformer blocks."""
    max_steps: int
    """Timesteps of the noise schedule, the most steps that a sampler can take."""
    num_classes: int
    """Number of classes, which is also the index of the null class."""
    latent_shape: tuple[int, int, int]
    """Channels, height and width of a latent."""
    out_channels: int
    """Channels of the model's output: twice those of the latent with a learned variance."""
    guidance_scale: float
    """Guidance that ``provenance.json`` recommends; otherwise 4.0, the default of diffusers."""
    width: int
    """Channels of a token."""
    num_tokens: int
    """Tokens of an image."""
    site_flops: dict[str, float]
    """FLOPs of each site of one layer, for one row of the batch."""
    kv_flops: float
    """Part of the FLOPs of ``attn`` that a cache of keys and values saves."""


def refuse_too_many_steps(info: ModelInfo, steps: int) -> None:
    """Refuse more sampling steps than the noise schedule has timesteps.

    Raises:
        InputError: with the largest possible number of steps.
    """
    if steps > info.max_steps:
        raise InputError(
            f"--steps must be at most {info.max_steps}, the timesteps that {info.name} was trained "
            f"with. Got {steps}. Pass 50."
        )


def find_model(name: str) -> ModelInfo:
    """Find a model by name and read its configuration files; weights are not loaded.

    Args:
        name: ``digits``, a local diffusers folder, or a hub id, which is downloaded.

    Raises:
        InputError: if there is no such model, or if it is not a class-conditional DiT.
    """
    folder = _folder_of(name)
    config = read_json(folder / "transformer" / "config.json", name)
    schedule = read_json(folder / "scheduler" / "scheduler_config.json", name)
    if not _is_dit(config):
        raise InputError(
            f"--model must be a class-conditional DiT (DiTTransformer2DModel). Got "
            f"{config.get('_class_name')!r} in {name}. Pass a DiT such as digits."
        )
    return info_of(
        config,
        schedule,
        name=name,
        folder=folder,
        model_hash=_hash_folder(folder / "transformer"),
        guidance_scale=_recommended_guidance(folder),
    )


def info_of(config: Mapping[str, Any], schedule: Mapping[str, Any], **named: Any) -> ModelInfo:
    """Describe a DiT by its configuration and the configuration of its scheduler.

    Args:
        config: configuration of the transformer.
        schedule: configuration of the scheduler.
        named: the fields of :class:`ModelInfo` that neither configuration holds.
    """
    width, num_tokens = _shape(config)
    size = int(config["sample_size"])
    return ModelInfo(
        **named,
        num_layers=int(config["num_layers"]),
        max_steps=int(schedule.get("num_train_timesteps", 1000)),
        num_classes=int(config["num_embeds_ada_norm"]),
        latent_shape=(int(config["in_channels"]), size, size),
        out_channels=int(config.get("out_channels") or config["in_channels"]),
        width=width,
        num_tokens=num_tokens,
        site_flops=_site_flops(config),
        kv_flops=0.5 * _projection_flops(config),
    )


def _recommended_guidance(folder: Path) -> float:
    provenance = folder / "provenance.json"
    document = json.loads(provenance.read_text()) if provenance.exists() else {}
    return float(document.get("recommended", {}).get("guidance_scale", 4.0))


def _is_dit(config: dict[str, Any]) -> bool:
    # Older folders name the class Transformer2DModel, which diffusers loads as a DiT.
    is_older = config.get("_class_name") == "Transformer2DModel"
    is_ada_norm_zero = config.get("norm_type") == "ada_norm_zero"
    return config.get("_class_name") == "DiTTransformer2DModel" or (is_older and is_ada_norm_zero)


def _site_flops(config: Mapping[str, Any]) -> dict[str, float]:
    # For d channels and N tokens, in d^2 per token: projections 8, attention 4N/d, feed-forward 16.
    width, tokens = _shape(config)
    projections = _projection_flops(config)
    attention = projections + 4.0 * tokens**2 * width
    # A gated activation takes two halves, so that the first matrix is twice as wide.
    feed_forward = projections * (3.0 if config.get("activation_fn") in GATED else 2.0)
    # Modulation of a row: timestep embedding (256 -> d -> d), then six adaLN factors (d -> 6d).
    modulation = 14.0 * width**2 + 512.0 * width
    whole = attention + feed_forward + modulation
    return {"attn": attention, "ff": feed_forward, "block": whole}


def _projection_flops(config: Mapping[str, Any]) -> float:
    # Four matrices of equal size: Q, K, V and the output.
    width, tokens = _shape(config)
    return 8.0 * width**2 * tokens


def _shape(config: Mapping[str, Any]) -> tuple[int, int]:
    width = config["num_attention_heads"] * config["attention_head_dim"]
    return width, (config["sample_size"] // config["patch_size"]) ** 2


def _folder_of(name: str) -> Path:
    if name == "digits":
        return DIGITS
    folder = Path(name)
    if folder.is_dir():
        return folder
    looks_like_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if not looks_like_hub_id:
        raise InputError(
            f"--model must be digits, a diffusers folder or a hub id. Got {name!r}, which does "
            "not exist. Check the path."
        )
    return _fetch_from_hub(name)


def _fetch_from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=PARTS))
    # The hub's errors (offline, missing, gated, malformed id) have no common base class.
    except Exception as error:
        raise InputError(
            f"--model {name} must be on the hub or in its cache. Got: "
            f"{type(error).__name__}: {str(error)[:200]}. Check the id and the network, or pass "
            "a local folder."
        ) from error


def read_json(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a model's folder.

    Args:
        path: file to read.
        name: name of the model, for the error message.

    Raises:
        InputError: if the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"--model {name} must hold {path.parent.name}/{path.name}. Got: {error}. "
            "Pass a folder that diffusers' save_pretrained wrote."
        ) from error


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()[:16]
