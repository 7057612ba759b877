"""A diffusers DiT under a controller, as a callable model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dqar.config import DQARConfig
from dqar.control.branch_sharing import CONDITIONAL, UNCONDITIONAL
from dqar.control.controller import DQARController
from dqar.control.step_control import CLASS_PROMPT_LENGTH
from dqar.integration.forward_patch import hook_outputs, hook_steps
from dqar.integration.run_slot import RunSlot
from dqar.integration.served_models import refuse_branch_order, refuse_branches
from dqar.integration.sites import attach, detach, refuse_misfits
from dqar.integration.step_counter import Run
from dqar.policy.network import ReusePolicy

BRANCHES = (CONDITIONAL, UNCONDITIONAL)
"""The order in which DiT pipelines stack the guidance branches of a batch."""


class DQARDiTWrapper:
    """A patched transformer, which is called like the transformer itself.

    Inside :meth:`run` each call is one sampling step; outside a run the model behaves as if it
    were not patched. A copy of the wrapper is patched and has its own controller; a copy of the
    transformer alone is not patched. The transformer may be compiled before or after patching.

    Args:
        transformer: a diffusers transformer with ``transformer_blocks``.
        config: settings of the wrapper's controller; the DQAR paper's by default.
        policy: a learned policy that becomes the last gate of the wrapper's controller.
        controller: the wrapper's controller, in place of ``config`` and ``policy``.
        sites: sites to patch; by default those of the controller's configuration.

    Raises:
        ValueError: if ``config`` or ``controller`` has another type, or the model cannot be
            patched.
    """

    def __init__(
        self,
        transformer: Any,
        config: DQARConfig | None = None,
        *,
        policy: ReusePolicy | None = None,
        controller: DQARController | None = None,
        sites: tuple[str, ...] | None = None,
    ) -> None:
        refuse_strangers(config, controller)
        self.transformer = transformer
        self.controller = controller or DQARController(config, policy=policy)
        config = self.controller.config
        self.slot = RunSlot(sites or config.sites, config.cached)
        self.reroutes = attach(uncompiled(transformer), self.slot)
        self.hooks = [
            hook(uncompiled(transformer), self.slot) for hook in (hook_steps, hook_outputs)
        ]

    def __reduce__(self) -> tuple:
        # A copied transformer is not patched, so the copied wrapper patches it.
        return _rewrapped, (self.transformer, self.controller, self.slot.sites)

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

    @contextmanager
    def run(
        self,
        scheduler: Any,
        *,
        num_branches: int,
        prompt_length: int | Tensor = CLASS_PROMPT_LENGTH,
        controller: DQARController | None = None,
    ) -> Iterator[DQARController]:
        """Enter a sampling run, in which each call of the transformer is the step of its timestep.

        The first call may come at any of the scheduler's timesteps, each later call at the next.

        Args:
            scheduler: its timesteps may be set inside the run, before the first call.
            num_branches: number of guidance branches stacked in each batch.
            prompt_length: tokens of the prompt, one number or one for each sample.
            controller: used in place of the wrapper's controller.

        Raises:
            ValueError: if the controller is in another run, or is made for other sites or another
                number of blocks, or if the model's settings changed after patching so that reuse
                is not possible.
        """
        refuse_strangers(None, controller)
        controller = controller or self.controller
        refuse_branches(num_branches)
        self._refuse_other_sites(controller)
        refuse_misfits(self.transformer, self.slot)
        refuse_branch_order(uncompiled(self.transformer), controller.config.cross_branch_threshold)
        run = Run(scheduler, controller, num_branches, prompt_length)
        with self.slot.taken_by(run):
            self._bind(controller, num_branches)
            try:
                yield controller
                run.finish()
            finally:
                controller.drop_step()

    def _bind(self, controller: DQARController, num_branches: int) -> None:
        controller.bind(
            len(self.transformer.transformer_blocks),
            self.transformer.config.num_attention_heads,
            BRANCHES if num_branches == len(BRANCHES) else (),
        )

    def _refuse_other_sites(self, controller: DQARController) -> None:
        config, slot = controller.config, self.slot
        if set(config.sites) != set(slot.sites) or config.cached != slot.cached:
            raise ValueError(
                "The controller's sites must be the patched ones. Got "
                f"{config.sites} caching {config.cached} on a model patched for {slot.sites} "
                f"caching {slot.cached}. Patch the model with the controller's configuration."
            )

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.transformer(hidden_states, *args, **kwargs)

    def unpatch(self) -> Any:
        """Restore the transformer and return it."""
        detach(self.reroutes)
        for hook in self.hooks:
            hook.remove()
        return self.transformer


def _rewrapped(
    transformer: Any, controller: DQARController, sites: tuple[str, ...]
) -> DQARDiTWrapper:
    return DQARDiTWrapper(transformer, controller=controller, sites=sites)


def uncompiled(transformer: Any) -> Any:
    """Return the model that ``torch.compile`` was given, or the model itself."""
    # torch.compile(model) returns a module that holds the model as _orig_mod.
    return getattr(transformer, "_orig_mod", transformer)


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
