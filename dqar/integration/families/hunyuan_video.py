"""HunyuanVideo: double blocks with joint attention, then single blocks, as in Flux."""

from dqar.integration.engine.description import Family, Site, Stack

STREAMS = ("hidden_states", "encoder_hidden_states")
BY_ROW = ("temb", "attention_mask", "token_replace_emb")
ATTENTION = Site(
    module="attn",
    returns=("output", "context"),
    by_row=("encoder_hidden_states", "attention_mask"),
    attention="softmax",
)

DOUBLE = Stack(
    path="transformer_blocks",
    streams=STREAMS,
    block_by_row=BY_ROW,
    sites={
        "attn": ATTENTION,
        "ff": Site(module="ff", by_row=()),
        "ff_context": Site(module="ff_context", by_row=()),
    },
)

SINGLE = Stack(
    path="single_transformer_blocks",
    streams=STREAMS,
    block_by_row=BY_ROW,
    sites={"attn": ATTENTION},
)

FAMILIES = {"HunyuanVideoTransformer3DModel": Family(stacks=(DOUBLE, SINGLE))}
