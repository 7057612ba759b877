"""Reuse as a cache of diffusers: applied to a transformer alone, without its pipeline.

The cache is built on diffusers' hooks, so that it composes with offloading, adapters, compilation
and other hooks. Steps are those that :class:`dqar.integration.cache_run.CacheRun` counts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from torch import nn

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.control.summary import ReuseSummary
from dqar.gates.rules import Interval
from dqar.integration.cache_run import ASCENDING, CacheRun
from dqar.integration.forward_patch import Replacement, untraced_class
from dqar.integration.guidance.model_call import ModelCall
from dqar.integration.run_slot import RunSlot
from dqar.integration.sites import attach, gate_table
from dqar.integration.step_hook import StepHook, hook_outputs
from dqar.integration.transformer_patch import num_heads_of, uncompiled
from dqar.policy.network import ReusePolicy
from dqar.schedules.static_plan import StaticPlan

ROOT, SITE = "dqar_cache", "dqar_cache_site"
"""Names of the hooks on the transformer and on its sites."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DQARCacheConfig:
    """The schedule of a cache: a plan, a policy, or an interval."""

    plan: StaticPlan | None = None
    """Plan to follow. If it holds timesteps, each call is the step of its timestep; otherwise the
    first call of a run is step 0."""
    policy: ReusePolicy | None = None
    """Policy to follow, for as many steps as it was trained for."""
    interval: int | None = None
    """Compute every ``interval``-th step and reuse at all others."""
    sites: tuple[str, ...] | None = None
    """Sites to reuse by ``interval``, ``attn`` by default; a plan and a policy have their own."""
    forecast_order: Literal[0, 1, 2] = 0
    """Order of the forecasts that ``interval`` shows; a plan and a policy have their own."""
    quantization_bits: Literal[2, 4, 8, 16, 32] = 8
    """Bits of a cached value of a plan or an interval."""
    rises: bool | None = None
    """True if the transformer is called with timesteps that rise from noise to data; None knows it
    for diffusers' own pipelines."""

    def __post_init__(self) -> None:
        given = [name for name in ("plan", "policy", "interval") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "A cache must have one of plan, policy and interval. Got "
                f"{', '.join(given) or 'none'}. Pass one of them, such as interval=2."
            )
        if self.interval is None and (self.sites is not None or self.forecast_order):
            raise ValueError(
                f"sites and forecast_order must come with interval. Got {self.sites} and "
                f"{self.forecast_order} beside {given[0]}, which has its own. Leave them out."
            )
        if self.interval is not None and self.interval < 1:
            raise ValueError(f"interval must be at least 1. Got {self.interval}. Pass 2.")
        if (reader := self.controller().snr_reader) is not None:
            raise ValueError(
                f"A cache must not read the SNR, since it knows no scheduler. Got {reader}. Patch "
                "the pipeline with patch_pipeline, or pass a plan."
            )

    def controller(self) -> DQARController:
        """Make a controller that follows the schedule."""
        if self.policy is not None:
            return DQARController.of_policy(self.policy)
        if self.plan is not None:
            return DQARController(self._stored(self.plan.config()), gate=self.plan.gate())
        sites = {} if self.sites is None else {"sites": self.sites}
        config = DQARConfig(forecast_order=self.forecast_order, **sites)
        return DQARController(self._stored(config), gate=Interval(self.interval or 1))

    def _stored(self, config: DQARConfig) -> DQARConfig:
        return replace(config, quantization_bits=self.quantization_bits)

    @property
    def total(self) -> int | None:
        """Number of steps; None if any number fits."""
        if self.plan is not None:
            return self.plan.steps
        return None if self.policy is None else self.policy.spec.steps or None


class AppliedCache:
    """The cache of one transformer, which keeps the run of each thread."""

    def __init__(self, transformer: nn.Module, config: DQARCacheConfig) -> None:
        self.config = config
        chosen = config.controller().config
        self.slot = RunSlot(chosen.sites, chosen.cached)
        self.table = gate_table(transformer, chosen.sites)
        config.controller().bind(self.table)
        if config.plan is not None:
            config.plan.refuse_misfit(
                self.table, config.plan.timesteps or [0.0] * config.plan.steps
            )
        self.num_heads = num_heads_of(transformer)
        rises = config.rises
        self.rises = type(transformer).__name__ in ASCENDING if rises is None else rises
        self._of_thread = threading.local()

    @property
    def controller(self) -> DQARController:
        """Controller of this thread's runs."""
        if not hasattr(self._of_thread, "controller"):
            self._of_thread.controller = self.config.controller()
        return self._of_thread.controller

    def before_call(self, call: ModelCall, num_steps: int | None) -> None:
        """Open the step of a call, in a new run if the call begins one.

        Args:
            num_steps: number of steps that the pipeline told, if it did.
        """
        run = self.slot.run
        if not isinstance(run, CacheRun) or run.is_over(call):
            self.finish()
            self.slot.hold(run := self._new_run(num_steps))
        run.before_call(call)

    def _new_run(self, num_steps: int | None) -> CacheRun:
        total, plan = self.config.total, self.config.plan
        if total is not None and num_steps not in (None, total):
            raise ValueError(
                f"The cache must be made for the run's number of steps. Got one for {total}, for a "
                f"run of {num_steps}. Sample with {total} steps, or apply another plan."
            )
        self.controller.bind(self.table, self.num_heads)
        return CacheRun(
            self.controller,
            timesteps=() if plan is None else plan.timesteps,
            total=total or num_steps,
            rises=self.rises,
        )

    def finish(self) -> None:
        """Close the last step of this thread's run."""
        run = self.slot.run
        if isinstance(run, CacheRun):
            self.slot.hold(None)
            run.finish()

    def reset(self) -> None:
        """End this thread's run and release what it cached, as pipelines ask at their end."""
        self.finish()
        self.controller.free_cache()

    def summary(self) -> ReuseSummary:
        """Counts of what this thread's last run reused and computed."""
        return self.controller.summary()


class CacheStepHook(StepHook):
    """The hook that opens the step of each call of a transformer with a cache."""

    def __init__(self, applied: AppliedCache, root: Any) -> None:
        super().__init__(applied.slot)
        self.applied = applied
        self.root = root

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        context = self.root.state.told
        name = None if context is None else context.name
        call = ModelCall.of(module, args, kwargs or {}, name)
        self.applied.before_call(call, getattr(context, "num_inference_steps", None))
        self.refuse_checkpointing(module)


def apply_dqar_cache(transformer: Any, config: DQARCacheConfig) -> Any:
    """Cache a transformer's sites by a schedule, as diffusers' ``apply_*_cache`` functions do.

    The pipeline stays as it is; guidance is found in the calls. A new run begins where the timestep
    jumps back towards noise, the batch or its size changes, the steps of the schedule are done, or
    the pipeline resets its hooks. Apply this cache before group offloading, whose hooks must see
    every block.

    Example::

        cache = apply_dqar_cache(pipe.transformer, DQARCacheConfig(interval=2, sites=("stack",)))
        pipe("a lighthouse")
        print(cache.summary().note)
        remove_dqar_cache(pipe.transformer)

    Returns:
        The cache; its ``summary()`` counts what the last run reused.

    Raises:
        ValueError: if the transformer has the cache already, cannot be patched, or is none that the
            plan or policy was made for.
    """
    from diffusers.hooks.hooks import HookRegistry

    model = uncompiled(transformer)
    registry = HookRegistry.check_if_exists_or_initialize(model)
    if registry.get_hook(ROOT) is not None:
        raise ValueError(
            "A transformer must have one DQAR cache. Got one that has it. Call "
            "remove_dqar_cache(transformer) first."
        )
    applied = AppliedCache(model, config)
    for replaced in reversed(sites := attach(model, applied.slot)):
        replaced.restore()
    for replaced in sites:
        _register(replaced.module, _site_hook(replaced), SITE)
    root = _root_hook(applied)
    _register(model, root, ROOT)
    step = untraced_class(CacheStepHook)(applied, root)
    root.handles = [
        model.register_forward_pre_hook(step, with_kwargs=True),
        hook_outputs(model, applied.slot),
    ]
    registry.invalidate_child_registries_cache()
    return applied


def remove_dqar_cache(transformer: Any) -> None:
    """Undo :func:`apply_dqar_cache`; the transformer then computes the same bits as before it.

    Raises:
        ValueError: if the transformer has no DQAR cache.
    """
    from diffusers.hooks.hooks import HookRegistry

    model = uncompiled(transformer)
    registry = HookRegistry.check_if_exists_or_initialize(model)
    root = registry.get_hook(ROOT)
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
            _unregister(module, name)
    registry.invalidate_child_registries_cache()


@cache
def _hook_classes() -> tuple[type, type]:
    """Classes of the hooks on the transformer and on its sites; diffusers is imported here."""
    from diffusers.hooks.hooks import ModelHook, StateManager

    class Contexts(StateManager):
        """The context that the pipeline sets; the state itself is in the controller."""

        def __init__(self) -> None:
            super().__init__(object)  # pyright: ignore[reportArgumentType] no state is made

        @property
        def told(self) -> Any:
            """The current context; None where the pipeline sets none."""
            return self._context

    class RootHook(ModelHook):
        """The hook on the transformer, which hears the pipeline's contexts and its resets."""

        _is_stateful = True
        handles: tuple[Any, ...] = ()

        def __init__(self, applied: AppliedCache) -> None:
            super().__init__()
            self.applied = applied
            self.state = Contexts()

        def reset_state(self, module: nn.Module) -> nn.Module:
            self.applied.reset()
            return module

    class SiteHook(ModelHook):
        """The hook on a site, which runs it under the controller."""

        def __init__(self, replaced: Any) -> None:
            super().__init__()
            self.replaced = replaced
            replaced.inner = self.computed

        def computed(self, *args: Any, **kwargs: Any) -> Any:
            return self.fn_ref.original_forward(*args, **kwargs)

        def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            del module
            return self.replaced(*args, **kwargs)

    return RootHook, SiteHook


def _root_hook(applied: AppliedCache) -> Any:
    return _hook_classes()[0](applied)


def _site_hook(replaced: Replacement) -> Any:
    return _hook_classes()[1](replaced)


def _register(module: nn.Module, hook: Any, name: str) -> None:
    from diffusers.hooks.hooks import HookRegistry

    HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, name)
    hook.forward = module.forward


def _unregister(module: nn.Module, name: str) -> None:
    registry: Any = getattr(module, "_diffusers_hook", None)
    hook = None if registry is None else registry.get_hook(name)
    if hook is None:
        return
    on_top = module.__dict__.get("forward")
    is_last = registry._hook_order[-1] == name
    registry.remove_hook(name, recurse=False)
    if is_last and on_top is not hook.forward:
        # Offloading replaced the forward since, and calls the hook's; without the hook it passes on.
        module.forward = on_top  # pyright: ignore[reportAttributeAccessIssue] a function
    elif getattr(module.forward, "__self__", None) is module:
        module.__dict__.pop("forward", None)
