"""Hooks of a transformer that open a run's next step, and correct its output.

Dynamo runs the hooks without tracing them, which breaks the graph once a call.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from dqar.integration.forward_patch import untraced_class, with_output
from dqar.integration.guidance.cache_context import CacheContextName
from dqar.integration.guidance.model_call import ModelCall
from dqar.integration.run_slot import RunSlot
from dqar.integration.served_models import refuse_checkpointing


class StepHook:
    """A hook that opens the next step of this thread's run before each call of the transformer.

    A copy of the transformer gets a copy of the hook with an empty :class:`RunSlot`, which does
    nothing.

    Args:
        layers: layers of the transformer among those of several; None if it is the only one.
    """

    def __init__(
        self, slot: RunSlot, context: CacheContextName | None = None, layers: range | None = None
    ) -> None:
        self.slot = slot
        self.context = context
        self.layers = layers

    # torch passes no kwargs if another thread calls the model while the hook is registered or
    # removed.
    def __call__(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        run = self.slot.run
        if run is None:
            return
        name = None if self.context is None else self.context.name
        run.before_call(ModelCall.of(module, args, kwargs or {}, name, self.layers))
        self.refuse_checkpointing(module)

    def refuse_checkpointing(self, module: nn.Module) -> None:
        """Refuse to reuse under gradient checkpointing.

        Raises:
            ValueError: if the controller of this thread acts.
        """
        if self.slot.acting is not None:
            refuse_checkpointing(module)

    def __reduce__(self) -> tuple:
        return _step_hook, (self.slot,)


class OutputHook:
    """A hook that replaces the transformer's output by the corrected output of this thread's run.

    A copy of the transformer gets a copy of the hook with an empty :class:`RunSlot`, which does
    nothing.
    """

    def __init__(self, slot: RunSlot) -> None:
        self.slot = slot

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        del module, args
        return None if self.slot.run is None else with_output(output, self.slot.run.after_call)

    def __reduce__(self) -> tuple:
        return _output_hook, (self.slot,)


def hook_steps(
    transformer: nn.Module,
    slot: RunSlot,
    context: CacheContextName | None = None,
    layers: range | None = None,
) -> RemovableHandle:
    """Register the hook that opens a step at each call of a transformer.

    A hook is used, not a replaced ``forward``, since offloading replaces the transformer's
    ``forward`` between runs. The hook stays registered while the model is patched, since dynamo
    does not notice hooks that are added or removed after compilation.
    """
    hook = _step_hook(slot, context, layers)
    return transformer.register_forward_pre_hook(hook, with_kwargs=True)


def hook_outputs(transformer: nn.Module, slot: RunSlot) -> RemovableHandle:
    """Register the hook that corrects each output of a transformer; see :func:`hook_steps`."""
    return transformer.register_forward_hook(_output_hook(slot))


def _step_hook(
    slot: RunSlot, context: CacheContextName | None = None, layers: range | None = None
) -> StepHook:
    return untraced_class(StepHook)(slot, context, layers)


def _output_hook(slot: RunSlot) -> OutputHook:
    return untraced_class(OutputHook)(slot)
