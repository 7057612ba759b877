"""A diffusers DiT under a controller, as a callable model or inside a patched pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dqar.config import DQARConfig
from dqar.control.branch_sharing import CONDITIONAL, UNCONDITIONAL
from dqar.control.controller import CLASS_PROMPT_LENGTH, DQARController
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
        _refuse_strangers(config, controller)
        self.transformer = transformer
        self.controller = controller or DQARController(config, policy=policy)
        config = self.controller.config
        self.slot = RunSlot(sites or config.sites, config.cached)
        self.reroutes = attach(_uncompiled(transformer), self.slot)
        self.hooks = [
            hook(_uncompiled(transformer), self.slot) for hook in (hook_steps, hook_outputs)
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
        _refuse_strangers(None, controller)
        controller = controller or self.controller
        refuse_branches(num_branches)
        self._refuse_other_sites(controller)
        refuse_misfits(self.transformer, self.slot)
        refuse_branch_order(_uncompiled(self.transformer), controller.config.cross_branch_threshold)
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


def _uncompiled(transformer: Any) -> Any:
    # torch.compile(model) returns a module that holds the model as _orig_mod.
    return getattr(transformer, "_orig_mod", transformer)


def _refuse_strangers(config: Any, controller: Any) -> None:
    for name, given, kind in (
        ("config", config, DQARConfig),
        ("controller", controller, DQARController),
    ):
        if given is not None and not isinstance(given, kind):
            raise ValueError(
                f"{name}= must be a {kind.__name__}. Got {type(given).__name__}. "
                "Pass controller=DQARController(DQARConfig()), or config=DQARConfig()."
            )


def patch_dit_pipeline(pipe: Any, config: DQARConfig | None = None) -> Any:
    """Patch a stock diffusers DiT pipeline in place, so that its calls take ``controller=``.

    A call without ``controller=`` uses a controller made from ``config``. Any other controller must
    have the ``sites`` and ``cached`` of ``config``, which determine the modules that are patched.

    Example::

        pipe = patch_dit_pipeline(DiTPipeline.from_pretrained("facebook/DiT-XL-2-256"))
        controller = DQARController(DQARConfig())
        images = pipe(class_labels=[207], controller=controller).images
        print(controller.summary().note)

    Raises:
        ValueError: if the pipeline is patched already, or its transformer cannot be patched. A
            call of the patched pipeline raises it if ``controller`` has another type or other
            sites, or if the pipeline's transformer was replaced after patching.
    """
    if hasattr(pipe, "dqar"):
        raise ValueError(
            "A pipeline must be patched once. Got a patched one. Call unpatch_dit_pipeline(pipe) "
            "first."
        )
    stock = type(pipe)
    call = stock.__call__
    signature = inspect.signature(call)

    def __call__(self: Any, *args: Any, controller: Any = None, **kwargs: Any):
        _refuse_strangers(None, controller)
        _refuse_another_transformer(self)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        num_branches = 2 if bound.arguments["guidance_scale"] > 1 else 1
        with self.dqar.run(self.scheduler, num_branches=num_branches, controller=controller):
            return call(self, *args, **kwargs)

    # The class keeps its name, since diffusers writes the name into saved configurations.
    patched = type(stock.__name__, (stock,), {"__call__": __call__, "_dqar_stock": stock})
    object.__setattr__(pipe, "dqar", DQARDiTWrapper(pipe.transformer, config))
    pipe.__class__ = patched
    return pipe


def _refuse_another_transformer(pipe: Any) -> None:
    if _uncompiled(pipe.transformer) is not _uncompiled(pipe.dqar.transformer):
        raise ValueError(
            "The pipeline's transformer must be the patched one. Got one that replaced it since. "
            "Call unpatch_dit_pipeline(pipe), then patch_dit_pipeline(pipe)."
        )


def unpatch_dit_pipeline(pipe: Any) -> Any:
    """Undo :func:`patch_dit_pipeline`; the model then computes the same bits as before it."""
    pipe.dqar.unpatch()
    object.__delattr__(pipe, "dqar")
    pipe.__class__ = pipe._dqar_stock
    return pipe
