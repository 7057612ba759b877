"""Sana: linear self-attention, cross-attention, and a feed-forward of convolutions.

Self-attention and feed-forward are gated by one adaLN for all blocks, cross-attention is not.
"""

from dqar.integration.engine.description import Family, Site, Stack

TEXT = ("encoder_hidden_states", "attention_mask")

BLOCKS = Stack(
    path="transformer_blocks",
    block_by_row=(*TEXT, "encoder_attention_mask", "timestep"),
    sites={
        "attn": Site(module="attn1", by_row=()),
        "cross": Site(module="attn2", by_row=TEXT, attention="softmax"),
        "ff": Site(module="ff", by_row=()),
    },
)

FAMILIES = {"SanaTransformer2DModel": Family(stacks=(BLOCKS,))}
