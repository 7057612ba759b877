"""HunyuanDiT: self- and cross-attention without gates; long skips join both halves.

A reused stack hands its input on to the skips, which its reused blocks do not read.
"""

from dqar.integration.engine.description import Family, Site, Stack

BLOCKS = Stack(
    path="blocks",
    block_by_row=("encoder_hidden_states", "temb", "skip"),
    sites={
        "attn": Site(module="attn1", by_row=(), attention="softmax"),
        "cross": Site(module="attn2", by_row=("encoder_hidden_states",), attention="softmax"),
        "ff": Site(module="ff", by_row=()),
    },
)

FAMILIES = {"HunyuanDiT2DModel": Family(stacks=(BLOCKS,))}
