"""Stable Diffusion 3 and 3.5: joint attention of latent and text tokens, adaLN after each site.

The last block has no text output. Some blocks of 3.5 have a second self-attention (``attn2``),
which is computed with its block and is no site.
"""

from dqar.integration.engine.description import Family, Site, Stack

BLOCKS = Stack(
    path="transformer_blocks",
    streams=("encoder_hidden_states", "hidden_states"),
    not_at_end=("encoder_hidden_states",),
    block_by_row=("temb",),
    sites={
        "attn": Site(
            module="attn",
            returns=("output", "context"),
            by_row=("encoder_hidden_states",),
            attention="softmax",
        ),
        "ff": Site(module="ff", by_row=()),
        "ff_context": Site(module="ff_context", by_row=()),
    },
)

FAMILIES = {"SD3Transformer2DModel": Family(stacks=(BLOCKS,))}
