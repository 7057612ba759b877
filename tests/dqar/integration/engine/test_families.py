"""Every family is right, site by site: closed, reused, exposed, and in mixed batches."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.integration.sites import gate_table, stacks_of
from tests.dqar.integration.engine.driver import STEPS, Sampled, sample
from tests.dqar.integration.engine.models import CASES

# Mochi's rotary embeddings ask for float32 autocast, which CPUs do not have.
pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")

CELLS = [(name, sites) for name, case in CASES.items() for sites in case.sites]
cells = pytest.mark.parametrize(
    ("name", "sites"), CELLS, ids=[f"{name}-{'+'.join(sites)}" for name, sites in CELLS]
)
TOLERANCE = 1e-5


@pytest.fixture
def case_of(request):
    built: dict[str, Any] = {}

    def build(name: str) -> Any:
        if name not in built:
            built[name] = CASES[name], CASES[name].build()
        return built[name]

    return build


def site_modules(model: Any, sites: tuple[str, ...]) -> list[Any]:
    """The modules of all sites, blocks for ``block`` and ``stack``."""
    found: list[Any] = []
    for placed in stacks_of(model):
        for place, block in enumerate(placed.blocks):
            modules = [
                placed.module(placed.stack.sites[site], place)
                for site in sites
                if site in placed.stack.sites
            ]
            found += modules or ([block] if sites[0] in ("block", "stack") else [])
    return [module for module in found if module is not None]


def replay(case: Any, model: Any, sites: tuple[str, ...], reuses: torch.Tensor) -> torch.Tensor:
    """Sample with hooks that put earlier outputs in place of computed ones.

    Args:
        reuses: by step and sample.
    """
    handles, step = [], [0]
    whole = sites[0] in ("block", "stack")

    def hook(kept, module, args, kwargs, output):
        given = [*args, *kwargs.values()]
        outputs = output if isinstance(output, tuple) else (output,)
        entries = [
            next(
                (
                    one
                    for one in given
                    if isinstance(one, torch.Tensor) and one.shape == value.shape and whole
                ),
                None,
            )
            if value is not None
            else None
            for value in outputs
        ]
        shown = []
        for place, (value, entry) in enumerate(zip(outputs, entries, strict=True)):
            if value is None:
                shown.append(None)
                continue
            fold = len(value) // len(reuses[0])
            reuse = reuses[step[0]].repeat_interleave(fold).view(-1, *(1,) * (value.ndim - 1))
            change = value if entry is None else value - entry
            before = kept.get(place, change)
            kept[place] = torch.where(reuse, before, change)
            shown.append(torch.where(reuse, before if entry is None else entry + before, value))
        return tuple(shown) if isinstance(output, tuple) else shown[0]

    for module in site_modules(model, sites):
        handles.append(module.register_forward_hook(partial(hook, {}), with_kwargs=True))
    latents = sample(case, model, [*range(len(reuses[0]))], lambda at: step.__setitem__(0, at))
    for handle in handles:
        handle.remove()
    return latents


@cells
def test_a_family_is_right(case_of, name, sites, distance):
    case, model = case_of(name)
    everyone = [0, 1, 2]
    stock = sample(case, model, everyone)
    closed = Sampled(case, model, sites, NeverReuse(), everyone)
    assert torch.equal(closed.latents, stock)

    open_run = Sampled(case, model, sites, Interval(2), everyone)
    by_hand = replay(case, model, sites, (torch.arange(STEPS) % 2 == 1)[:, None].expand(-1, 3))
    assert distance(by_hand, stock) > 3e-5
    # One residual of a stack is the sum of its blocks' residuals, up to rounding.
    close = TOLERANCE if sites == ("stack",) else 1e-6
    assert distance(open_run.latents, by_hand) < close
    gates = gate_table(model, sites).num_gates
    assert open_run.controller.summary().reused == gates * 3 * (STEPS // 2)

    mask = torch.zeros(STEPS, 1, 3, dtype=torch.bool)
    mask[1::2, :, 1], mask[1:, :, 2] = True, True
    for exposure in (False, True):
        mixed = Sampled(case, model, sites, MaskGate(mask), everyone, exposure=exposure)
        assert distance(mixed.latents[[0]], stock[[0]]) < TOLERANCE
        assert distance(mixed.latents[[1]], open_run.latents[[1]]) < TOLERANCE
        assert distance(mixed.latents, replay(case, model, sites, mask[:, 0])) < TOLERANCE
    alone = Sampled(case, model, sites, MaskGate(mask[..., 2:]), [2])
    assert distance(alone.latents, mixed.latents[[2]]) < TOLERANCE
    assert torch.equal(sample(case, model, everyone), stock)
