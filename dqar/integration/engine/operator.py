"""A patched module as one custom operator, which ``torch.compile`` calls without tracing into it.

The compiled model stays one graph for every decision that a controller takes inside its sites. The
operator takes all tensors among the module's arguments as one list, and the form of the arguments
as a string, so that modules with any streams share it.
"""

from __future__ import annotations

from ast import literal_eval
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count
from threading import Lock
from typing import Any, Protocol, no_type_check, runtime_checkable
from weakref import WeakValueDictionary

import torch
from torch import Tensor

SCHEMA = "(Tensor[] tensors, str form, int number) -> Tensor[]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """The form of what a module returns: tensors that are shaped like some of its arguments."""

    like: tuple[str | None, ...]
    """For each returned value the parameter whose shape and dtype it has; None for a returned
    None."""
    is_tuple: bool
    """True if the module returns a tuple, False if it returns a tensor."""


@runtime_checkable
class PatchedModule(Protocol):
    """A patched module, as the operator calls it."""

    names: tuple[str, ...]
    outputs: Outputs | None

    def acted(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return the module's output, under this thread's controller or, without one, computed."""
        ...


_modules: WeakValueDictionary[int, PatchedModule] = WeakValueDictionary()
_numbers = count()
_defining = Lock()


def number_of(module: PatchedModule) -> int:
    """Register a patched module, and return the number under which the operator finds it. The
    registration ends with the module's lifetime."""
    with _defining:
        _operator()
    number = next(_numbers)
    _modules[number] = module
    return number


# Dynamo traces these functions and cannot trace a run-time type checker.
@no_type_check
def fits(outputs, names, args, kwargs) -> bool:
    """True if a graph can call the operator with these arguments.

    The operator has no gradient, returns its input's dtype (so no autocast), and takes tensors,
    numbers and None, also in tuples, lists and dictionaries.
    """
    is_cast = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
    if outputs is None or torch.is_grad_enabled() or is_cast:
        return False
    given = [*names[: len(args)], *kwargs]
    is_known = all([name is None or name in given for name in outputs.like])
    return is_known and _is_plain(args) and _is_plain(kwargs)


@no_type_check
def _is_plain(value) -> bool:
    if isinstance(value, (tuple, list)):
        return all([_is_plain(one) for one in value])
    if isinstance(value, dict):
        return all([_is_plain(one) for one in value.values()])
    return value is None or isinstance(value, (Tensor, bool, int, float, str))


@no_type_check
def called(number, outputs, args, kwargs):
    """Call the operator, in a graph, for the module of this number."""
    tensors = []
    form = "(" + _form(args, tensors) + "," + _form(kwargs, tensors) + ")"
    found = torch.ops.dqar.site.default(tensors, form, number)
    if not outputs.is_tuple:
        return found[0]
    returned, place = [], 0
    for like in outputs.like:
        returned.append(None if like is None else found[place])
        place += like is not None
    return tuple(returned)


@no_type_check
def _form(value, tensors) -> str:
    """Write arguments as a Python literal, in which a set of one number stands for a tensor."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return "{" + str(len(tensors) - 1) + "}"
    if isinstance(value, tuple):
        return "(" + "".join([_form(one, tensors) + "," for one in value]) + ")"
    if isinstance(value, list):
        return "[" + "".join([_form(one, tensors) + "," for one in value]) + "]"
    if isinstance(value, dict):
        pairs = [f"{name!r}:" + _form(one, tensors) + "," for name, one in value.items()]
        return "{" + "".join(pairs) + "}"
    return repr(value)


def _arguments(form: str, tensors: list[Tensor]) -> tuple[tuple, dict[str, Any]]:
    args, kwargs = _filled(_parsed(form), tensors)
    return args, kwargs


@lru_cache(maxsize=4096)
def _parsed(form: str) -> Any:
    return literal_eval(form)


def _filled(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, set):
        return tensors[next(iter(value))]
    if isinstance(value, (tuple, list)):
        return type(value)(_filled(one, tensors) for one in value)
    if isinstance(value, dict):
        return {name: _filled(one, tensors) for name, one in value.items()}
    return value


@cache
def _operator() -> Any:
    # Defined on first use, so that importing the library registers no operator.
    # The tag splits CUDA graphs at the operator, since each call may launch different kernels.
    tags = (torch.Tag.cudagraph_unsafe,)
    run = torch.library.custom_op("dqar::site", _run, mutates_args=(), schema=SCHEMA, tags=tags)
    run.register_fake(_shapes_of)
    return run


def _run(tensors: list[Tensor], form: str, number: int) -> list[Tensor]:
    returned = _modules[number].acted(*_arguments(form, tensors))
    values = returned if isinstance(returned, tuple) else (returned,)
    # Copies, since the graph may write to the outputs, which may be tensors of the cache.
    found = [
        value.clone(memory_format=torch.contiguous_format) for value in values if value is not None
    ]
    _refuse_other_shapes(found, _like(tensors, form, number))
    return found


def _refuse_other_shapes(found: list[Tensor], declared: list[Tensor]) -> None:
    """Refuse outputs that the graph was compiled without.

    Raises:
        ValueError: naming the shapes.
    """
    shapes = [(*value.shape,) for value in found]
    if shapes != [(*value.shape,) for value in declared]:
        raise ValueError(
            "A compiled site must return what its family declares. Got shapes "
            f"{shapes}, declared like {[(*value.shape,) for value in declared]}. Run the model "
            "uncompiled, or describe the family."
        )


def _shapes_of(tensors: list[Tensor], form: str, number: int) -> list[Tensor]:
    return [
        torch.empty_like(value, memory_format=torch.contiguous_format)
        for value in _like(tensors, form, number)
    ]


def _like(tensors: list[Tensor], form: str, number: int) -> list[Tensor]:
    """Arguments that the outputs are shaped like."""
    module = _modules[number]
    args, kwargs = _arguments(form, tensors)
    named = dict(zip(module.names, args, strict=False)) | kwargs
    assert module.outputs is not None  # checked by fits
    return [named[name] for name in module.outputs.like if name is not None]
