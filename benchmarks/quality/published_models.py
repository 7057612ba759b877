"""Published diffusion transformers: their configurations, and inputs of their usual size.

A configuration is that of ``transformer/config.json`` in the repository named. Models and inputs
are made on the device ``meta``, which has shapes and no values, so that nothing is downloaded and
no memory is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedModel:
    """A model with one call of its transformer, at a stated size."""

    name: str
    """Short name."""
    repository: str
    """Repository on the Hugging Face Hub."""
    kind: str
    """Class of the transformer in diffusers."""
    config: dict[str, Any]
    """Arguments of that class."""
    size: str
    """Height, width and frames of a sample."""
    inputs: Callable[[], dict[str, Any]]
    """Makes the arguments of a call for one sample, of both branches where one call has both."""
    calls: int = 1
    """Calls of the transformer in a step: 2 where guidance calls it once for each branch."""
    guidance: str
    """Guidance of its pipeline."""
    not_gated: str
    """Parts of a step that no site covers, and the reason."""

    def transformer(self) -> nn.Module:
        """Return the model on the device ``meta``."""
        import diffusers

        with torch.device("meta"):
            return getattr(diffusers, self.kind)(**self.config).eval()


def floats(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def integers(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int64, device="meta")


def dit() -> dict[str, Any]:
    return {
        "hidden_states": floats(2, 4, 32, 32),
        "timestep": integers(2),
        "class_labels": integers(2),
    }


def pixart() -> dict[str, Any]:
    return {
        "hidden_states": floats(2, 4, 128, 128),
        "encoder_hidden_states": floats(2, 300, 4096),
        "encoder_attention_mask": integers(2, 300),
        "timestep": integers(2),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def sd3() -> dict[str, Any]:
    return {
        "hidden_states": floats(2, 16, 128, 128),
        "encoder_hidden_states": floats(2, 77 + 256, 4096),
        "pooled_projections": floats(2, 2048),
        "timestep": integers(2),
    }


def flux() -> dict[str, Any]:
    return {
        "hidden_states": floats(1, 4096, 64),
        "encoder_hidden_states": floats(1, 512, 4096),
        "pooled_projections": floats(1, 768),
        "timestep": floats(1),
        "guidance": floats(1),
        "img_ids": floats(4096, 3),
        "txt_ids": floats(512, 3),
    }


def qwen_image() -> dict[str, Any]:
    return {
        "hidden_states": floats(1, 4096, 64),
        "encoder_hidden_states": floats(1, 512, 3584),
        "encoder_hidden_states_mask": integers(1, 512),
        "timestep": floats(1),
        "img_shapes": [[(1, 64, 64)]],
    }


def wan(height: int, width: int) -> Callable[[], dict[str, Any]]:
    return lambda: {
        "hidden_states": floats(1, 16, 21, height // 8, width // 8),
        "encoder_hidden_states": floats(1, 512, 4096),
        "timestep": integers(1),
    }


def hunyuan_video() -> dict[str, Any]:
    return {
        "hidden_states": floats(1, 16, 33, 90, 160),
        "encoder_hidden_states": floats(1, 256, 4096),
        "encoder_attention_mask": integers(1, 256),
        "pooled_projections": floats(1, 768),
        "timestep": integers(1),
        "guidance": floats(1),
    }


def cogvideox() -> dict[str, Any]:
    tokens = 13 * 30 * 45
    return {
        "hidden_states": floats(2, 13, 16, 60, 90),
        "encoder_hidden_states": floats(2, 226, 4096),
        "timestep": integers(2),
        "image_rotary_emb": (floats(tokens, 64), floats(tokens, 64)),
    }


DIT = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}
WAN = {
    "patch_size": (1, 2, 2),
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
}
MODULATION = "norms and modulation"
SINGLE = (
    "MLP and output projection of single blocks: gated with the attention, after one projection"
)
MODELS = (
    PublishedModel(
        name="DiT-XL/2",
        repository="facebook/DiT-XL-2-256",
        kind="DiTTransformer2DModel",
        config=DIT,
        size="256x256",
        inputs=dit,
        guidance="one call, rows [conditional; unconditional]",
        not_gated="norms and modulation, with an embedding of timestep and label in each block",
    ),
    PublishedModel(
        name="PixArt-Sigma",
        repository="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        kind="PixArtTransformer2DModel",
        config={
            **DIT,
            "sample_size": 128,
            "cross_attention_dim": 1152,
            "caption_channels": 4096,
            "use_additional_conditions": False,
            "attention_bias": True,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "norm_eps": 1e-6,
        },
        size="1024x1024",
        inputs=pixart,
        guidance="one call, rows [unconditional; conditional]",
        not_gated="norms and modulation; outside, the projection of the caption",
    ),
    PublishedModel(
        name="SD3.5-large",
        repository="stabilityai/stable-diffusion-3.5-large",
        kind="SD3Transformer2DModel",
        config={
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 38,
            "attention_head_dim": 64,
            "num_attention_heads": 38,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 2432,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
            "dual_attention_layers": (),
            "qk_norm": "rms_norm",
        },
        size="1024x1024",
        inputs=sd3,
        guidance="one call, rows [unconditional; conditional]; skip-layer guidance adds a call",
        not_gated="norms and modulation; the last block ends its text stream with its attention",
    ),
    PublishedModel(
        name="Flux-dev",
        repository="black-forest-labs/FLUX.1-dev",
        kind="FluxTransformer2DModel",
        config={
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
            "axes_dims_rope": (16, 56, 56),
        },
        size="1024x1024",
        inputs=flux,
        guidance="embedded (distilled); a true guidance scale adds a call",
        not_gated=SINGLE,
    ),
    PublishedModel(
        name="Qwen-Image",
        repository="Qwen/Qwen-Image",
        kind="QwenImageTransformer2DModel",
        config={
            "patch_size": 2,
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 60,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 3584,
            "guidance_embeds": False,
            "axes_dims_rope": (16, 56, 56),
        },
        size="1024x1024, 512 text tokens",
        inputs=qwen_image,
        calls=2,
        guidance="two calls, prompts of other lengths",
        not_gated=MODULATION,
    ),
    PublishedModel(
        name="Wan2.1-1.3B",
        repository="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        kind="WanTransformer3DModel",
        config={**WAN, "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        size="480x832, 81 frames",
        inputs=wan(480, 832),
        calls=2,
        guidance="two calls",
        not_gated=MODULATION,
    ),
    PublishedModel(
        name="Wan2.1-14B",
        repository="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        kind="WanTransformer3DModel",
        config={**WAN, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
        size="720x1280, 81 frames",
        inputs=wan(720, 1280),
        calls=2,
        guidance="two calls; Wan 2.2 has two such transformers",
        not_gated=MODULATION,
    ),
    PublishedModel(
        name="HunyuanVideo",
        repository="hunyuanvideo-community/HunyuanVideo",
        kind="HunyuanVideoTransformer3DModel",
        config={
            "in_channels": 16,
            "out_channels": 16,
            "num_attention_heads": 24,
            "attention_head_dim": 128,
            "num_layers": 20,
            "num_single_layers": 40,
            "num_refiner_layers": 2,
            "mlp_ratio": 4.0,
            "patch_size": 2,
            "patch_size_t": 1,
            "qk_norm": "rms_norm",
            "guidance_embeds": True,
            "text_embed_dim": 4096,
            "pooled_projection_dim": 768,
            "rope_theta": 256.0,
            "rope_axes_dim": (16, 56, 56),
        },
        size="720x1280, 129 frames",
        inputs=hunyuan_video,
        guidance="embedded (distilled); a true guidance scale adds a call",
        not_gated=f"{SINGLE}; outside, two blocks that refine the text",
    ),
    PublishedModel(
        name="CogVideoX-5b",
        repository="THUDM/CogVideoX-5b",
        kind="CogVideoXTransformer3DModel",
        config={
            "num_attention_heads": 48,
            "attention_head_dim": 64,
            "in_channels": 16,
            "out_channels": 16,
            "time_embed_dim": 512,
            "text_embed_dim": 4096,
            "num_layers": 42,
            "sample_width": 90,
            "sample_height": 60,
            "sample_frames": 49,
            "patch_size": 2,
            "temporal_compression_ratio": 4,
            "max_text_seq_length": 226,
            "use_rotary_positional_embeddings": True,
        },
        size="480x720, 49 frames",
        inputs=cogvideox,
        guidance="one call, rows [unconditional; conditional]",
        not_gated=MODULATION,
    ),
)
"""Models of the table in docs/models.md, in its order."""
