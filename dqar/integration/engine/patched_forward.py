"""The replaced ``forward`` of a patched module.

A model may be compiled before or after it is patched. In a run each patched module is one custom
operator of the graph (:mod:`dqar.integration.engine.operator`); outside a run the model is compiled
as if not patched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, no_type_check

import torch
from torch import nn

from dqar.control.controller import DQARController
from dqar.integration.engine.operator import Outputs, called, fits, number_of
from dqar.integration.engine.site_call import SiteCall, parameters_of
from dqar.integration.forward_patch import Replacement
from dqar.integration.run_slot import RunSlot

SiteFn = Callable[[DQARController, SiteCall], Any]
"""A function that runs a module under a controller, and returns what the module returns."""


class PatchedForward(Replacement):
    """The patched ``forward`` of a module: runs it under this thread's controller, or as the
    original ``forward`` if the thread has none or its controller is idle.

    Args:
        outputs: what the module returns, as far as it is known before it is called.
    """

    def __init__(
        self, module: nn.Module, slot: RunSlot, act: SiteFn, outputs: Outputs | None
    ) -> None:
        super().__init__(module)
        self.slot = slot
        self.act: SiteFn = act
        self.outputs = outputs
        self.names = parameters_of(type(module))
        self.number = number_of(self)
        self._through: Any = torch.compiler.disable(self.acted)

    # Dynamo traces this method, so it reads no thread-local state and has no type checker.
    @no_type_check
    def __call__(self, *args, **kwargs):
        if not self.slot.is_taken:
            return self.inner(*args, **kwargs)
        if torch.compiler.is_compiling() and fits(self.outputs, self.names, args, kwargs):
            return called(self.number, self.outputs, args, kwargs)
        return self._through(args, kwargs)

    def acted(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return the module's output, under this thread's controller or, without one, computed."""
        controller, run = self.slot.acting, self.slot.run
        if controller is None or run is None:
            return self.inner(*args, **kwargs)
        call = SiteCall(
            module=self.module,
            inner=self.inner,
            names=self.names,
            args=args,
            kwargs=kwargs,
            num_rows=run.num_rows,
        )
        return self.act(controller, call)


def patch(module: nn.Module, slot: RunSlot, act: SiteFn, outputs: Outputs | None) -> PatchedForward:
    """Replace ``forward`` of a module by one that runs under a controller."""
    module.forward = patched = PatchedForward(module, slot, act, outputs)
    return patched
