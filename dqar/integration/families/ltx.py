"""LTX-Video: self-attention with rotary embeddings of each row, cross-attention, feed-forward.

Self-attention and feed-forward are gated, cross-attention is not.
"""

from dqar.integration.engine.description import Family, Site, Stack

TEXT = ("encoder_hidden_states", "attention_mask")

BLOCKS = Stack(
    path="transformer_blocks",
    block_by_row=("encoder_hidden_states", "temb", "image_rotary_emb", "encoder_attention_mask"),
    sites={
        "attn": Site(module="attn1", by_row=("image_rotary_emb",), attention="softmax"),
        "cross": Site(module="attn2", by_row=TEXT, attention="softmax"),
        "ff": Site(module="ff", by_row=()),
    },
)

FAMILIES = {"LTXVideoTransformer3DModel": Family(stacks=(BLOCKS,))}
