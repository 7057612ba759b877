"""Patch the sites of a diffusers transformer to run under a controller, and undo the patch.

Only ``forward`` of the modules is replaced, on the instances. The module tree, the parameter names
and the attention processors do not change, so adapters and checkpoints load as before. What is
patched follows from the transformer's family (:mod:`dqar.integration.families`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import nn

from dqar.control.controller import DQARController
from dqar.gate_table import GateTable, StackShape
from dqar.integration.attention_site import refuse_other_arithmetic
from dqar.integration.engine.block_site import BlockSite
from dqar.integration.engine.data_flow import StreamSearch
from dqar.integration.engine.description import Site, Stack
from dqar.integration.engine.entropy import Attention, refuse_unmeasured
from dqar.integration.engine.keys_and_values import KeysAndValues
from dqar.integration.engine.lookup import family_of
from dqar.integration.engine.module_site import ATTENTIONS, ModuleSite
from dqar.integration.engine.operator import Outputs
from dqar.integration.engine.patched_forward import PatchedForward, SiteFn, patch
from dqar.integration.engine.residual import PARTS
from dqar.integration.engine.site_call import parameters_of
from dqar.integration.engine.stack_site import StackSite
from dqar.integration.forward_patch import Replacement
from dqar.integration.run_slot import RunSlot
from dqar.records import WHOLE_SITES


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedStack:
    """A stack of a transformer, with its blocks."""

    stack: Stack
    blocks: list[Any]
    first_layer: int
    """Number of the first block among all layers of the model."""

    def module(self, site: Site, place: int) -> Any:
        """Module of a site of one block; None if the block lacks it."""
        found = self.blocks[place]
        for name in site.module.split("."):
            found = getattr(found, name, None)
        return found

    @property
    def shape(self) -> StackShape:
        """The stack's sites, as a gate table describes them."""
        stack = self.stack
        places = range(len(self.blocks))
        return StackShape(
            name=stack.path,
            num_layers=len(self.blocks),
            sites=(*stack.sites, "block", *(() if stack.is_interleaved else ("stack",))),
            absent=frozenset(
                (name, place)
                for name, site in stack.sites.items()
                for place in places
                if self.module(site, place) is None
            ),
        )

    @property
    def attentions(self) -> list[Attention]:
        """Attention of each block, by which the entropy of the block is measured."""
        site = self.stack.sites.get("attn")
        return [
            Attention(
                module=block if site is None else self.module(site, place),
                arithmetic=None if site is None else site.attention,
                is_site=False,
            )
            for place, block in enumerate(self.blocks)
        ]


def attach(transformer: nn.Module, slot: RunSlot, first_layer: int = 0) -> list[Replacement]:
    """Patch the slot's sites in every block of a transformer.

    Args:
        first_layer: number of its first layer, in a pipeline of several transformers.

    Raises:
        ValueError: if the model is not served, lacks a site, chunks its feed-forward, or has to
            cache keys and values of an attention with unknown arithmetic.
    """
    gate_table(transformer, slot.sites)
    refuse_misfits(transformer, slot)
    return [
        patched
        for placed in stacks_of(transformer, first_layer)
        for site in slot.sites
        for patched in _patched(placed, site, slot)
    ]


def stacks_of(transformer: Any, first_layer: int = 0) -> list[PlacedStack]:
    """The stacks of a transformer, with layers numbered through all of them."""
    placed: list[PlacedStack] = []
    for stack in family_of(transformer).stacks:
        blocks = [*attrgetter(stack.path)(transformer)]
        placed.append(PlacedStack(stack=stack, blocks=blocks, first_layer=first_layer))
        first_layer += len(blocks)
    return placed


def blocks_of(transformer: Any) -> list[Any]:
    """The transformer's blocks, in the order of its layers.

    Raises:
        ValueError: if the model's family is unknown.
    """
    return [block for placed in stacks_of(transformer) for block in placed.blocks]


def gate_table(transformer: nn.Module, sites: tuple[str, ...]) -> GateTable:
    """The gates of a transformer for some sites.

    Raises:
        ValueError: if the model's family is unknown, or no block has one of the sites.
    """
    return GateTable(sites=sites, stacks=tuple(one.shape for one in stacks_of(transformer)))


def refuse_misfits(
    transformer: Any, slot: RunSlot, controller: DQARController | None = None
) -> None:
    """Refuse settings of a model that make reuse impossible; they may also change after patching.

    Args:
        controller: the controller of a run that begins.

    Raises:
        ValueError: if the model chunks a patched feed-forward, has to cache keys and values of an
            attention with unknown arithmetic, or if a gate of the controller reads an entropy that
            cannot be measured.
    """
    for placed in stacks_of(transformer):
        if controller is not None:
            _refuse_unmeasured(placed, slot, controller)
        for place, block in enumerate(placed.blocks):
            if {*slot.sites} & {"ff", "block", "stack"}:
                _refuse_chunks(block)
            if "attn" in slot.sites and slot.cached == "kv":
                site = placed.stack.sites["attn"]
                refuse_other_arithmetic(placed.module(site, place), site.attention)


def _refuse_unmeasured(placed: PlacedStack, slot: RunSlot, controller: DQARController) -> None:
    for site in slot.sites:
        if site in WHOLE_SITES:
            refuse_unmeasured(placed.attentions[0], controller)
        elif site in ATTENTIONS and site in placed.stack.sites:
            described = placed.stack.sites[site]
            module = placed.module(described, 0)
            attention = Attention(module=module, arithmetic=described.attention, is_site=True)
            refuse_unmeasured(attention, controller)


def detach(patches: list[Replacement]) -> None:
    """Put every original ``forward`` back, and empty the list.

    Raises:
        ValueError: if a module was patched again later.
    """
    if not all(patched.is_on_top for patched in patches):
        raise ValueError(
            "Patches must come off in the reverse order. Got a module that was patched again "
            "later. Remove the later patch first."
        )
    for patched in patches:
        patched.restore()
    patches.clear()


def _patched(placed: PlacedStack, site: str, slot: RunSlot) -> Iterator[PatchedForward]:
    if site in WHOLE_SITES:
        for place, act in enumerate(_block_acts(placed, site)):
            is_last = place == len(placed.blocks) - 1
            yield patch(placed.blocks[place], slot, act, _block_outputs(placed.stack, is_last))
    elif site in placed.stack.sites:
        described = placed.stack.sites[site]
        for place in range(len(placed.blocks)):
            module = placed.module(described, place)
            if module is not None:
                act = _module_act(module, described, site, placed.first_layer + place, slot)
                yield patch(module, slot, act, _module_outputs(described, module))


def _block_acts(placed: PlacedStack, site: str) -> list[SiteFn]:
    stack, first, attentions = placed.stack, placed.first_layer, placed.attentions
    if site == "stack":
        whole = StackSite(stack, first, attentions)
        sites, acts = [whole], [whole.at(place) for place in range(len(attentions))]
    else:
        acts = sites = [
            BlockSite(stack, first + place, attention) for place, attention in enumerate(attentions)
        ]
    if stack.streams:
        return acts
    search = StreamSearch(stack, type(placed.blocks[0]), sites)
    return [search.wrap(place, act) for place, act in enumerate(acts)]


def _module_act(module: Any, described: Site, site: str, layer: int, slot: RunSlot) -> SiteFn:
    if site == "attn" and slot.cached == "kv":
        return KeysAndValues(module, layer)
    return ModuleSite(module, described, site, layer)


def _block_outputs(stack: Stack, is_last: bool) -> Outputs | None:
    if not stack.streams:
        return None
    missing = stack.not_at_end if is_last else ()
    like = tuple(None if name in missing else name for name in stack.streams)
    return Outputs(like=like, is_tuple=len(like) > 1)


def _module_outputs(site: Site, module: nn.Module) -> Outputs | None:
    """The form of what a module returns; None if it is unknown, so that no operator stands for
    it."""
    names = parameters_of(type(module))
    streams = {part: stream for stream, part in PARTS.items()} | {"output": [*names, None][0]}
    like = tuple(streams.get(name) for name in site.returns)
    return Outputs(like=like, is_tuple=len(like) > 1) if {*like} <= {*names} else None


def _refuse_chunks(block: Any) -> None:
    if getattr(block, "_chunk_size", None) is not None:
        raise ValueError(
            "Feed-forward and block reuse must see whole batches. Got a chunked feed-forward. "
            "Call set_chunk_feed_forward(None), or reuse only the site attn."
        )
