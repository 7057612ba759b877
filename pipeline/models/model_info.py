"""Description of a model from its configuration files, without its weights.

A model is named ``digits`` (shipped), by a local diffusers folder, or by a Hugging Face hub id. The
folder has the layout of ``save_pretrained``: ``transformer/``, ``scheduler/``, and ``vae/`` for a
latent model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqar.foreign_files import spelled
from dqar.validation import validate
from pipeline.errors import InputError
from pipeline.models.folder_documents import (
    FIX,
    GATED,
    DiTConfig,
    Provenance,
    SchedulerConfig,
    read_document,
    read_json,
)
from pipeline.models.folder_parts import refuse_unfit_parts
from pipeline.models.identity import identify

DIGITS = Path(__file__).parent / "digits"
"""Folder of the shipped model."""

HUB_ID = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
"""Owner and name of a repository on the Hugging Face hub."""
HUB_S = 10.0
"""Seconds to wait for the hub's answer; its cached files are used where it does not answer."""
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
    """FLOPs of each site, for one row of the batch: of one layer, and of all layers for
    ``stack``."""
    kv_flops: float
    """Part of the FLOPs of ``attn`` that a cache of keys and values saves."""


GUIDANCE = 4.0
"""Guidance of a model that records none: the default of diffusers."""


def refuse_too_many_steps(info: ModelInfo, steps: int, flag: str = "--steps") -> None:
    """Refuse more sampling steps than the noise schedule has timesteps.

    Args:
        info: description of the model.
        steps: sampling steps.
        flag: flag that asks for them.

    Raises:
        InputError: with the largest possible number of steps.
    """
    if steps > info.max_steps:
        usual = min(50, info.max_steps) if flag == "--steps" else info.max_steps
        raise InputError(
            f"{flag} must be at most {info.max_steps}, the timesteps that {info.name} was trained "
            f"with. Got {steps}. Pass {flag} {usual}."
        )


def find_model(name: str) -> ModelInfo:
    """Find a model by name and read its configuration files; weights are not loaded.

    Args:
        name: ``digits``, a local diffusers folder, or a hub id, which is downloaded.

    Raises:
        InputError: if there is no such model, or if it is not a class-conditional DiT.
    """
    try:
        folder = _folder_of(name)
        config = read_json(folder / "transformer" / "config.json", name)
        schedule = read_json(folder / "scheduler" / "scheduler_config.json", name)
        if not _is_dit(config):
            raise InputError(
                f"--model must be a class-conditional DiT (DiTTransformer2DModel). Got "
                f"{config.get('_class_name')!r:.60} in {spelled(name)}. Pass a DiT such as digits."
            )
        named = {"name": name, "folder": folder, "model_hash": identify(folder)}
        info = info_of(config, schedule, **named, **_guidance_fields(folder, name))
        refuse_unfit_parts(
            folder,
            name,
            latent_shape=info.latent_shape,
            num_layers=info.num_layers,
            num_classes=info.num_classes,
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"--model {spelled(name)} must be a DiT. {error} {FIX}") from error
    except OSError as error:
        raise InputError(
            f"--model {spelled(name)} must be readable. Got: {error!s:.300}. Check the path and "
            "the files' permissions."
        ) from error
    return info


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


def _guidance_fields(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "provenance.json"
    recorded = None
    if os.path.lexists(path):
        recorded = read_document(path, Provenance, name).recommended.guidance_scale
    return {
        "guidance_scale": GUIDANCE if recorded is None else recorded,
        "is_guidance_recorded": recorded is not None,
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
    stack = dit.num_layers * whole
    return {"attn": attention, "ff": feed_forward, "block": whole, "stack": stack}


def _projection_flops(dit: DiTConfig) -> float:
    # Four matrices of equal size: Q, K, V and the output.
    return 8.0 * dit.width**2 * dit.num_tokens


def _folder_of(name: str) -> Path:
    if name == "digits":
        return DIGITS
    # An empty text would be the working folder.
    if name.strip() and (folder := Path(name)).is_dir():
        return folder
    if not HUB_ID.fullmatch(name) or ".." in name or "--" in name:
        raise InputError(
            f"--model must be digits, a diffusers folder or a hub id. Got {spelled(name)!r}, which "
            "does not exist. Check the path."
        )
    return _fetch_from_hub(name)


def _fetch_from_hub(name: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    refused: Exception | None = None
    # The hub's errors (offline, missing, gated, malformed id) have no common base class.
    try:
        # snapshot_download waits for ever for a server that accepts a connection and never answers.
        HfApi().repo_info(name, timeout=HUB_S)
    except Exception as error:
        refused = error
    try:
        is_local = refused is not None
        return Path(snapshot_download(name, allow_patterns=PARTS, local_files_only=is_local))
    except Exception as failed:
        error = refused or failed
        raise InputError(
            f"--model {spelled(name)} must be on the hub or in its cache. Got: "
            f"{type(error).__name__}: {str(error)[:200]}. Check the id and the network, or pass "
            "a local folder."
        ) from error
