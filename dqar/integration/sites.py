"""Patch the sites of a diffusers transformer to run under a controller, and undo the patch.

Only ``forward`` of the modules is replaced, on the instances. The module tree, the parameter names
and the attention processors do not change, so adapters and checkpoints load as before.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from dqar.cache.site_tensors import Fresh
from dqar.control.controller import DQARController
from dqar.integration.attention_site import (
    attend,
    computed_with_entropy,
    projected_entropy,
    refuse_other_arithmetic,
)
from dqar.integration.block_site import block_act
from dqar.integration.forward_patch import PatchedForward, Replacement, SiteCall, SiteFn, reroute
from dqar.integration.run_slot import RunSlot
from dqar.integration.served_models import refuse_unserved


def attach(transformer: nn.Module, slot: RunSlot) -> list[Replacement]:
    """Patch ``attn1`` and ``ff`` of every block, or the blocks themselves.

    Raises:
        ValueError: if the model is not served, has no ``transformer_blocks``, chunks its
            feed-forward, or has to cache keys and values of an attention with unknown arithmetic.
    """
    refuse_unserved(transformer)
    blocks = blocks_of(transformer)
    refuse_misfits(transformer, slot)
    return [
        rerouted
        for layer, block in enumerate(blocks)
        for rerouted in _reroute_sites(block, layer, slot)
    ]


def blocks_of(transformer: Any) -> Any:
    """The transformer's blocks, in order.

    Raises:
        ValueError: if the model has no ``transformer_blocks``.
    """
    blocks = getattr(transformer, "transformer_blocks", None)
    if blocks is None:
        raise ValueError(
            f"The model must have transformer_blocks. Got {type(transformer).__name__}. "
            "Pass a diffusers transformer such as DiTTransformer2DModel."
        )
    return blocks


def refuse_misfits(transformer: Any, slot: RunSlot) -> None:
    """Refuse settings of a model that make reuse impossible; they may also change after patching.

    Raises:
        ValueError: if the model chunks a patched feed-forward, or has to cache keys and values of
            an attention with unknown arithmetic.
    """
    for block in transformer.transformer_blocks:
        if not {"ff", "block"}.isdisjoint(slot.sites):
            _refuse_chunks(block)
        if "attn" in slot.sites and slot.cached == "kv":
            refuse_other_arithmetic(block.attn1)


def detach(reroutes: list[Replacement]) -> None:
    """Put every original ``forward`` back, and empty the list.

    Raises:
        ValueError: if a module was patched again later.
    """
    if not all(rerouted.is_on_top for rerouted in reroutes):
        raise ValueError(
            "Patches must come off in the reverse order. Got a module that was patched again "
            "later. Remove the later patch first."
        )
    for rerouted in reroutes:
        rerouted.restore()
    reroutes.clear()


def _reroute_sites(block: Any, layer: int, slot: RunSlot) -> list[PatchedForward]:
    act_for_attention = _attention_act if slot.cached == "output" else _keys_and_values_act
    sites = {
        "attn": (block.attn1, act_for_attention(block.attn1, layer)),
        "ff": (block.ff, _feed_forward_act(block.ff, layer)),
        "block": (block, block_act(block, layer)),
    }
    return [
        reroute(module, slot, act) for site, (module, act) in sites.items() if site in slot.sites
    ]


def _attention_act(attention: Any, layer: int) -> SiteFn:
    def act(controller: DQARController, call: SiteCall) -> Float[Tensor, "r n d"]:
        _refuse_batched_extras(call)

        def compute(rows: Tensor | None) -> Fresh:
            return computed_with_entropy(attention, controller, lambda: call.computed(rows))

        return _kept(attention, controller.through(layer, "attn", compute)["output"])

    return act


def _keys_and_values_act(attention: Any, layer: int) -> SiteFn:
    def act(controller: DQARController, call: SiteCall) -> Float[Tensor, "r n d"]:
        _refuse_batched_extras(call)
        query = attention.to_q(call.hidden)

        def compute(rows: Tensor | None) -> Fresh:
            given = call.given(rows)
            parts = {"keys": attention.to_k(given), "values": attention.to_v(given)}
            if "entropy" not in controller.needs:
                return Fresh(parts=parts)
            asking = query if rows is None else query[rows]
            max_rows = controller.config.entropy_rows
            entropy = projected_entropy(attention, asking, parts["keys"], max_rows)
            return Fresh(parts=parts, entropy=entropy)

        parts = controller.through(layer, "attn", compute)
        return attend(attention, query, parts["keys"], parts["values"])

    return act


def _feed_forward_act(feed_forward: nn.Module, layer: int) -> SiteFn:
    def act(controller: DQARController, call: SiteCall) -> Float[Tensor, "r n d"]:
        def compute(rows: Tensor | None) -> Fresh:
            return Fresh(parts={"output": call.computed(rows)})

        return _kept(feed_forward, controller.through(layer, "ff", compute)["output"])

    return act


def _kept(module: nn.Module, output: Float[Tensor, "r n d"]) -> Float[Tensor, "r n d"]:
    """Return the output, copied if the module has a forward hook. A hook may keep the tensor, which
    can belong to the cache and be overwritten by a later step; the block reads it before that."""
    is_seen = bool(module._forward_hooks) or _has_any_global_hook()
    return output.clone() if is_seen else output


def _refuse_chunks(block: Any) -> None:
    if getattr(block, "_chunk_size", None) is not None:
        raise ValueError(
            "Feed-forward and block reuse must see whole batches. Got a chunked feed-forward. "
            "Call set_chunk_feed_forward(None), or reuse only the site attn."
        )


def _refuse_batched_extras(call: SiteCall) -> None:
    extras = [*call.args, *call.kwargs.values()]
    if any(isinstance(extra, Tensor) for extra in extras):
        raise ValueError(
            "Self-attention must take hidden states alone. Got a mask or encoder states. "
            "Reuse another site of this model, such as ff."
        )
