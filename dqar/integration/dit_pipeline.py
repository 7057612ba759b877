"""A stock diffusers DiT pipeline whose calls take ``controller=``, patched in place."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from dqar.config import DQARConfig
from dqar.integration.dit_wrapper import DQARDiTWrapper, refuse_strangers, uncompiled

CONTROLLER = inspect.Parameter("controller", inspect.Parameter.KEYWORD_ONLY, default=None)
"""The parameter that a patched pipeline's call has besides the stock ones."""


def patch_dit_pipeline(pipe: Any, config: DQARConfig | None = None) -> Any:
    """Patch a stock diffusers DiT pipeline in place, so that its calls take ``controller=``.

    A call without ``controller=`` uses a controller made from ``config``. Any other controller must
    have the ``sites`` and ``cached`` of ``config``, which determine the modules that are patched.
    A copy or a pickle of the pipeline is patched too, with its own transformer and controller.

    Example::

        pipe = patch_dit_pipeline(DiTPipeline.from_pretrained("facebook/DiT-XL-2-256"))
        controller = DQARController(DQARConfig())
        images = pipe(class_labels=[207], controller=controller).images
        print(controller.summary().note)

    Raises:
        ValueError: if the pipeline is patched already, its transformer cannot be patched, or its
            ``__call__`` has no parameter ``guidance_scale``. A call of the patched pipeline raises
            it if ``controller`` has another type or other sites, or if the pipeline's transformer
            was replaced after patching.
    """
    if hasattr(pipe, "dqar"):
        raise ValueError(
            "A pipeline must be patched once. Got a patched one. Call unpatch_dit_pipeline(pipe) "
            "first."
        )
    patched = _patched_class(type(pipe))
    object.__setattr__(pipe, "dqar", DQARDiTWrapper(pipe.transformer, config))
    pipe.__class__ = patched
    return pipe


def _patched_class(stock: type) -> type:
    call: Any = stock.__call__
    signature = inspect.signature(call)
    _refuse_other_calls(stock, signature)

    @functools.wraps(call)
    def __call__(self: Any, *args: Any, controller: Any = None, **kwargs: Any):
        refuse_strangers(None, controller)
        _refuse_another_transformer(self)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        num_branches = 2 if bound.arguments["guidance_scale"] > 1 else 1
        with self.dqar.run(self.scheduler, num_branches=num_branches, controller=controller):
            return call(self, *args, **kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> tuple:
        # The class of a patched pipeline is in no module, so that pickle could not find it.
        del protocol
        return _blank_pipeline, (stock,), self.__getstate__()

    names = {name: getattr(stock, name) for name in ("__doc__", "__module__", "__qualname__")}
    own: dict[str, Any] = {"__call__": __call__, "__reduce_ex__": __reduce_ex__}
    __call__.__signature__ = _with_controller(signature)  # pyright: ignore[reportAttributeAccessIssue] read by inspect
    # The class keeps its name, since diffusers writes the name into saved configurations.
    return type(stock.__name__, (stock,), names | own | {"_dqar_stock": stock})


def _refuse_other_calls(stock: type, signature: inspect.Signature) -> None:
    given = signature.parameters
    if "guidance_scale" not in given or CONTROLLER.name in given:
        raise ValueError(
            "The pipeline's __call__ must have a parameter guidance_scale, by which the guidance "
            f"branches are counted, and none named controller. Got {stock.__name__}.__call__ with "
            f"{', '.join(given)}. Add guidance_scale to its parameters, or sample with a "
            "DQARDiTWrapper of its transformer."
        )


def _with_controller(signature: inspect.Signature) -> inspect.Signature:
    parameters = [*signature.parameters.values()]
    has_rest = parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    place = len(parameters) - has_rest
    return signature.replace(parameters=[*parameters[:place], CONTROLLER, *parameters[place:]])


def _blank_pipeline(stock: type) -> Any:
    return object.__new__(_patched_class(stock))


def _refuse_another_transformer(pipe: Any) -> None:
    if uncompiled(pipe.transformer) is not uncompiled(pipe.dqar.transformer):
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
