"""A stock diffusers DiT pipeline whose calls take ``controller=``, under the DQAR paper's name."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from typing import Any

from dqar.config import DQARConfig
from dqar.integration.dit_wrapper import DQARDiTWrapper
from dqar.integration.pipeline_patch import (
    CONTROLLER,
    patched_class,
    refuse_patched,
    unpatch_pipeline,
)


def patch_dit_pipeline(pipe: Any, config: DQARConfig | None = None) -> Any:
    """Patch a stock diffusers DiT pipeline in place, so that its calls take ``controller=``.

    :func:`dqar.patch_pipeline` does so for every served pipeline. Here the number of guidance
    branches follows from ``guidance_scale``, as DiT pipelines stack them.

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
    refuse_patched(pipe)
    _refuse_other_calls(type(pipe))
    patched = patched_class(type(pipe), enter_declared)
    object.__setattr__(pipe, "dqar", DQARDiTWrapper(pipe.transformer, config))
    pipe.__class__ = patched
    return pipe


def enter_declared(
    pipe: Any, bound: inspect.BoundArguments, controller: Any
) -> AbstractContextManager:
    """Enter the run of a call whose ``guidance_scale`` gives the number of branches."""
    num_branches = 2 if bound.arguments["guidance_scale"] > 1 else 1
    return pipe.dqar.run(pipe.scheduler, num_branches=num_branches, controller=controller)


def _refuse_other_calls(stock: type) -> None:
    given = inspect.signature(stock.__call__).parameters
    if "guidance_scale" not in given or CONTROLLER.name in given:
        raise ValueError(
            "The pipeline's __call__ must have a parameter guidance_scale, by which the guidance "
            f"branches are counted, and none named controller. Got {stock.__name__}.__call__ with "
            f"{', '.join(given)}. Add guidance_scale to its parameters, or sample with a "
            "DQARDiTWrapper of its transformer."
        )


def unpatch_dit_pipeline(pipe: Any) -> Any:
    """Undo :func:`patch_dit_pipeline`; the model then computes the same bits as before it."""
    return unpatch_pipeline(pipe)
