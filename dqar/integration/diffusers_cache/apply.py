"""Apply a cache to a transformer alone, without its pipeline, and remove it."""

from __future__ import annotations

from typing import Any

from dqar.integration.diffusers_cache.applied import AppliedCache, CacheStepHook
from dqar.integration.diffusers_cache.config import DQARCacheConfig
from dqar.integration.diffusers_cache.hooks import (
    ROOT,
    SITE,
    register,
    registry_of,
    root_hook,
    site_hook,
    unregister,
)
from dqar.integration.forward_patch import refuse_patched, untraced_class
from dqar.integration.sites import attach
from dqar.integration.step_hook import hook_outputs
from dqar.integration.transformer_patch import uncompiled


def apply_dqar_cache(transformer: Any, config: DQARCacheConfig) -> AppliedCache:
    """Cache a transformer's sites by a schedule, as diffusers' ``apply_*_cache`` functions do.

    The pipeline stays as it is; how it guides is found in the calls. A new run begins where the
    timestep jumps back towards noise, where the batch or its size changes, and where the pipeline
    resets its hooks at its end. Apply this cache before group offloading, whose hooks must see
    every block.

    Example::

        cache = apply_dqar_cache(pipe.transformer, DQARCacheConfig(interval=2, sites=("stack",)))
        pipe("a lighthouse")
        print(cache.summary().note)
        remove_dqar_cache(pipe.transformer)

    Returns:
        The cache; its ``summary()`` counts what the last run reused.

    Raises:
        ValueError: if the transformer has the cache already, is patched or cannot be, or is none
            that the plan or policy was made for.
    """
    model = uncompiled(transformer)
    if registry_of(model).get_hook(ROOT) is not None:
        raise ValueError(
            "A transformer must have one DQAR cache. Got one that has it. Call "
            "remove_dqar_cache(transformer) first."
        )
    refuse_patched(model)
    applied = AppliedCache(model, config)
    for replaced in _sites_of(model, applied):
        register(replaced.module, site_hook(replaced), SITE)
    register(model, root := root_hook(applied), ROOT)
    step = untraced_class(CacheStepHook)(applied, root)
    root.handles = (
        model.register_forward_pre_hook(step, with_kwargs=True),
        hook_outputs(model, applied.slot),
    )
    registry_of(model).invalidate_child_registries_cache()
    return applied


def _sites_of(model: Any, applied: AppliedCache) -> list[Any]:
    """The replacements of the sites' ``forward``, taken off again."""
    sites = attach(model, applied.slot)
    for replaced in reversed(sites):
        replaced.restore()
    return [*sites]


def remove_dqar_cache(transformer: Any) -> None:
    """Undo :func:`apply_dqar_cache`; the transformer then computes the same bits as before it.

    Raises:
        ValueError: if the transformer has no DQAR cache.
    """
    model = uncompiled(transformer)
    root = registry_of(model).get_hook(ROOT)
    if root is None:
        raise ValueError(
            "A transformer must have a DQAR cache before it is removed. Got none. Call "
            "apply_dqar_cache(transformer, config) first."
        )
    for handle in root.handles:
        handle.remove()
    root.applied.slot.hold(None)
    for module in model.modules():
        for name in (ROOT, SITE):
            unregister(module, name)
    registry_of(model).invalidate_child_registries_cache()
