"""Flux: double blocks with joint attention, then single blocks that run attention and MLP at once.

A single block gates attention and MLP together, after their common projection, so that its
attention alone is a site.
"""

from dqar.integration.engine.description import Family, Site, Stack

STREAMS = ("encoder_hidden_states", "hidden_states")

DOUBLE = Stack(
    path="transformer_blocks",
    streams=STREAMS,
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

SINGLE = Stack(
    path="single_transformer_blocks",
    streams=STREAMS,
    block_by_row=("temb",),
    sites={"attn": Site(module="attn", by_row=(), attention="softmax")},
)

FAMILIES = {"FluxTransformer2DModel": Family(stacks=(DOUBLE, SINGLE))}
