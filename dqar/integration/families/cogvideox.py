"""CogVideoX: joint attention of latent and text tokens; one feed-forward for both, joined.

Gates after each site, one for each stream.
"""

from dqar.integration.engine.description import Family, Site, Stack

BLOCKS = Stack(
    path="transformer_blocks",
    streams=("hidden_states", "encoder_hidden_states"),
    block_by_row=("temb",),
    sites={
        "attn": Site(
            module="attn1",
            returns=("output", "context"),
            by_row=("encoder_hidden_states",),
            attention="softmax",
        ),
        "ff": Site(module="ff", by_row=()),
    },
)

FAMILIES = {"CogVideoXTransformer3DModel": Family(stacks=(BLOCKS,))}
