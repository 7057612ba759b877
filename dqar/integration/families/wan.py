"""Wan 2.1 and 2.2: self-attention and feed-forward gated in float32, cross-attention not gated.

Wan 2.2 has two such transformers, of which each step calls one.
"""

from dqar.integration.engine.description import Family, Site, Stack

BLOCKS = Stack(
    path="blocks",
    block_by_row=("encoder_hidden_states", "temb"),
    sites={
        "attn": Site(module="attn1", by_row=(), attention="softmax"),
        "cross": Site(module="attn2", by_row=("encoder_hidden_states",), attention="softmax"),
        "ff": Site(module="ffn", by_row=()),
    },
)

FAMILIES = {"WanTransformer3DModel": Family(stacks=(BLOCKS,))}
