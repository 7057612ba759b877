"""Lumina 2: one sequence of text and latent tokens; a tanh gate after the norm of each output.

The refiners that prepare latents and text are two blocks each and are computed at every step.
"""

from dqar.integration.engine.description import Family, Site, Stack

PLACES = ("attention_mask", "image_rotary_emb")

LAYERS = Stack(
    path="layers",
    block_by_row=(*PLACES, "temb"),
    sites={
        "attn": Site(module="attn", by_row=("encoder_hidden_states", *PLACES), attention="softmax"),
        "ff": Site(module="feed_forward", by_row=()),
    },
)

FAMILIES = {"Lumina2Transformer2DModel": Family(stacks=(LAYERS,))}
