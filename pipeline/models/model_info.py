"""Description of a model from its configuration files, without its weights.

A model is named ``digits`` (shipped), by a local diffusers folder, or by a Hugging Face hub id. The
folder has the layout of ``save_pretrained``: ``transformer/``, ``scheduler/``, and ``vae/`` for a
latent model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqar.validation import validate
from pipeline.errors import InputError
from pipeline.models.identity import identify

DIGITS = Path(__file__).parent / "digits"
"""Folder of the shipped model."""

GATED = ("geglu", "swiglu")
"""Gated activations of a feed-forward network, which multiply one half of their input by the
other."""
FIX = "Pass a folder that diffusers' save_pretrained wrote."
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
    """Identity of the model (:mod:`pipeline.models.identity`)."""
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
    is_guidance_recorded: bool = True
    """False if the guidance is the default of diffusers."""
    width: int
    """Channels of a token."""
    num_tokens: int
    """Tokens of an image."""
    site_flops: dict[str, float]
    """FLOPs of each site of one layer, for one row of the batch."""
    kv_flops: float
    """Part of the FLOPs of ``attn`` that a cache of keys and values saves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTConfig:
    """Fields of a transformer's ``config.json`` that describe a DiT."""

    num_layers: int
    num_embeds_ada_norm: int
    in_channels: int
    sample_size: int
    patch_size: int
    num_attention_heads: int
    attention_head_dim: int
    out_channels: int | None = None
    activation_fn: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_layers", "patch_size", "num_attention_heads", "attention_head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1. Got {getattr(self, name)}.")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def num_tokens(self) -> int:
        """Tokens of a sample."""
        return (self.sample_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerConfig:
    """Field of a scheduler's configuration that limits its steps."""

    num_train_timesteps: int = 1000


GUIDANCE = 4.0
"""Guidance of a model that records none: the default of diffusers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommended:
    """Settings that a model's provenance recommends."""

    guidance_scale: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Field of ``provenance.json`` that sampling reads."""

    recommended: Recommended = Recommended()


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
    named = {"name": name, "folder": folder, "model_hash": _identify(folder, name)}
    try:
        return info_of(config, schedule, **named, **_guidance_fields(folder))
    except ValueError as error:
        raise InputError(f"--model {name} must be a DiT. {error} {FIX}") from error


def info_of(config: Mapping[str, Any], schedule: Mapping[str, Any], **named: Any) -> ModelInfo:
    """Describe a DiT by its configuration and the configuration of its scheduler.

    Args:
        config: configuration of the transformer.
        schedule: configuration of the scheduler.
        named: the fields of :class:`ModelInfo` that neither configuration holds.

    Raises:
        ValueError: naming the field of a configuration that is missing or of a wrong kind.
    """
    dit = validate(dict(config), DiTConfig, name="transformer/config.json", fix="")
    scheduler = validate(
        dict(schedule),
        SchedulerConfig,
        name="scheduler_config.json",
        fix="",
        is_finite=False,  # diffusers writes lambda_min_clipped of DPM-Solver++ as -Infinity
    )
    return ModelInfo(
        **named,
        num_layers=dit.num_layers,
        max_steps=scheduler.num_train_timesteps,
        num_classes=dit.num_embeds_ada_norm,
        latent_shape=(dit.in_channels, dit.sample_size, dit.sample_size),
        out_channels=dit.out_channels or dit.in_channels,
        width=dit.width,
        num_tokens=dit.num_tokens,
        site_flops=_site_flops(dit),
        kv_flops=0.5 * _projection_flops(dit),
    )


def _identify(folder: Path, name: str) -> str:
    try:
        return identify(folder)
    except OSError as error:
        raise InputError(
            f"--model {name} must be readable. Got: {error}. Check the files' permissions."
        ) from error


def _guidance_fields(folder: Path) -> dict[str, Any]:
    path = folder / "provenance.json"
    stored = read_json(path, folder.name) if path.exists() else {}
    scale = validate(stored, Provenance, name=path.name, fix="").recommended.guidance_scale
    return {
        "guidance_scale": GUIDANCE if scale is None else scale,
        "is_guidance_recorded": scale is not None,
    }


def _is_dit(config: dict[str, Any]) -> bool:
    # Older folders name the class Transformer2DModel, which diffusers loads as a DiT.
    is_older = config.get("_class_name") == "Transformer2DModel"
    is_ada_norm_zero = config.get("norm_type") == "ada_norm_zero"
    return config.get("_class_name") == "DiTTransformer2DModel" or (is_older and is_ada_norm_zero)


def _site_flops(dit: DiTConfig) -> dict[str, float]:
    # For d channels and N tokens, in d^2 per token: projections 8, attention 4N/d, feed-forward 16.
    projections = _projection_flops(dit)
    attention = projections + 4.0 * dit.num_tokens**2 * dit.width
    # A gated activation takes two halves, so that the first matrix is twice as wide.
    feed_forward = projections * (3.0 if dit.activation_fn in GATED else 2.0)
    # Modulation of a row: timestep embedding (256 -> d -> d), then six adaLN factors (d -> 6d).
    modulation = 14.0 * dit.width**2 + 512.0 * dit.width
    whole = attention + feed_forward + modulation
    return {"attn": attention, "ff": feed_forward, "block": whole}


def _projection_flops(dit: DiTConfig) -> float:
    # Four matrices of equal size: Q, K, V and the output.
    return 8.0 * dit.width**2 * dit.num_tokens


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
        stored = json.loads(path.read_text())
        if not isinstance(stored, dict):
            raise ValueError(f"a {type(stored).__name__} in place of an object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"--model {name} must hold {path.parent.name}/{path.name}. Got: {error}. {FIX}"
        ) from error
    return stored
