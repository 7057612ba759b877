"""The diffusers hooks of a cache: on the transformer, and on each of its sites.

The hook on the transformer hears contexts and resets, and changes no call: offloading replaces the
transformer's ``forward`` between runs, with what a hook made of it. Steps are opened by hooks of
PyTorch, which stay.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn

from dqar.integration.diffusers_cache.applied import AppliedCache
from dqar.integration.forward_patch import CACHE_HOOK, Replacement

ROOT, SITE = CACHE_HOOK, "dqar_cache_site"
"""Names of the hooks on the transformer and on its sites."""


def registry_of(module: nn.Module) -> Any:
    """Registry of a module's hooks, made if it has none."""
    from diffusers.hooks.hooks import HookRegistry

    return HookRegistry.check_if_exists_or_initialize(module)


def root_hook(applied: AppliedCache) -> Any:
    """Make the hook on the transformer."""
    return _hook_classes()[0](applied)


def site_hook(replaced: Replacement) -> Any:
    """Make the hook on a site from the replacement of its ``forward``, which is not in place."""
    return _hook_classes()[1](replaced)


def register(module: nn.Module, hook: Any, name: str) -> None:
    """Register a hook, which becomes the outermost of its module."""
    registry_of(module).register_hook(hook, name)
    hook.forward = module.forward


def unregister(module: nn.Module, name: str) -> None:
    """Remove a hook, if the module has it, wherever it is among other hooks."""
    registry: Any = getattr(module, "_diffusers_hook", None)
    hook = None if registry is None else registry.get_hook(name)
    if registry is None or hook is None:
        return
    on_top = module.__dict__.get("forward")
    is_last = registry._hook_order[-1] == name
    registry.remove_hook(name, recurse=False)
    if is_last and on_top is not hook.forward:
        # Offloading replaced the forward since, and calls the hook's, which now only passes on.
        module.forward = on_top  # pyright: ignore[reportAttributeAccessIssue] a function
    elif getattr(module.forward, "__self__", None) is module:
        module.__dict__.pop("forward", None)


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
            # Looked up at each call, since an inner hook may be removed.
            forward: Any = self.fn_ref.original_forward
            return forward(*args, **kwargs)

        def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            del module
            return self.replaced(*args, **kwargs)

    return RootHook, SiteHook
