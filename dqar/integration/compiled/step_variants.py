"""Copies of a transformer that share its weights, each with the sites of one step of a plan.

A site of a copy computes, or computes and keeps what it computed, or returns what was kept or its
forecast (:mod:`dqar.integration.compiled.buffers`): plain code of one path, which dynamo traces
whole. The transformer itself is left as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from dqar.integration.compiled.buffers import (
    NOTHING,
    Placeholder,
    SiteBuffers,
    output_kinds,
    residual_kinds,
)
from dqar.schedules.forecast_factors import orders_read
from dqar.schedules.static_plan import Action, StaticPlan

Role = Literal["compute", "keep", "reuse"]
"""What a site does in one variant; ``keep`` computes what a later step reads."""
Part = tuple[Role, SiteBuffers]
"""What a site of a variant does, and on what."""
MODULES = {"attn": "attn1", "ff": "ff"}
"""Where a block has its sites; it is itself the site ``block``."""
Compiler = Callable[[tuple[tuple[Role, int], ...]], Callable[..., Any]]
"""Compiles a block whose sites have these roles, and keep so many differences: a function of the
block and its arguments."""


def roles_of(plan: StaticPlan) -> dict[tuple[Action, ...], tuple[Role, ...]]:
    """Roles by gate, for each distinct step of a plan.

    Steps that compute the same share their roles, and so a variant: a gate keeps where what any
    such step computes is read later, and what forecasts of other orders differ in are factors.
    """
    computed = [tuple(row) for row in (~plan.mask).tolist()]
    read: dict[tuple[bool, ...], Tensor] = {}
    for row, is_read in zip(computed, orders_read(plan) >= 0, strict=True):
        read[row] = read.get(row, is_read) | is_read
    roles = {row: _roles(row, is_read) for row, is_read in read.items()}
    return {actions: roles[row] for actions, row in zip(plan.table, computed, strict=True)}


def _roles(computes: tuple[bool, ...], is_read: Bool[Tensor, " g"]) -> tuple[Role, ...]:
    return tuple(_role(*gate) for gate in zip(computes, is_read.tolist(), strict=True))


def _role(computes: bool, is_read: bool) -> Role:
    if not computes:
        return "reuse"
    return "keep" if is_read else "compute"


def variant(
    transformer: nn.Module,
    sites: tuple[str, ...],
    roles: tuple[Role, ...],
    kept: Mapping[int, SiteBuffers],
    compiler: Compiler | None = None,
) -> nn.Module:
    """A copy of a transformer in which each site has its role.

    Args:
        roles: by gate, site-major.
        kept: by gate, what sites write to and read from in place.
        compiler: makes each block a compiled region of its own.
    """
    blocks: list[nn.Module] = []
    stack: Any = transformer.transformer_blocks
    for layer, block in enumerate(stack):
        gates = [place * len(stack) + layer for place in range(len(sites))]
        parts: list[Part] = [(roles[gate], kept.get(gate, NOTHING)) for gate in gates]
        copied = _block_variant(block, sites, parts)
        blocks.append(copied)
        if compiler is not None:
            region = compiler(tuple((role, _num_differences(role, held)) for role, held in parts))
            # A copy of the copy, since what is compiled must not find itself for a forward.
            blocks[layer] = copy.copy(copied)
            blocks[layer].forward = partial(region, copied)
    return _with_modules(transformer, {"transformer_blocks": nn.ModuleList(blocks)})


def _num_differences(role: Role, kept: SiteBuffers) -> int:
    return 0 if role == "compute" else len(kept.differences)


def _block_variant(block: nn.Module, sites: tuple[str, ...], parts: list[Part]) -> nn.Module:
    if sites == ("block",):
        return _site_variant(block, residual_kinds(type(block)), *parts[0])
    replaced = {}
    for site, (role, kept) in zip(sites, parts, strict=True):
        module = getattr(block, MODULES[site])
        replaced[MODULES[site]] = _site_variant(module, output_kinds(type(module)), role, kept)
    return _with_modules(block, replaced)


def _site_variant(
    module: nn.Module, kinds: dict[str, Any], role: Role, kept: SiteBuffers
) -> nn.Module:
    if role == "compute":
        return module
    copied = _copied(module)
    copied.__class__ = kinds[role]
    # Past the module's own setter, which looks for parameters in each.
    copied.__dict__.update(kept=kept.value, differences=kept.differences, factors=kept.factors)
    return copied


def _with_modules(module: nn.Module, replaced: dict[str, nn.Module]) -> nn.Module:
    copied = _copied(module)
    copied.__dict__["_modules"] = module._modules | replaced
    return copied


def _copied(module: nn.Module) -> Any:
    # It holds the module's own dictionaries of parameters and hooks, and so follows them.
    copied = copy.copy(module)
    copied.__dict__.pop("forward", None)
    return copied


def kept_like(
    transformer: nn.Module, sites: tuple[str, ...], gates: set[int], args: tuple, kwargs: dict
) -> dict[int, Tensor]:
    """Tensors for what gates keep, found by one call of the model that is otherwise thrown away."""
    blanks = {gate: Placeholder() for gate in gates}
    stack: Any = transformer.transformer_blocks
    every_gate = range(len(sites) * len(stack))
    roles: tuple[Role, ...] = tuple(_role(True, gate in gates) for gate in every_gate)
    kept = {gate: SiteBuffers(value=blank) for gate, blank in blanks.items()}
    with torch.no_grad():
        variant(transformer, sites, roles, kept).forward(*args, **kwargs)
    # A model may leave out a site, which then keeps nothing.
    return {gate: blank.tensor for gate, blank in blanks.items() if blank.tensor is not None}
