"""PixArt-alpha and PixArt-Sigma: DiT blocks with cross-attention to text, one adaLN for all blocks.

Self-attention and feed-forward are gated by the adaLN, cross-attention is not.
"""

from dqar.integration.engine.description import Family, Site, Stack

TEXT = ("encoder_hidden_states", "attention_mask")

BLOCKS = Stack(
    path="transformer_blocks",
    block_by_row=(*TEXT, "encoder_attention_mask", "timestep"),
    sites={
        "attn": Site(module="attn1", by_row=("attention_mask",), attention="plain"),
        "cross": Site(module="attn2", by_row=TEXT, attention="softmax"),
        "ff": Site(module="ff", by_row=()),
    },
)

FAMILIES = {"PixArtTransformer2DModel": Family(stacks=(BLOCKS,))}
