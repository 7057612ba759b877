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
from dqar.integration.served_models import (
    refuse_branch_order,
    refuse_branches,
    refuse_third_branch,
)
from dqar.integration.step_counter import Run
from dqar.integration.transformer_patch import uncompiled
from dqar.integration.wrapper import DQARWrapper
from dqar.policy.network import ReusePolicy

BRANCHES = (CONDITIONAL, UNCONDITIONAL)
"""The order in which DiT pipelines stack the guidance branches of a batch."""


class DQARDiTWrapper(DQARWrapper):
    """A patched transformer, which is called like the transformer itself, once a step.

    Inside :meth:`run` each call is one sampling step; outside a run the model behaves as if it
    were not patched. A copy of the wrapper is patched and has its own controller; a copy of the
    transformer alone is not patched. The transformer may be compiled before or after patching.

    Args:
        transformer: a diffusers transformer of a served family.
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
        refuse_third_branch(uncompiled(transformer))
        super().__init__((transformer,), config, policy=policy, controller=controller, sites=sites)

    def __reduce__(self) -> tuple:
        # A copied transformer is not patched, so the copied wrapper patches it.
        return _rewrapped, (self.transformer, self.controller, self.slot.sites)

    @property
    def transformer(self) -> Any:
        """The patched transformer; it may be replaced by its compiled form."""
        return self.transformers[0]

    @transformer.setter
    def transformer(self, transformer: Any) -> None:
        self.transformers = (transformer,)

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
    def run(  # pyright: ignore[reportIncompatibleMethodOverride] the number of branches is declared
        self,
        scheduler: Any,
        *,
        num_branches: int,
        prompt_length: int | Tensor | None = None,
        controller: DQARController | None = None,
    ) -> Iterator[DQARController]:
        """Enter a sampling run, in which each call of the transformer is the step of its timestep.

        The first call may come at any of the scheduler's timesteps, each later call at the next.

        Args:
            scheduler: its timesteps may be set inside the run, before the first call.
            num_branches: number of guidance branches stacked in each batch.
            prompt_length: tokens of the prompt, one number or one for each sample; by default those
                that the masks or embeddings of the first call show, and 16 for class labels.
            controller: used in place of the wrapper's controller.

        Raises:
            ValueError: if the controller is in another run, or is made for other sites or another
                number of blocks, or if the model's settings changed after patching so that reuse
                is not possible.
        """
        refuse_branches(num_branches)
        controller = self._accepted(controller)
        refuse_branch_order(uncompiled(self.transformer), controller.config.cross_branch_threshold)
        order = BRANCHES if num_branches == len(BRANCHES) else ()
        run = Run(scheduler, controller, num_branches, prompt_length, order=order)
        with self._entered(run, order):
            yield controller

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.transformer(hidden_states, *args, **kwargs)

    def unpatch(self) -> Any:
        """Restore the transformer and return it."""
        super().unpatch()
        return self.transformer


def _rewrapped(
    transformer: Any, controller: DQARController, sites: tuple[str, ...]
) -> DQARDiTWrapper:
    return DQARDiTWrapper(transformer, controller=controller, sites=sites)
