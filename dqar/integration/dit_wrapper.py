"""A diffusers DiT with a controller in it: as a callable model, or inside a stock pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dqar.config import DQARConfig
from dqar.controller import CLASS_PROMPT_LENGTH, DQARController
from dqar.cross_branch import CONDITIONAL, UNCONDITIONAL
from dqar.integration.seat import Seat
from dqar.integration.sites import attach, detach, refuse_misfits
from dqar.policy import ReusePolicy
from dqar.snr import scheduler_snr

BRANCHES = (CONDITIONAL, UNCONDITIONAL)
"""The order in which DiT stacks its guidance branches."""


class DQARDiTWrapper:
    """A patched transformer, called like the transformer.

    Steps are counted, one call each, inside :meth:`run`; outside a run the model is stock.
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
        self.transformer = transformer
        self.controller = controller or DQARController(config, policy=policy)
        config = self.controller.config
        self.seat: Seat = attach(transformer, sites or config.sites, config.cached)

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
        """One sampling run: each call of the transformer is the scheduler's next step.

        Args:
            scheduler: its timesteps may be set inside the run, before the first call.
            num_branches: guidance branches stacked in each batch.
            controller: sits in for the wrapper's own.

        Raises:
            ValueError: if the controller runs already, is of other sites or of another depth, or
                if the model was set to what cannot be rerouted since it was patched.
        """
        controller = controller or self.controller
        self._refuse_other_sites(controller)
        refuse_misfits(self.transformer, self.seat)
        with self.seat.taken_by(controller):
            self._bind(controller, num_branches)
            run = _Run(scheduler, controller, num_branches, prompt_length)
            try:
                with _hooked(self.transformer, self.seat, run):
                    yield controller
                    controller.finish_step()
            finally:
                controller.drop_step()

    def _bind(self, controller: DQARController, num_branches: int) -> None:
        controller.bind(
            len(self.transformer.transformer_blocks),
            self.transformer.config.num_attention_heads,
            BRANCHES if num_branches == len(BRANCHES) else (),
        )

    def _refuse_other_sites(self, controller: DQARController) -> None:
        config, seat = controller.config, self.seat
        if set(config.sites) != set(seat.sites) or config.cached != seat.cached:
            raise ValueError(
                "The controller's sites must be the patched ones. Got "
                f"{config.sites} caching {config.cached} on a model patched for {seat.sites} "
                f"caching {seat.cached}. Patch it with a configuration of the same sites."
            )

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.transformer(hidden_states, *args, **kwargs)

    def unpatch(self) -> Any:
        """Restore the transformer and return it."""
        detach(self.seat)
        return self.transformer


class _Run:
    """Counts the calls of one run and opens the controller's step before each."""

    def __init__(
        self,
        scheduler: Any,
        controller: DQARController,
        num_branches: int,
        prompt_length: int | Tensor,
    ) -> None:
        self.scheduler = scheduler
        self.controller = controller
        self.num_branches = num_branches
        self.prompt_length = prompt_length
        self.calls = 0
        self.timesteps: list[float] = []

    def before_call(self, hidden_states: Tensor) -> None:
        if not self.calls:
            # Read once: a scheduler may hold its timesteps on the device.
            self.timesteps = [float(timestep) for timestep in self.scheduler.timesteps.tolist()]
        timesteps = self.timesteps
        if self.calls >= len(timesteps):
            raise ValueError(
                f"A run must call the model once a step. Got call {self.calls + 1} of "
                f"{len(timesteps)} steps. Begin a new run for each sample call."
            )
        timestep = timesteps[self.calls]
        self.controller.begin_step(
            self.calls,
            len(timesteps),
            self.prompt_length,
            timestep=timestep,
            snr=scheduler_snr(self.scheduler, timestep),
            latent=self._latent(hidden_states),
        )
        self.calls += 1

    def _latent(self, hidden_states: Tensor) -> Tensor:
        if self.controller.config.branch_mode == "independent":
            return hidden_states
        return hidden_states[: len(hidden_states) // self.num_branches]


@contextmanager
def _hooked(transformer: nn.Module, seat: Seat, run: _Run) -> Iterator[None]:
    # Without kwargs where another thread calls the model while this hook comes or goes.
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any] | None = None) -> None:
        del module
        # The hook hears the calls of every thread, and is for its own run alone.
        if seat.controller is run.controller:
            run.before_call(args[0] if args else (kwargs or {})["hidden_states"])

    handle = transformer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def patch_dit_pipeline(pipe: Any, config: DQARConfig | None = None) -> Any:
    """Patch a stock diffusers DiT pipeline in place; it then takes ``controller=``.

    Without ``controller=`` it runs with one that ``config`` describes.

    Example::

        pipe = patch_dit_pipeline(DiTPipeline.from_pretrained("facebook/DiT-XL-2-256"))
        controller = DQARController(DQARConfig())
        images = pipe(class_labels=[207], controller=controller).images
        print(controller.summary().note)
    """
    if hasattr(pipe, "dqar"):
        raise ValueError("A pipeline must be patched once. Got a patched one. Unpatch it first.")
    stock = type(pipe)
    call = stock.__call__
    signature = inspect.signature(call)

    def __call__(self: Any, *args: Any, controller: DQARController | None = None, **kwargs: Any):
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        num_branches = 2 if bound.arguments["guidance_scale"] > 1 else 1
        with self.dqar.run(self.scheduler, num_branches=num_branches, controller=controller):
            return call(self, *args, **kwargs)

    # The name stays, since diffusers writes it into saved configurations.
    patched = type(stock.__name__, (stock,), {"__call__": __call__, "_dqar_stock": stock})
    object.__setattr__(pipe, "dqar", DQARDiTWrapper(pipe.transformer, config))
    pipe.__class__ = patched
    return pipe


def unpatch_dit_pipeline(pipe: Any) -> Any:
    """Undo :func:`patch_dit_pipeline`; the model is bit for bit what it was."""
    pipe.dqar.unpatch()
    object.__delattr__(pipe, "dqar")
    pipe.__class__ = pipe._dqar_stock
    return pipe
