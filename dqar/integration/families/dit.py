"""DiT (Peebles and Xie 2023, arXiv 2212.09748): class-conditional, adaLN-Zero after each site."""

from dqar.integration.engine.description import Family, Site, Stack

BLOCKS = Stack(
    path="transformer_blocks",
    block_by_row=("timestep", "class_labels"),
    sites={
        "attn": Site(module="attn1", by_row=(), attention="plain"),
        "ff": Site(module="ff", by_row=()),
    },
)

FAMILIES = {"DiTTransformer2DModel": Family(stacks=(BLOCKS,))}
