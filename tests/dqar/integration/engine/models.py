"""Tiny random transformers of several families, and the arguments of their calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ROPE = {"axes_dims_rope": (4, 6, 6)}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
TOKENS = 5


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text(rows: int, width: int) -> Tensor:
    return 8.0 * randn(rows, TOKENS, width, seed=1)


def mask(rows: int) -> Tensor:
    """A text mask in which each row has another length."""
    return (torch.arange(TOKENS)[None] < TOKENS - torch.arange(rows)[:, None] % 3).long()


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A tiny transformer."""

    kind: str
    """Class in diffusers."""
    config: dict[str, Any]
    """Arguments of the class."""
    latents: tuple[int, ...]
    """Shape of one sample."""
    others: Callable[[int], dict[str, Any]]
    """Further arguments of a call, for a number of rows."""
    sites: tuple[tuple[str, ...], ...]
    """Choices of sites that the family has."""
    timestep: Callable[[Tensor], Any] = lambda timestep: timestep
    """Timesteps of a call, from one for each row."""

    def build(self) -> Any:
        """Build the transformer with weights that all matter."""
        import diffusers

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(diffusers, self.kind)(**self.config).eval()
            for weight in model.parameters():
                if weight.std() == 0 or weight.ndim < 2:
                    nn.init.normal_(weight, std=0.2)
        return model.requires_grad_(False)


JOINT = (("attn",), ("attn", "ff", "ff_context"), ("block",), ("stack",))
CROSS = (("attn", "ff"), ("cross",), ("block",), ("stack",))

CASES = {
    "dit": Case(
        kind="DiTTransformer2DModel",
        config=HEADS | {"in_channels": 4, "num_layers": 3, "sample_size": 8},
        latents=(4, 8, 8),
        others=lambda rows: {"class_labels": torch.arange(rows) + 3},
        sites=(("attn", "ff"), ("block",), ("stack",)),
    ),
    "pixart": Case(
        kind="PixArtTransformer2DModel",
        config={
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 3,
            "cross_attention_dim": 24,
            "caption_channels": 10,
            "sample_size": 8,
            "out_channels": 4,
            "use_additional_conditions": False,
        },
        latents=(4, 8, 8),
        others=lambda rows: {
            "encoder_hidden_states": text(rows, 10),
            "encoder_attention_mask": mask(rows),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
        sites=CROSS,
    ),
    "sana": Case(
        kind="SanaTransformer2DModel",
        config=HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 10,
            "sample_size": 8,
        },
        latents=(4, 8, 8),
        others=lambda rows: {
            "encoder_hidden_states": text(rows, 10),
            "encoder_attention_mask": mask(rows),
        },
        sites=CROSS,
    ),
    "sd3": Case(
        kind="SD3Transformer2DModel",
        config=HEADS
        | {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "joint_attention_dim": 10,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 6,
            "pos_embed_max_size": 8,
            "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
        },
        latents=(4, 8, 8),
        others=lambda rows: {
            "encoder_hidden_states": text(rows, 10),
            "pooled_projections": randn(rows, 6, seed=2),
        },
        sites=JOINT,
    ),
    "flux": Case(
        kind="FluxTransformer2DModel",
        config={
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 3,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 10,
            "pooled_projection_dim": 6,
            "guidance_embeds": True,
        }
        | ROPE,
        latents=(16, 16),
        others=lambda rows: {
            "encoder_hidden_states": text(rows, 10),
            "pooled_projections": randn(rows, 6, seed=2),
            "guidance": torch.full((rows,), 3.0),
            "img_ids": torch.cartesian_prod(*map(torch.arange, (1, 4, 4))).float(),
            "txt_ids": torch.zeros(TOKENS, 3),
        },
        sites=JOINT,
        timestep=lambda timestep: timestep / 1000,
    ),
    "wan": Case(
        kind="WanTransformer3DModel",
        config={
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 10,
            "freq_dim": 16,
            "ffn_dim": 32,
            "num_layers": 3,
            "rope_max_seq_len": 32,
        },
        latents=(4, 2, 4, 4),
        others=lambda rows: {"encoder_hidden_states": text(rows, 10)},
        sites=CROSS,
    ),
    "latte": Case(
        kind="LatteTransformer3DModel",
        config=HEADS
        | {
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "cross_attention_dim": 16,
            "caption_channels": 10,
            "sample_size": 8,
            "patch_size": 2,
            "norm_type": "ada_norm_single",
            "num_embeds_ada_norm": 1000,
            "norm_elementwise_affine": False,
            "video_length": 3,
        },
        latents=(4, 3, 8, 8),
        others=lambda rows: {"encoder_hidden_states": text(rows, 10)},
        sites=CROSS[:3],
    ),
    "ltx": Case(
        kind="LTXVideoTransformer3DModel",
        config=HEADS
        | {
            "in_channels": 8,
            "out_channels": 8,
            "cross_attention_dim": 16,
            "num_layers": 3,
            "caption_channels": 10,
        },
        latents=(16, 8),
        others=lambda rows: {
            "encoder_hidden_states": text(rows, 10),
            "encoder_attention_mask": mask(rows),
            "num_frames": 2,
            "height": 2,
            "width": 4,
        },
        sites=CROSS,
    ),
    "mochi": Case(
        kind="MochiTransformer3DModel",
        config=HEADS
        | {
            "num_layers": 3,
            "pooled_projection_dim": 16,
            "in_channels": 4,
            "text_embed_dim": 16,
            "time_embed_dim": 8,
            "max_sequence_length": TOKENS,
        },
        latents=(4, 2, 4, 4),
        others=lambda rows: {
            "encoder_hidden_states": text(rows, 16),
            "encoder_attention_mask": mask(rows).bool(),
        },
        sites=JOINT,
    ),
}
"""Cases by family."""
