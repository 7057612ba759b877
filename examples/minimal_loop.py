"""Reuse of keys and values in a hand-written attention model, without diffusers.

Run ``python examples/minimal_loop.py``. It prints how many decisions reused cached keys and values,
and how far the result is from that of a run without reuse.
"""

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from dqar import DQARConfig, DQARController

STEPS, LAYERS, HEADS, TOKENS, WIDTH = 12, 6, 4, 16, 64
CLASS_PROMPT_LENGTH = 16


def split_heads(hidden: Tensor) -> Tensor:
    return hidden.unflatten(-1, (HEADS, -1)).transpose(-2, -3)


def attend(controller: DQARController, layer: int, hidden: Tensor, weight: Tensor) -> Tensor:
    """Attend with computed queries, and with keys and values from the cache if the gates allow."""
    decision = controller.should_reuse(layer)
    if decision:
        keys, values, _ = controller.reuse(decision.entry)
        assert keys is not None  # commit cached keys and values
        assert values is not None
    else:
        keys, values = hidden @ weight[1], hidden @ weight[2]
    scores = split_heads(hidden @ weight[0]) @ split_heads(keys).mT
    attn_map = (scores * (WIDTH / HEADS) ** -0.5).softmax(dim=-1)
    if not decision:
        controller.commit(layer, attn_map=attn_map, keys=keys, values=values)
    return (attn_map @ split_heads(values)).transpose(-2, -3).flatten(-2)


def denoise(controller: DQARController) -> Tensor:
    """Run a toy sampler: each step moves the latent a little along the model's output."""
    torch.manual_seed(0)
    weights = 1.5 * torch.randn(LAYERS, 3, WIDTH, WIDTH) / WIDTH**0.5
    latent = torch.randn(1, TOKENS, WIDTH)
    for step in range(STEPS):
        controller.begin_step(step, STEPS, CLASS_PROMPT_LENGTH)
        hidden = latent
        for layer in range(LAYERS):
            normed = layer_norm(hidden, (WIDTH,))
            hidden = hidden + attend(controller, layer, normed, weights[layer])
        latent = latent + 0.05 * layer_norm(hidden, (WIDTH,))
    return latent


if __name__ == "__main__":
    reusing = DQARController(DQARConfig(), num_layers=LAYERS)
    latent = denoise(reusing)
    exact = denoise(DQARController(DQARConfig.never(), num_layers=LAYERS))
    print(reusing.summary().note)
    print(f"relative error against never reusing: {(latent - exact).norm() / exact.norm():.4f}")
