"""Variants of a transformer, one for each distinct step of a plan: copies that share its weights.

In a variant each site has one role: it computes, it computes and keeps the result, or it reuses the
kept result or its forecast (:mod:`dqar.integration.compiled.buffers`). The code of a variant has a
single path, which dynamo traces without breaks. The transformer itself is not changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from jaxtyping import Bool
from torch import Tensor, nn

from dqar.gate_table import GateTable
from dqar.integration.compiled.buffers import (
    NOTHING,
    Placeholder,
    SiteBuffers,
    output_kinds,
    residual_kinds,
)
from dqar.integration.compiled.stack_variant import KeepingStack, ReusingStack
from dqar.schedules.forecast_factors import orders_read
from dqar.schedules.static_plan import Action, StaticPlan

Role = Literal["compute", "keep", "reuse"]
"""Role of a site in one variant; ``keep`` computes a value that a later step reads."""
Part = tuple[Role, SiteBuffers]
"""Role and buffers of a site."""
MODULES = {"attn": "attn1", "ff": "ff"}
"""Attribute of a block that holds each site; the site ``block`` is the block itself."""
Compiler = Callable[[tuple[tuple[Role, int], ...]], Callable[..., Any]]
"""A function that compiles blocks for given roles and numbers of differences of their sites. The
compiled function takes a block and the block's arguments."""


def roles_of(plan: StaticPlan) -> dict[tuple[Action, ...], tuple[Role, ...]]:
    """Return the roles of all gates, for each distinct step of a plan.

    Steps that compute the same gates share their roles, and so a variant: a gate keeps its value
    if a later step reads it in any of these steps. Forecasts of different orders share a role,
    since they differ only in coefficients.
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
    """Return a copy of a transformer in which each site has its role.

    Args:
        roles: role of each gate, site-major.
        kept: buffers by gate, which sites write and read in place.
        compiler: compiles each block separately; None does not compile blocks.
    """
    make = _stack_variant if sites == ("stack",) else _blocks_variant
    blocks = make(transformer.transformer_blocks, sites, roles, kept, compiler)
    return _with_modules(transformer, {"transformer_blocks": nn.ModuleList(blocks)})


def _blocks_variant(
    stack: Any,
    sites: tuple[str, ...],
    roles: tuple[Role, ...],
    kept: Mapping[int, SiteBuffers],
    compiler: Compiler | None,
) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for layer, block in enumerate(stack):
        gates = [place * len(stack) + layer for place in range(len(sites))]
        parts: list[Part] = [(roles[gate], kept.get(gate, NOTHING)) for gate in gates]
        copied = _block_variant(block, sites, parts)
        blocks.append(copied)
        if compiler is not None:
            region = compiler(tuple((role, _num_differences(role, held)) for role, held in parts))
            blocks[layer] = _compiled(copied, region)
    return blocks


def _stack_variant(
    stack: Any,
    sites: tuple[str, ...],
    roles: tuple[Role, ...],
    kept: Mapping[int, SiteBuffers],
    compiler: Compiler | None,
) -> list[nn.Module]:
    del sites
    blocks = list(stack)
    if compiler is not None:
        region = compiler((("compute", 0),))
        blocks = [_compiled(_copied(block), region) for block in blocks]
    if roles == ("compute",):
        return blocks
    kind = KeepingStack if roles == ("keep",) else ReusingStack
    return [kind(blocks, kept[0])]


def _compiled(block: Any, region: Callable[..., Any]) -> Any:
    """Return a copy of a block whose ``forward`` is compiled; it calls that of the block itself."""
    outer = copy.copy(block)
    outer.forward = partial(region, block)
    return outer


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
    # Written to __dict__, since nn.Module.__setattr__ searches each value for parameters.
    copied.__dict__.update(kept=kept.value, differences=kept.differences, factors=kept.factors)
    return copied


def _with_modules(module: nn.Module, replaced: dict[str, nn.Module]) -> nn.Module:
    copied = _copied(module)
    copied.__dict__["_modules"] = module._modules | replaced
    return copied


def _copied(module: nn.Module) -> Any:
    # A shallow copy shares the dictionaries of parameters and hooks, and so follows changes.
    copied = copy.copy(module)
    copied.__dict__.pop("forward", None)
    return copied


def allocating_variant(
    transformer: nn.Module, sites: tuple[str, ...], gates: set[int]
) -> tuple[nn.Module, Callable[[], dict[int, Tensor]]]:
    """Return a variant that computes everything and allocates a buffer for the value of each of
    ``gates``, and a function that returns these buffers by gate once the variant has run."""
    blanks = {gate: Placeholder() for gate in gates}
    stack: Any = transformer.transformer_blocks
    num_gates = GateTable.regular(sites, len(stack)).num_gates
    roles: tuple[Role, ...] = tuple(_role(True, gate in gates) for gate in range(num_gates))
    kept = {gate: SiteBuffers(value=blank) for gate, blank in blanks.items()}

    def values() -> dict[int, Tensor]:
        # A site that the model never calls has no buffer.
        return {gate: blank.tensor for gate, blank in blanks.items() if blank.tensor is not None}

    return variant(transformer, sites, roles, kept), values
