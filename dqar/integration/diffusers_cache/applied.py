"""The cache of one transformer: its runs, one in each thread."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from dqar.control.controller import DQARController
from dqar.control.summary import ReuseSummary
from dqar.integration.diffusers_cache.cache_run import ASCENDING, CacheRun
from dqar.integration.diffusers_cache.config import DQARCacheConfig
from dqar.integration.guidance.model_call import ModelCall
from dqar.integration.run_slot import RunSlot
from dqar.integration.sites import gate_table
from dqar.integration.step_hook import StepHook
from dqar.integration.transformer_patch import num_heads_of


class AppliedCache:
    """The cache of one transformer, which keeps the run of each thread.

    Raises:
        ValueError: if the transformer is none that the plan or policy was made for, or lacks a
            site.
    """

    def __init__(self, transformer: nn.Module, config: DQARCacheConfig) -> None:
        self.config = config
        controller = config.controller()
        chosen = controller.config
        self.slot = RunSlot(chosen.sites, chosen.cached)
        self.table = gate_table(transformer, chosen.sites)
        self.num_heads = num_heads_of(transformer)
        controller.bind(self.table, self.num_heads)
        if (plan := config.plan) is not None:
            plan.refuse_misfit(self.table, plan.timesteps or [0.0] * plan.steps)
        if config.policy is not None:
            _refuse_other_depth(config.policy.spec.num_layers, self.table.num_layers)
        ascends = type(transformer).__name__ in ASCENDING
        self.rises = ascends if config.rises is None else config.rises
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
            num_steps: number of steps, if the pipeline named it in ``cache_context``.
        """
        if isinstance(call.timestep, Tensor):
            # Read once: whether a call begins another run must be known before it.
            call = replace(call, timestep=call.timestep.cpu())
        run = self.slot.run
        if not isinstance(run, CacheRun) or run.is_over(call):
            self.finish()
            self.slot.hold(run := self._new_run(num_steps))
        run.before_call(call)

    def _new_run(self, num_steps: int | None) -> CacheRun:
        total = self.config.total
        if total is not None and num_steps not in (None, total):
            raise ValueError(
                f"The cache must be made for the run's number of steps. Got one for {total}, for a "
                f"run of {num_steps}. Sample with {total} steps, or apply another plan."
            )
        self.controller.bind(self.table, self.num_heads)
        return CacheRun(
            self.controller,
            timesteps=self.config.timesteps,
            total=total or num_steps,
            rises=self.rises,
        )

    def finish(self) -> None:
        """Close the last step of this thread's run, with a warning if it has fewer steps than the
        plan."""
        run = self.slot.run
        if isinstance(run, CacheRun):
            self.slot.hold(None)
            run.finish()
            run.warn_of_early_end()

    def reset(self) -> None:
        """End this thread's run and release what it cached, as pipelines ask at their end."""
        try:
            self.finish()
        finally:
            self.controller.free_cache()

    def summary(self) -> ReuseSummary:
        """Counts of what this thread's last run reused and computed, with a warning if it has fewer
        steps than the plan."""
        run = self.slot.run
        if isinstance(run, CacheRun):
            run.warn_of_early_end()
        return self.controller.summary()


def _refuse_other_depth(trained: int, num_layers: int) -> None:
    if trained not in (0, num_layers):
        raise ValueError(
            f"The policy must be trained for the model. Got one of {trained} blocks for "
            f"{num_layers}. Pass the policy of this model."
        )


class CacheStepHook(StepHook):
    """The hook that opens the step of each call of a transformer with a cache.

    Args:
        root: the diffusers hook that hears the pipeline's contexts.
    """

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
