"""A stock diffusers pipeline whose calls take ``controller=``, patched in place."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from dqar.config import DQARConfig
from dqar.integration.transformer_patch import uncompiled
from dqar.integration.wrapper import DQARWrapper, refuse_strangers

CONTROLLER = inspect.Parameter("controller", inspect.Parameter.KEYWORD_ONLY, default=None)
"""The parameter that a patched pipeline's call has besides the stock ones."""
COMPONENTS = ("transformer", "transformer_2")
"""Names of the transformers that pipelines have."""

Entering = Callable[[Any, inspect.BoundArguments, Any], AbstractContextManager]
"""A function of pipeline, arguments of its call and controller that enters the call's run."""


def patch_pipeline(
    pipe: Any, config: DQARConfig | None = None, *, branches: tuple[str, ...] = ()
) -> Any:
    """Patch a stock diffusers pipeline in place, so that its calls take ``controller=``.

    A call without ``controller=`` uses a controller made from ``config``. Any other controller must
    have the ``sites`` and ``cached`` of ``config``, which determine the modules that are patched.
    How the pipeline guides (stacked branches, a call for each, none, two transformers) is found in
    its calls. A copy or a pickle of the pipeline is patched too, with its own transformers and
    controller.

    Example::

        pipe = patch_pipeline(FluxPipeline.from_pretrained("black-forest-labs/FLUX.1-dev"))
        images = pipe("a lighthouse").images
        print(pipe.dqar.summary().note)

    Args:
        branches: names of two stacked guidance branches in their order in the batch, such as
            ``("uncond", "cond")``; needed to share values between branches
            (``cross_branch_threshold``) where diffusers' own pipelines do not tell.

    Raises:
        ValueError: if the pipeline is patched already, has no transformer that can be patched, or
            its ``__call__`` has a parameter ``controller``. A call of the patched pipeline raises
            it if ``controller`` has another type or other sites, or if a transformer of the
            pipeline was replaced after patching.
    """
    refuse_patched(pipe)
    transformers = _transformers_of(pipe)
    _refuse_other_timesteps(pipe)
    patched = patched_class(type(pipe), enter_found)
    object.__setattr__(pipe, "dqar", DQARWrapper(transformers, config, branches=branches))
    pipe.__class__ = patched
    return pipe


def unpatch_pipeline(pipe: Any) -> Any:
    """Undo :func:`patch_pipeline` or :func:`dqar.patch_dit_pipeline`; the model then computes the
    same bits as before it.

    Raises:
        ValueError: if the pipeline is not patched.
    """
    if not hasattr(pipe, "dqar"):
        raise ValueError(
            "A pipeline must be patched before it is restored. Got a stock one. Call "
            "patch_pipeline(pipe) first."
        )
    pipe.dqar.unpatch()
    object.__delattr__(pipe, "dqar")
    pipe.__class__ = pipe._dqar_stock
    return pipe


def enter_found(
    pipe: Any, bound: inspect.BoundArguments, controller: Any
) -> AbstractContextManager:
    """Enter the run of a call of a pipeline whose guidance is to be found."""
    num_samples = expected_samples(bound.arguments | bound.kwargs)
    return pipe.dqar.run(pipe.scheduler, num_samples=num_samples, controller=controller)


def expected_samples(arguments: dict[str, Any]) -> int | None:
    """Number of samples that a pipeline's call asks for; None if its arguments do not say it."""
    each = next(
        (
            arguments[name]
            for name in ("num_images_per_prompt", "num_videos_per_prompt")
            if arguments.get(name) is not None
        ),
        1,
    )
    prompt = arguments.get("prompt")
    if isinstance(prompt, str):
        return each
    for name in ("prompt", "prompt_embeds", "class_labels"):
        given: Any = arguments.get(name)
        if hasattr(given, "__len__"):
            return len(given) * each
    return None


def refuse_patched(pipe: Any) -> None:
    """Refuse a pipeline that is patched already.

    Raises:
        ValueError: saying so.
    """
    if hasattr(pipe, "dqar"):
        raise ValueError(
            "A pipeline must be patched once. Got a patched one. Call unpatch_dit_pipeline(pipe) "
            "or unpatch_pipeline(pipe) first."
        )


def _transformers_of(pipe: Any) -> tuple[Any, ...]:
    found = [getattr(pipe, name, None) for name in COMPONENTS]
    transformers = tuple(one for one in found if one is not None)
    if not transformers:
        raise ValueError(
            "The pipeline must have a transformer. Got "
            f"{type(pipe).__name__} with {', '.join(getattr(pipe, 'components', {})) or 'none'}. "
            "Pass a pipeline of a diffusion transformer."
        )
    return transformers


def _refuse_other_timesteps(pipe: Any) -> None:
    if not hasattr(getattr(pipe, "scheduler", None), "set_timesteps"):
        raise ValueError(
            "The pipeline must have a scheduler, whose timesteps are its steps. Got "
            f"{type(getattr(pipe, 'scheduler', None)).__name__}. Sample in a loop of your own "
            "under DQARWrapper.run(scheduler)."
        )


def patched_class(stock: type, enter: Entering) -> type:
    """Make the class of a patched pipeline, which keeps the name of the stock one.

    Raises:
        ValueError: if the stock call has a parameter ``controller``.
    """
    call: Any = stock.__call__
    signature = inspect.signature(call)
    _refuse_controller(stock, signature)

    @functools.wraps(call)
    def __call__(self: Any, *args: Any, controller: Any = None, **kwargs: Any):
        refuse_strangers(None, controller)
        _refuse_another_transformer(self)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        with enter(self, bound, controller):
            return call(self, *args, **kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> tuple:
        # The class of a patched pipeline is in no module, so that pickle could not find it.
        del protocol
        return _blank_pipeline, (stock, enter), self.__getstate__()

    names = {name: getattr(stock, name) for name in ("__doc__", "__module__", "__qualname__")}
    own: dict[str, Any] = {"__call__": __call__, "__reduce_ex__": __reduce_ex__}
    __call__.__signature__ = _with_controller(signature)  # pyright: ignore[reportAttributeAccessIssue] read by inspect
    # The class keeps its name, since diffusers writes the name into saved configurations.
    return type(stock.__name__, (stock,), names | own | {"_dqar_stock": stock})


def _refuse_controller(stock: type, signature: inspect.Signature) -> None:
    if CONTROLLER.name in signature.parameters:
        raise ValueError(
            "The pipeline's __call__ must have no parameter named controller. Got "
            f"{stock.__name__}.__call__ with {', '.join(signature.parameters)}. Rename it, or "
            "sample with a DQARWrapper of its transformers."
        )


def _with_controller(signature: inspect.Signature) -> inspect.Signature:
    parameters = [*signature.parameters.values()]
    has_rest = parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    place = len(parameters) - has_rest
    return signature.replace(parameters=[*parameters[:place], CONTROLLER, *parameters[place:]])


def _blank_pipeline(stock: type, enter: Entering) -> Any:
    return object.__new__(patched_class(stock, enter))


def _refuse_another_transformer(pipe: Any) -> None:
    now = [uncompiled(one) for one in _transformers_of(pipe)]
    patched = [uncompiled(one) for one in pipe.dqar.transformers]
    if len(now) != len(patched) or any(
        one is not its for one, its in zip(now, patched, strict=True)
    ):
        raise ValueError(
            "The pipeline's transformer must be the patched one. Got one that replaced it since. "
            "Call unpatch_dit_pipeline(pipe), then patch_dit_pipeline(pipe)."
        )
