"""The transformers of one pipeline under a controller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.control.summary import ReuseSummary
from dqar.gate_table import GateTable
from dqar.integration.guidance.branch_order import branch_order, require_order
from dqar.integration.run_slot import RunSlot
from dqar.integration.sites import gate_table, refuse_misfits
from dqar.integration.step_counter import Run
from dqar.integration.transformer_patch import TransformerPatch, num_heads_of, uncompiled
from dqar.policy.network import ReusePolicy


class DQARWrapper:
    """The patched transformers of one pipeline, one or two, under one controller.

    Inside :meth:`run` the calls of the transformers are the steps of a sampling run; outside a run
    they behave as if they were not patched. A copy of the wrapper is patched and has its own
    controller; a copy of a transformer alone is not patched. Transformers may be compiled before or
    after patching.

    Args:
        transformers: diffusers transformers that a pipeline calls one after the other, such as the
            two of Wan 2.2. A controller numbers their layers one after the other.
        config: settings of the wrapper's controller; the DQAR paper's by default.
        policy: a learned policy that becomes the last gate of the wrapper's controller.
        controller: the wrapper's controller, in place of ``config`` and ``policy``.
        sites: sites to patch; by default those of the controller's configuration.
        branches: names of two stacked guidance branches in their order in the batch, such as
            ``("uncond", "cond")``; by default that of diffusers' pipelines, where it is known.

    Raises:
        ValueError: if ``config`` or ``controller`` has another type, or a model cannot be patched.
    """

    def __init__(
        self,
        transformers: Sequence[Any],
        config: DQARConfig | None = None,
        *,
        policy: ReusePolicy | None = None,
        controller: DQARController | None = None,
        sites: tuple[str, ...] | None = None,
        branches: tuple[str, ...] = (),
    ) -> None:
        refuse_strangers(config, controller)
        require_order(branches)
        self.transformers = tuple(transformers)
        self.controller = controller or DQARController(config, policy=policy)
        config = self.controller.config
        self.branches = branches
        self.slot = RunSlot(sites or config.sites, config.cached)
        self.table = _joined([gate_table(one, self.slot.sites) for one in self._models])
        self.patches = self._patched()
        self._last: DQARController | None = None

    def _patched(self) -> list[TransformerPatch]:
        patches: list[TransformerPatch] = []
        first_layer, is_alone = 0, len(self.transformers) == 1
        try:
            for transformer in self.transformers:
                patch = TransformerPatch(transformer, self.slot, first_layer, is_alone=is_alone)
                patches.append(patch)
                first_layer += patch.table.num_layers
        except ValueError:
            for patch in reversed(patches):
                patch.remove()
            raise
        return patches

    def __reduce__(self) -> tuple:
        # Copied transformers are not patched, so the copied wrapper patches them.
        return _rewrapped, (self.transformers, self.controller, self.slot.sites, self.branches)

    @property
    def _models(self) -> list[Any]:
        return [uncompiled(one) for one in self.transformers]

    @contextmanager
    def run(
        self,
        scheduler: Any,
        *,
        num_samples: int | None = None,
        prompt_length: int | Tensor | None = None,
        controller: DQARController | None = None,
    ) -> Iterator[DQARController]:
        """Enter a sampling run, in which each call of a transformer is one of the step of its
        timestep. How the pipeline guides is found in its calls.

        The first call may come at any of the scheduler's timesteps, each later step at the next.

        Args:
            scheduler: its timesteps may be set inside the run, before the first call.
            num_samples: samples in a batch, if known; it tells samples of equal noise from guidance
                branches.
            prompt_length: tokens of the prompt, one number or one for each sample; by default those
                that the masks or embeddings of the first call show, and 16 for class labels.
            controller: used in place of the wrapper's controller.

        Raises:
            ValueError: if the controller is in another run, or is made for other sites or another
                number of blocks, or if the model's settings changed after patching so that reuse
                is not possible.
        """
        controller = self._accepted(controller)
        order = self.branches or branch_order(self._models[0])
        run = Run(
            scheduler,
            controller,
            None,
            prompt_length,
            expected_samples=num_samples,
            order=order,
        )
        with self._entered(run, ()):
            yield controller

    def _accepted(self, controller: DQARController | None) -> DQARController:
        """The controller of a run.

        Raises:
            ValueError: as :meth:`run`.
        """
        refuse_strangers(None, controller)
        controller = controller or self.controller
        self._refuse_other_sites(controller)
        for model in self._models:
            refuse_misfits(model, self.slot, controller)
        return controller

    @contextmanager
    def _entered(self, run: Run, branches: tuple[str, ...]) -> Iterator[None]:
        controller = run.controller
        with self.slot.taken_by(run):
            controller.bind(self.table, num_heads_of(self.transformers[0]), branches)
            self._last = controller
            try:
                yield
                run.finish()
            finally:
                controller.drop_step()

    def summary(self) -> ReuseSummary:
        """Counts of what the last run reused and computed.

        Raises:
            ValueError: if no run was made.
        """
        if self._last is None:
            raise ValueError(
                "A summary must follow a run. Got none. Call the pipeline first, then summary()."
            )
        return self._last.summary()

    def _refuse_other_sites(self, controller: DQARController) -> None:
        config, slot = controller.config, self.slot
        if set(config.sites) != set(slot.sites) or config.cached != slot.cached:
            raise ValueError(
                "The controller's sites must be the patched ones. Got "
                f"{config.sites} caching {config.cached} on a model patched for {slot.sites} "
                f"caching {slot.cached}. Patch the model with the controller's configuration."
            )

    def unpatch(self) -> Any:
        """Restore the transformers and return them."""
        for patch in reversed(self.patches):
            patch.remove()
        return self.transformers


def _rewrapped(
    transformers: tuple, controller: DQARController, sites: tuple[str, ...], branches: tuple
) -> DQARWrapper:
    return DQARWrapper(transformers, controller=controller, sites=sites, branches=branches)


def _joined(tables: list[GateTable]) -> GateTable:
    """Gates of several transformers, with their layers one after the other."""
    if len(tables) == 1:
        return tables[0]
    stacks = [
        replace(stack, name=f"{place}.{stack.name}")
        for place, table in enumerate(tables)
        for stack in table.stacks
    ]
    return GateTable(sites=tables[0].sites, stacks=tuple(stacks))


def refuse_strangers(config: Any, controller: Any) -> None:
    """Refuse a configuration or a controller of another type.

    Raises:
        ValueError: naming the argument and its type.
    """
    for name, given, kind in (
        ("config", config, DQARConfig),
        ("controller", controller, DQARController),
    ):
        if given is not None and not isinstance(given, kind):
            raise ValueError(
                f"{name}= must be a {kind.__name__}. Got {type(given).__name__}. "
                "Pass controller=DQARController(DQARConfig()), or config=DQARConfig()."
            )
