"""Mochi: joint attention of latent and text tokens; a tanh gate within the norm after each site.

The last block returns the text tokens unchanged.
"""

from dqar.integration.engine.description import Family, Site, Stack

BLOCKS = Stack(
    path="transformer_blocks",
    streams=("hidden_states", "encoder_hidden_states"),
    block_by_row=("temb", "encoder_attention_mask"),
    sites={
        "attn": Site(
            module="attn1",
            returns=("output", "context"),
            by_row=("encoder_hidden_states", "attention_mask"),
            attention="softmax",
        ),
        "ff": Site(module="ff", by_row=()),
        "ff_context": Site(module="ff_context", by_row=()),
    },
)

FAMILIES = {"MochiTransformer3DModel": Family(stacks=(BLOCKS,))}
