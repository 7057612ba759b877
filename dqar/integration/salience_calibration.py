"""Calibration of salience balance factors over one sampling run of an unpatched model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dqar.cache.salience_balancing import balance_factors, calibrated_salience
from dqar.integration.samplers import DQARSampler
from dqar.records import PartKey

GATES = {"attn": 1, "ff": 4}
"""Position of each site's adaLN gate, which multiplies the site's output channels, in the output of
diffusers' ``AdaLayerNormZero``."""

Salience = dict[tuple[PartKey, str], list[Tensor]]
"""Channel saliences of each step, by cached tensor and role (``own`` or ``consumer``)."""


def calibrate_balance(
    sampler: DQARSampler,
    class_labels: Int[Tensor, " b"],
    *,
    latents: Float[Tensor, "b c height width"] | None = None,
    generator: torch.Generator | None = None,
) -> dict[PartKey, Float[Tensor, " d"]]:
    """Measure the balance factors of keys, values and outputs of every layer
    (:mod:`dqar.cache.salience_balancing`).

    The salience of a channel is its largest magnitude in a step. It is balanced against the
    salience of the tensor that multiplies the channel next: the queries for keys, the output
    projection for values, the adaLN gate for outputs.

    Args:
        sampler: a sampler of an unpatched transformer, which is run once.
        class_labels: labels of the samples.
        latents: initial noise; drawn from ``generator`` by default.

    Raises:
        ValueError: if the sampler's model is a wrapper, or not a DiT.
    """
    transformer = sampler.model
    if not isinstance(transformer, nn.Module):
        raise ValueError(
            f"Calibration must see the stock model. Got {type(transformer).__name__}. "
            "Pass a sampler whose model is the transformer itself."
        )
    _refuse_other_blocks(transformer)
    salience: Salience = defaultdict(list)
    with _watched(transformer, salience):
        sampler.sample(len(class_labels), class_labels, latents=latents, generator=generator)
    keys = dict.fromkeys(key for key, _ in salience)
    return {key: _factors(salience, key) for key in keys}


def _refuse_other_blocks(transformer: nn.Module) -> None:
    blocks: Any = getattr(transformer, "transformer_blocks", ())
    norms = {type(getattr(block, "norm1", None)).__name__ for block in blocks}
    if norms != {"AdaLayerNormZero"} or not all(hasattr(block, "attn1") for block in blocks):
        raise ValueError(
            "Calibration must see the blocks of a DiT, whose adaLN gates weigh attn1 and ff. Got "
            f"{type(transformer).__name__}. Leave balance= out for other models."
        )


def _factors(salience: Salience, key: PartKey) -> Float[Tensor, " d"]:
    own, consumer = (torch.stack(salience[key, role]) for role in ("own", "consumer"))
    # Both calls weigh the timesteps equally, since rank correlation is symmetric.
    return balance_factors(calibrated_salience(own, consumer), calibrated_salience(consumer, own))


@contextmanager
def _watched(transformer: nn.Module, salience: Salience) -> Iterator[None]:
    blocks: Any = transformer.transformer_blocks
    handles = [
        module.register_forward_hook(hook)
        for layer, block in enumerate(blocks)
        for module, hook in _hooks_of(block, layer, salience)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks_of(block: Any, layer: int, salience: Salience) -> list[tuple[nn.Module, Any]]:
    attention = block.attn1
    keys, values = (PartKey("attn", layer, part) for part in ("keys", "values"))
    outputs = {site: PartKey(site, layer, "output") for site in GATES}

    def note(*entries: tuple[PartKey, str]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            del module, args
            for entry in entries:
                salience[entry].append(_channels(output))

        return hook

    def note_values(module: nn.Module, args: Any, output: Tensor) -> None:
        note((values, "own"))(module, args, output)
        salience[values, "consumer"].append(_channels(attention.to_out[0].weight))

    def note_gates(module: nn.Module, args: Any, output: tuple) -> None:
        del module, args
        for site, place in GATES.items():
            salience[outputs[site], "consumer"].append(_channels(output[place]))

    return [
        (attention.to_q, note((keys, "consumer"))),
        (attention.to_k, note((keys, "own"))),
        (attention.to_v, note_values),
        (attention, note((outputs["attn"], "own"))),
        (block.ff, note((outputs["ff"], "own"))),
        (block.norm1, note_gates),
    ]


def _channels(value: Tensor) -> Float[Tensor, " d"]:
    return value.detach().float().abs().flatten(0, -2).amax(dim=0)
