"""Allegro: self-attention with rotary embeddings, cross-attention, one adaLN for all blocks."""

from dqar.integration.engine.description import Family, Site, Stack

TEXT = ("encoder_hidden_states", "attention_mask")

BLOCKS = Stack(
    path="transformer_blocks",
    block_by_row=(*TEXT, "encoder_attention_mask", "temb"),
    sites={
        "attn": Site(module="attn1", by_row=("attention_mask",), attention="softmax"),
        "cross": Site(module="attn2", by_row=TEXT, attention="softmax"),
        "ff": Site(module="ff", by_row=()),
    },
)

FAMILIES = {"AllegroTransformer3DModel": Family(stacks=(BLOCKS,))}
