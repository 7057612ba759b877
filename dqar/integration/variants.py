"""Copies of a transformer that share its weights, each with the sites of one step of a plan.

A site of a copy computes, or computes and keeps what it computed, or returns what was kept: plain
code of one path, which dynamo traces whole. The transformer itself is left as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Literal, no_type_check

import torch
from torch import Tensor, nn

from dqar.plan import Action, StaticPlan

Role = Literal["compute", "keep", "reuse"]
"""What a site does in one variant; ``keep`` computes what a later step reuses."""
MODULES = {"attn": "attn1", "ff": "ff"}
"""Where a block has its sites; it is itself the site ``block``."""
Compiler = Callable[[tuple[Role, ...]], Callable[..., Any]]
"""Compiles a block whose sites have these roles: a function of the block and its arguments."""


def roles_of(plan: StaticPlan) -> dict[tuple[Action, ...], tuple[Role, ...]]:
    """Roles by gate, for each distinct step of a plan.

    A gate keeps where any step like this one is followed by a reuse, so that steps which compute
    the same share a variant.
    """
    followed: dict[tuple[Action, ...], set[int]] = {row: set() for row in plan.table}
    for row, after in zip(plan.table, plan.table[1:], strict=False):
        followed[row] |= {gate for gate, action in enumerate(after) if action is Action.REUSE}
    return {
        row: tuple(_role(action, gate in kept) for gate, action in enumerate(row))
        for row, kept in followed.items()
    }


def _role(action: Action, is_followed: bool) -> Role:
    if action is Action.REUSE:
        return "reuse"
    return "keep" if is_followed else "compute"


def variant(
    transformer: nn.Module,
    sites: tuple[str, ...],
    roles: tuple[Role, ...],
    kept: Mapping[int, Any],
    compiler: Compiler | None = None,
) -> nn.Module:
    """A copy of a transformer in which each site has its role.

    Args:
        roles: by gate, site-major.
        kept: by gate, tensors that sites write to and read from in place.
        compiler: makes each block a compiled region of its own.
    """
    blocks: list[nn.Module] = []
    stack: Any = transformer.transformer_blocks
    for layer, block in enumerate(stack):
        gates = [place * len(stack) + layer for place in range(len(sites))]
        copied = _block_variant(block, sites, [(roles[gate], kept.get(gate)) for gate in gates])
        blocks.append(copied)
        if compiler is not None:
            region = compiler(tuple(roles[gate] for gate in gates))
            # A copy of the copy, since what is compiled must not find itself for a forward.
            blocks[layer] = copy.copy(copied)
            blocks[layer].forward = partial(region, copied)
    return _with_modules(transformer, {"transformer_blocks": nn.ModuleList(blocks)})


def _block_variant(block: nn.Module, sites: tuple[str, ...], parts: list[tuple]) -> nn.Module:
    if sites == ("block",):
        return _site_variant(block, _residual_kinds(type(block)), *parts[0])
    replaced = {}
    for site, (role, kept) in zip(sites, parts, strict=True):
        module = getattr(block, MODULES[site])
        replaced[MODULES[site]] = _site_variant(module, _output_kinds(type(module)), role, kept)
    return _with_modules(block, replaced)


def _site_variant(module: nn.Module, kinds: dict[str, Any], role: Role, kept: Any) -> nn.Module:
    if role == "compute":
        return module
    copied = _copied(module)
    copied.__class__ = kinds[role]
    copied.kept = kept
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


class Blank:
    """Stands in for a kept tensor in a call that finds out what it must be like."""

    tensor: Tensor | None = None

    def copy_(self, output: Tensor) -> None:
        """Allocate what will hold such outputs."""
        # Written to in later calls, which may be in inference mode or not.
        with torch.inference_mode(False):
            self.tensor = torch.zeros_like(output)


@cache
def _output_kinds(kind: type[nn.Module]) -> dict[str, type[nn.Module]]:
    # Classes and no wrappers, since transformers read attributes of their blocks; unchecked,
    # since dynamo cannot trace through a type checker.
    inner: Any = kind.forward

    @no_type_check
    class Keeping(kind):
        kept: Tensor | Blank

        def forward(self, hidden_states, *args, **kwargs):
            output = inner(self, hidden_states, *args, **kwargs)
            self.kept.copy_(output.detach())
            return output

    @no_type_check
    class Reusing(kind):
        kept: Tensor

        def forward(self, hidden_states, *args, **kwargs):
            del hidden_states, args, kwargs
            return self.kept

    return {"keep": Keeping, "reuse": Reusing}


@cache
def _residual_kinds(kind: type[nn.Module]) -> dict[str, type[nn.Module]]:
    inner: Any = kind.forward

    @no_type_check
    class Keeping(kind):
        kept: Tensor | Blank

        def forward(self, hidden_states, *args, **kwargs):
            # What the block returned is a rounding away from the sum with its residual.
            returned = inner(self, hidden_states, *args, **kwargs)
            self.kept.copy_((returned - hidden_states).detach())
            return returned

    @no_type_check
    class Reusing(kind):
        kept: Tensor

        def forward(self, hidden_states, *args, **kwargs):
            del args, kwargs
            return hidden_states + self.kept

    return {"keep": Keeping, "reuse": Reusing}


def kept_like(
    transformer: nn.Module, sites: tuple[str, ...], gates: set[int], args: tuple, kwargs: dict
) -> dict[int, Tensor]:
    """Tensors for what gates keep, found by one call of the model that is otherwise thrown away."""
    blanks = {gate: Blank() for gate in gates}
    stack: Any = transformer.transformer_blocks
    every_gate = range(len(sites) * len(stack))
    roles: tuple[Role, ...] = tuple(_role(Action.COMPUTE, gate in gates) for gate in every_gate)
    with torch.no_grad():
        variant(transformer, sites, roles, blanks).forward(*args, **kwargs)
    # A model may leave out a site, which then keeps nothing.
    return {gate: blank.tensor for gate, blank in blanks.items() if blank.tensor is not None}
