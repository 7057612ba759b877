"""Z-Image: one sequence of latent and text tokens; a tanh gate after the norm of each output.

The refiners that prepare latents and text are two blocks each and are computed at every step.
"""

from dqar.integration.engine.description import Family, Site, Stack

MODULATION = ("adaln_input", "noise_mask", "adaln_noisy", "adaln_clean")

LAYERS = Stack(
    path="layers",
    streams=("x",),
    block_by_row=("attn_mask", "freqs_cis", *MODULATION),
    sites={
        "attn": Site(
            module="attention", by_row=("attention_mask", "freqs_cis"), attention="softmax"
        ),
        "ff": Site(module="feed_forward", by_row=()),
    },
)

FAMILIES = {"ZImageTransformer2DModel": Family(stacks=(LAYERS,))}
