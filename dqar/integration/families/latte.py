"""Latte: spatial blocks alternate with temporal ones; rows are frames, then patches, of samples.

Between the two kinds of blocks the hidden states are reshaped, so that no stack has a residual.
"""

from dqar.integration.engine.description import Family, Site, Stack

TEXT = ("encoder_hidden_states", "attention_mask")
BY_ROW = (*TEXT, "encoder_attention_mask", "timestep")
SELF_ATTENTION = Site(module="attn1", by_row=("attention_mask",), attention="plain")
FEED_FORWARD = Site(module="ff", by_row=())

SPATIAL = Stack(
    path="transformer_blocks",
    block_by_row=BY_ROW,
    sites={
        "attn": SELF_ATTENTION,
        "cross": Site(module="attn2", by_row=TEXT, attention="softmax"),
        "ff": FEED_FORWARD,
    },
    is_interleaved=True,
)

TEMPORAL = Stack(
    path="temporal_transformer_blocks",
    block_by_row=BY_ROW,
    sites={"attn": SELF_ATTENTION, "ff": FEED_FORWARD},
    is_interleaved=True,
)

FAMILIES = {"LatteTransformer3DModel": Family(stacks=(SPATIAL, TEMPORAL))}
