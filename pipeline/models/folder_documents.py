"""JSON files of a model's folder, which anyone may have written, as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from dqar.foreign_files import read_object, spelled
from dqar.validation import validate
from pipeline.errors import InputError
from pipeline.models.identity import MAX_JSON_BYTES, PARTS

T = TypeVar("T")

FIX = "Pass a folder that diffusers' save_pretrained wrote."
MAX_SIDE = 1024
"""Largest height of a latent."""
MAX_TIMESTEPS = 100_000
"""Most timesteps of a noise schedule."""
GATED = ("geglu", "swiglu")
"""Gated activations of a feed-forward network, which multiply one half of their input by the
other."""


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
    activation_fn: (
        Literal["gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu"]
        | None
    ) = None
    dropout: float = 0.0
    attention_bias: bool = True
    upcast_attention: bool = False
    norm_type: Literal["ada_norm_zero"] = "ada_norm_zero"
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in (
            "num_layers",
            "num_embeds_ada_norm",
            "in_channels",
            "patch_size",
            "num_attention_heads",
            "attention_head_dim",
        ):
            _check_range(self, name, 1, 2**31 - 1)
        _check_range(self, "sample_size", 1, MAX_SIDE)
        _check_range(self, "norm_eps", 1e-12, 0.1)
        _check_range(self, "dropout", 0.0, 1.0)
        if self.sample_size % self.patch_size:
            raise ValueError(
                f"sample_size must be a multiple of patch_size. Got {self.sample_size} and "
                f"{self.patch_size}."
            )
        # Twice the channels: the second half is a learned variance.
        if self.out_channels not in (None, self.in_channels, 2 * self.in_channels):
            raise ValueError(
                f"out_channels must be in_channels or twice as many. Got {self.out_channels} and "
                f"{self.in_channels}."
            )

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
    """Fields of a scheduler's configuration that set its noise schedule and its timesteps."""

    num_train_timesteps: int = 1000
    beta_start: float | None = None
    beta_end: float | None = None
    beta_schedule: str = "linear"
    trained_betas: list[float] | None = None
    steps_offset: int = 0
    solver_order: int = 2
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    rescale_betas_zero_snr: bool = False
    timestep_spacing: str = "leading"
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        _check_range(self, "num_train_timesteps", 1, MAX_TIMESTEPS)
        _check_range(self, "steps_offset", 0, self.num_train_timesteps)
        _check_range(self, "solver_order", 1, 3)
        _check_range(self, "clip_sample_range", 1e-3, 1e3)
        _check_range(self, "sample_max_value", 1e-3, 1e3)
        _check_range(self, "dynamic_thresholding_ratio", 1e-3, 1.0)
        for name in ("beta_start", "beta_end"):
            if getattr(self, name) is not None:
                _check_range(self, name, 0.0, 1.0)
        betas = self.trained_betas
        if betas is not None and len(betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas must be num_train_timesteps numbers. Got {len(betas)} for "
                f"{self.num_train_timesteps}."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeConfig:
    """Fields of a VAE's ``config.json`` that size it or that decoding reads."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: list[int] = field(default_factory=lambda: [64])
    layers_per_block: int = 1
    latent_channels: int = 4
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: None = None
    latents_std: None = None

    def __post_init__(self) -> None:
        for name in ("in_channels", "latent_channels", "layers_per_block"):
            _check_range(self, name, 1, 2**31 - 1)
        _check_range(self, "scaling_factor", 1e-6, 1e6)
        if self.shift_factor is not None:
            _check_range(self, "shift_factor", -1e6, 1e6)
        if not 1 <= len(self.block_out_channels) <= 16 or min(self.block_out_channels) < 1:
            raise ValueError(
                "block_out_channels must be 1 to 16 numbers of at least 1. Got "
                f"{self.block_out_channels!s:.60}."
            )

    @property
    def upscale(self) -> int:
        """Pixels of an image's side for each of the latent's."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierConfig:
    """``config.json`` of the digit classifier."""

    num_features: int = 64
    num_classes: int = 10

    def __post_init__(self) -> None:
        _check_range(self, "num_features", 1, 2**20)
        _check_range(self, "num_classes", 1, 2**20)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommended:
    """Settings that a model's provenance recommends."""

    guidance_scale: float | None = None
    """Scale of classifier-free guidance; None if none is recorded."""

    def __post_init__(self) -> None:
        if self.guidance_scale is not None:
            _check_range(self, "guidance_scale", 0.0, 1000.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Field of ``provenance.json`` that sampling reads."""

    recommended: Recommended = field(default_factory=Recommended)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightIndex:
    """Index of weights that stand in several files."""

    weight_map: dict[str, str]
    """File of each tensor."""
    metadata: dict[str, Any]


def read_json(path: Path, model: str) -> dict[str, Any]:
    """Read a JSON file of a model's folder.

    Args:
        path: file to read.
        model: name of the model, for the error message.

    Raises:
        InputError: if the file is missing, too large or not a JSON object, or repeats a key.
    """
    try:
        return read_object(path, max_bytes=MAX_JSON_BYTES)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"--model {spelled(model)} must hold {_place_of(path)}. Got: {error!s:.300}. {FIX}"
        ) from error


def read_document(path: Path, kind: type[T], model: str, *, is_finite: bool = True) -> T:
    """Read a JSON file of a model's folder as a dataclass; unknown keys are left out.

    Raises:
        InputError: one line that names the file and the field that is wrong.
    """
    stored = read_json(path, model)
    try:
        return validate(stored, kind, name=_place_of(path), fix="", is_finite=is_finite)
    except ValueError as error:
        raise InputError(f"--model {spelled(model)} must be sound. {error} {FIX}") from error


def _place_of(path: Path) -> str:
    """Return the place of a file in a model's folder."""
    part = path.parent.name
    return f"{part}/{path.name}" if part in PARTS else path.name


def _check_range(record: Any, name: str, least: int | float, most: int | float) -> None:
    if not least <= (value := getattr(record, name)) <= most:
        bounds = (
            f"at least {least:g} and below 2^31"
            if most == 2**31 - 1
            else f"from {least:g} to {most:g}"
        )
        raise ValueError(f"{name} must be {bounds}. Got {value}.")
