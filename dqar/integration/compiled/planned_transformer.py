"""A transformer that samples by a static plan, without a controller and without graph breaks.

The variant of the model that a step needs is looked up before the step, not inside the model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dqar.control.error_feedback import ErrorFeedback
from dqar.integration.compiled.buffers import ScheduleBuffers
from dqar.integration.compiled.compilation import Compilation, Regions, fix_address
from dqar.integration.compiled.plan_run import PlanRun, Row
from dqar.integration.compiled.step_variants import (
    MODULES,
    Role,
    allocating_variant,
    roles_of,
    variant,
)
from dqar.integration.forward_patch import (
    Replacement,
    latents_and_timestep,
    refuse_cached,
    untraced_class,
    with_output,
)
from dqar.integration.run_slot import RunSlot
from dqar.integration.served_models import refuse_checkpointing, refuse_unserved
from dqar.integration.sites import blocks_of, detach, refuse_misfits
from dqar.schedules.static_plan import StaticPlan


class PlannedDiT:
    """A transformer patched to sample by a plan inside :meth:`run`; elsewhere it works unpatched.

    The module tree does not change: a step runs on a copy that shares the weights. Runs exclude
    each other, since the buffers are at fixed addresses; other threads use the unpatched model.

    Example::

        planned = PlannedDiT(pipe.transformer, plan, compilation=Compilation())
        with planned.run(pipe.scheduler):
            images = pipe(class_labels=[207], num_inference_steps=plan.steps).images

    Args:
        transformer: a diffusers transformer that is neither compiled nor patched.
        plan: the static plan to sample by.
        compilation: options of ``torch.compile``; None does not compile.

    Raises:
        ValueError: if the plan does not fit, or the model is compiled, patched or chunked.
    """

    def __init__(
        self, transformer: Any, plan: StaticPlan, *, compilation: Compilation | None = None
    ) -> None:
        self.transformer = transformer
        self.plan = plan
        self.compilation = compilation
        self._refuse_misfits()
        self.roles = roles_of(plan)
        self.regions = None if compilation is None else Regions(compilation)
        self._variants: dict[tuple[Role, ...], Any] = {}
        self._memory = ScheduleBuffers(plan, {})
        self._batch: object = None
        self._feedback = ErrorFeedback(0.0)
        self._taken = threading.Lock()
        self._of_thread = threading.local()
        self._detour = untraced_class(Detour)(transformer, self)
        transformer.forward = self._detour

    def __reduce__(self) -> tuple:
        # A copied transformer is not patched, so the copied PlannedDiT patches it.
        return _replanned, (self.transformer, self.plan, self.compilation)

    def _refuse_misfits(self) -> None:
        refuse_unserved(self.transformer)
        blocks = blocks_of(self.transformer)
        self.plan.refuse_misfit(len(blocks), self.plan.timesteps or [0.0] * self.plan.steps)
        refuse_cached(self.transformer)
        self._refuse_patches([self.transformer])

    def _refuse_patches(self, others: Sequence[nn.Module] = ()) -> None:
        refuse_misfits(self.transformer, RunSlot(self.plan.sites, "output"))
        blocks = self.transformer.transformer_blocks
        sites = [getattr(block, name) for block in blocks for name in MODULES.values()]
        if not all(map(_has_its_own_forward, [*others, *blocks, *sites])):
            raise ValueError(
                "A model that follows a plan must be stock and uncompiled. Got one whose forward "
                "was replaced. Undo other patches, pass the model that torch.compile was given, "
                "and enable offloading after PlannedDiT."
            )

    @property
    def config(self) -> Any:
        """The transformer's own configuration."""
        return self.transformer.config

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the transformer's weights."""
        return self.transformer.dtype

    @property
    def device(self) -> torch.device:
        """Device of the transformer's weights."""
        return self.transformer.device

    @property
    def kept_bytes(self) -> int:
        """Bytes of the buffers for the last batch: values, differences and error feedback."""
        return self._memory.nbytes + self._feedback.nbytes

    @property
    def running(self) -> PlanRun | None:
        """The run of this thread, or None."""
        return getattr(self._of_thread, "run", None)

    @contextmanager
    def run(self, scheduler: Any) -> Iterator[PlanRun]:
        """Enter a sampling run, in which each call of the transformer is the step of its timestep.

        The first call may come at any of the scheduler's timesteps, each later call at the next.
        A run that starts late computes every gate at its first call, and then follows the plan.

        Args:
            scheduler: its timesteps may be set inside the run, before the first call.

        Raises:
            ValueError: if the model is in another run, or was patched or chunked since.
        """
        self._refuse_patches()
        if not self._taken.acquire(blocking=False):
            raise ValueError(
                "A model that follows a plan must serve one run at a time. Got one that is "
                "running. Wait for its end, or make a PlannedDiT of a copy of the model."
            )
        self._of_thread.run = run = PlanRun(self.plan, scheduler)
        try:
            yield run
            run.position.finish()
        finally:
            self._of_thread.run = None
            self._taken.release()

    def step(self, run: PlanRun, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return the output at a run's next step; refuse a batch that changed since the first."""
        refuse_checkpointing(self.transformer)
        row = run.next_row(latents_and_timestep(args, kwargs)[1])
        batch = run.first_step, _batch_of(self.transformer, args, kwargs)
        if run.step == 0:
            output = self._first_output(run.plan, batch, args, kwargs)
        elif batch != self._batch:
            raise ValueError(
                "The batch must stay the same from step 0 on. Got another shape, dtype or device. "
                "Begin a new run."
            )
        else:
            output = self._output(run.step, row, args, kwargs)
        # Action.COMPUTE is 0; every other action reuses.
        share = torch.tensor([sum(map(bool, row)) / len(row)], dtype=torch.float64)
        return with_output(output, partial(self._feedback.through, share=share))

    def _output(self, step: int, row: Row, args: tuple, kwargs: dict[str, Any]) -> Any:
        self._memory.begin_step(step)
        roles = self.roles[row]
        if roles not in self._variants:
            self._variants[roles] = self._variant(roles)
        return self._variants[roles](*args, **kwargs)

    def _first_output(
        self, plan: StaticPlan, batch: object, args: tuple, kwargs: dict[str, Any]
    ) -> Any:
        self._feedback = ErrorFeedback(self.plan.feedback)
        # Cleared in each run, so that adapters and processors set since then take effect.
        self._variants.clear()
        if batch == self._batch:
            self._memory.begin_run()
            return self._output(0, plan.table[0], args, kwargs)
        # The first step of a batch shape runs uncompiled and allocates the buffers.
        self._forget()
        self.roles = roles_of(plan)
        gates = {gate for roles in self.roles.values() for gate in _kept_by(roles)}
        first, values = allocating_variant(self.transformer, plan.sites, gates)
        output = first.forward(*args, **kwargs)
        self._memory = ScheduleBuffers(plan, values())
        self._batch = batch
        if self.regions is not None:
            for tensor in self._memory.tensors:
                fix_address(tensor)
        return output

    def _forget(self) -> None:
        self._memory, self._batch = ScheduleBuffers(self.plan, {}), None

    def _variant(self, roles: tuple[Role, ...]) -> Callable[..., Any]:
        kept = self._memory.gates
        build = partial(variant, self.transformer, self.plan.sites, roles, kept)
        if self.regions is None:
            return build().forward
        if self.regions.compilation.region == "block":
            return self.regions.kept_apart(build(self.regions).forward)
        return self.regions.kept_apart(partial(self.regions(roles), build()))

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.transformer(hidden_states, *args, **kwargs)

    def free_cache(self) -> None:
        """Release the buffers of the last batch; the next run allocates them again. Graphs that
        ``torch.compile`` made are kept, with the buffers whose addresses they hold.

        Raises:
            ValueError: if the model is in a run.
        """
        if not self._taken.acquire(blocking=False):
            raise ValueError(
                "The cache must be freed between runs. Got a model that is in one. Wait for its "
                "end."
            )
        self._forget()
        self._feedback = ErrorFeedback(0.0)
        self._variants.clear()
        self._taken.release()

    def unpatch(self) -> Any:
        """Restore the transformer and return it.

        Raises:
            ValueError: if the transformer was patched again later.
        """
        detach([self._detour])
        return self.transformer


def _replanned(transformer: Any, plan: StaticPlan, compilation: Compilation | None) -> PlannedDiT:
    return PlannedDiT(transformer, plan, compilation=compilation)


class Detour(Replacement):
    """The patched ``forward``: a step of the plan in a run of this thread, else the original."""

    def __init__(self, transformer: nn.Module, planned: PlannedDiT) -> None:
        super().__init__(transformer)
        self.planned = planned

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = self.planned.running
        if run is None:
            return self.inner(*args, **kwargs)
        return self.planned.step(run, args, kwargs)


def _has_its_own_forward(module: nn.Module) -> bool:
    # A copy of a patched module holds its original forward as an instance attribute.
    forward = vars(module).get("forward", module.forward)
    return getattr(forward, "__func__", None) is type(module).forward


def _kept_by(roles: tuple[Role, ...]) -> Iterator[int]:
    return (gate for gate, role in enumerate(roles) if role == "keep")


def _batch_of(transformer: Any, args: tuple, kwargs: dict[str, Any]) -> object:
    """Return the shapes, dtypes, devices and autocast state on which the buffers depend."""
    given = [*enumerate(args), *sorted(kwargs.items())]
    tensors = [
        (name, value.shape, value.dtype, value.device)
        for name, value in given
        if isinstance(value, Tensor)
    ]
    weight = next(transformer.parameters())
    kind = weight.device.type
    autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    return tensors, weight.dtype, weight.device, autocast
