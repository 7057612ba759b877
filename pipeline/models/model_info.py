"""What is known of a model before its weights are loaded, by name: ``digits`` (shipped), a local
diffusers folder, or a hub id.

A folder is what ``save_pretrained`` writes: ``transformer/``, ``scheduler/``, and ``vae/`` when the
model is latent.
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
"""The shipped model's folder."""

GATED = ("geglu", "swiglu")
"""Activations of a feed-forward that multiply one half of their input by the other."""
PARTS = ["transformer/*", "scheduler/*", "vae/*", "model_index.json"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """What is known of a model before its weights are loaded."""

    name: str
    folder: Path
    model_hash: str
    """SHA-256 over the transformer's files, 16 hex digits."""
    num_layers: int
    max_steps: int
    """Timesteps of the noise schedule; a sampler cannot take more steps."""
    num_classes: int
    """Also the index of the null class."""
    latent_shape: tuple[int, int, int]
    out_channels: int
    """Of the model's output; twice the latent's with a learned variance."""
    guidance_scale: float
    """Recommended by the model's provenance, else diffusers' 4.0."""
    width: int
    """Channels of a token."""
    num_tokens: int
    site_flops: dict[str, float]
    """FLOPs of one site, a row of the batch, from the architecture's widths."""
    kv_flops: float
    """The part of ``attn`` that cached keys and values save."""


def refuse_too_many_steps(info: ModelInfo, steps: int) -> None:
    """A sampler cannot take more steps than the noise schedule has.

    Raises:
        InputError: with the most that it has.
    """
    if steps > info.max_steps:
        raise InputError(
            f"--steps must be at most {info.max_steps} for {info.name}. Got {steps}. Pass 50."
        )


def find_model(name: str) -> ModelInfo:
    """Resolve a name to a folder and read its configuration; weights stay on disk.

    Raises:
        InputError: if there is no such model, or it is not a class-conditional DiT.
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
    """The description of a DiT by its configuration and that of its scheduler.

    Args:
        named: name, folder, hash and guidance, which no configuration holds.
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
    told = json.loads(provenance.read_text()) if provenance.exists() else {}
    return float(told.get("recommended", {}).get("guidance_scale", 4.0))


def _is_dit(config: dict[str, Any]) -> bool:
    # Folders saved before DiT had a class of its own say Transformer2DModel; diffusers maps them.
    is_older = config.get("_class_name") == "Transformer2DModel"
    is_ada_norm_zero = config.get("norm_type") == "ada_norm_zero"
    return config.get("_class_name") == "DiTTransformer2DModel" or (is_older and is_ada_norm_zero)


def _site_flops(config: Mapping[str, Any]) -> dict[str, float]:
    # Units of d^2 a token: projections 8, scores and values 4N/d, feed-forward 16.
    width, tokens = _shape(config)
    projections = _projection_flops(config)
    attention = projections + 4.0 * tokens**2 * width
    # A gated activation is given two halves, so that the first matrix is twice as wide.
    feed_forward = projections * (3.0 if config.get("activation_fn") in GATED else 2.0)
    # A row's modulation: the timestep's embedding (256 -> d -> d) and the six factors (d -> 6d).
    modulation = 14.0 * width**2 + 512.0 * width
    whole = attention + feed_forward + modulation
    return {"attn": attention, "ff": feed_forward, "block": whole}


def _projection_flops(config: Mapping[str, Any]) -> float:
    # Q, K, V and the output, alike in size.
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
    # The hub's errors share no base class: offline, missing, gated and malformed differ.
    except Exception as error:
        raise InputError(
            f"--model {name} must be on the hub or in its cache. Got: "
            f"{type(error).__name__}: {str(error)[:200]}. Check the id and the network, or pass "
            "a local folder."
        ) from error


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A document of a model's folder.

    Raises:
        InputError: naming the model, if it is missing or no JSON.
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
