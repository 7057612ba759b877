"""Forecasts of skipped steps by other packages, diffusers and cache-dit, on copies of a model."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WARM_STEPS = 2
"""Steps that diffusers' TaylorSeer computes first: its interval counts from one step later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A copy of a model under another package's cache."""

    model: Any
    begin: Callable[[], None]
    """Forgets the last run."""


def taylorseer(model: Any, order: int, period: int) -> Peer:
    """Put diffusers' TaylorSeer on every block of a model.

    It computes the first two steps, and then every ``period``-th from the fourth step on.
    """
    import torch
    from diffusers.hooks import HookRegistry, TaylorSeerCacheConfig, apply_taylorseer_cache
    from diffusers.hooks.hooks import CacheContext, _set_cache_context

    config = TaylorSeerCacheConfig(
        cache_interval=period,
        disable_cache_before_step=WARM_STEPS,
        max_order=order,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[r"transformer_blocks\.\d+"],
    )
    apply_taylorseer_cache(model, config)
    registry = HookRegistry.check_if_exists_or_initialize(model)

    def begin() -> None:
        registry.reset_stateful_hooks()
        # A pipeline opens a cache context, as the state of the hooks is kept by context.
        _set_cache_context(model, CacheContext(name="run"))

    return Peer(model=model, begin=begin)


def cache_dit(model: Any, order: int, computed: Sequence[bool]) -> Peer | None:
    """Put cache-dit on a model, with its TaylorSeer and a mask of computed steps; None where the
    package is not installed.

    It computes the first block of every step, the fewest that it allows.
    """
    with quiet_logging():
        try:
            package = importlib.import_module("cache_dit")
            functors = importlib.import_module("cache_dit.caching.patch_functors")
        except ImportError:
            return None
        cache = package.DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            max_warmup_steps=0,
            num_inference_steps=len(computed),
            steps_computation_mask=[int(one) for one in computed],
            steps_computation_policy="static",
        )
        adapter = package.BlockAdapter(
            transformer=model,
            blocks=model.transformer_blocks,
            forward_pattern=package.ForwardPattern.Pattern_3,
            patch_functor=functors.DiTPatchFunctor(),
            has_separate_cfg=False,
        )
        forecast = package.TaylorSeerCalibratorConfig(taylorseer_order=order)
        package.enable_cache(adapter, cache_config=cache, calibrator_config=forecast)

    def begin() -> None:
        with quiet_logging():
            package.refresh_context(model, cache_config=cache, calibrator_config=forecast)

    return Peer(model=model, begin=begin)


@contextmanager
def quiet_logging() -> Any:
    """Disable messages of level INFO and WARNING, of which cache-dit writes many."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
