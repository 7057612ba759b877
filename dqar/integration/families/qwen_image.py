"""Qwen-Image: joint attention of latent and text tokens, an MLP for each, gates after each site."""

from dqar.integration.engine.description import Family, Site, Stack

TEXT = ("encoder_hidden_states", "encoder_hidden_states_mask")

BLOCKS = Stack(
    path="transformer_blocks",
    streams=("encoder_hidden_states", "hidden_states"),
    block_by_row=("encoder_hidden_states_mask", "temb", "modulate_index"),
    sites={
        "attn": Site(
            module="attn", returns=("output", "context"), by_row=TEXT, attention="softmax"
        ),
        "ff": Site(module="img_mlp", by_row=()),
        "ff_context": Site(module="txt_mlp", by_row=()),
    },
)

FAMILIES = {"QwenImageTransformer2DModel": Family(stacks=(BLOCKS,))}
