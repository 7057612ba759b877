"""A patched site as one custom operator, which ``torch.compile`` calls without tracing into it.

The compiled model stays one graph for every decision that a controller takes inside its sites.
"""

from __future__ import annotations

from functools import cache
from itertools import count
from threading import Lock
from typing import Any, Protocol, no_type_check, runtime_checkable
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float
from torch import Tensor

SCHEMA = "(Tensor hidden, Tensor? timestep, Tensor? class_labels, int number) -> Tensor"
NAMED = ("timestep", "class_labels")
"""Arguments of a block besides hidden states; other sites take none of them."""


@runtime_checkable
class Site(Protocol):
    """A patched site, as the operator calls it."""

    def acted(self, hidden: Tensor, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """Return the site's output, under this thread's controller or, without one, computed."""
        ...


_sites: WeakValueDictionary[int, Site] = WeakValueDictionary()
_numbers = count()
_defining = Lock()


def number_of(site: Site) -> int:
    """Register a site, and return the number under which the operator finds it. The registration
    ends with the site's lifetime."""
    with _defining:
        _operator()
    number = next(_numbers)
    _sites[number] = site
    return number


# Dynamo traces this function and cannot trace a run-time type checker.
@no_type_check
def fits(args: tuple, kwargs: dict[str, Any]) -> bool:
    """True if a graph can call the operator with these arguments.

    The operator has no gradient, returns its input's dtype (so no autocast), and takes no arguments
    but those of :data:`NAMED`.
    """
    is_cast = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
    others = [*args, *(value for name, value in kwargs.items() if name not in NAMED)]
    return not torch.is_grad_enabled() and not is_cast and all(one is None for one in others)


@no_type_check
def called(number: int, hidden: Float[Tensor, "r n d"], kwargs: dict[str, Any]) -> Tensor:
    """Call the operator, in a graph, for the site of this number."""
    return torch.ops.dqar.site.default(hidden, *map(kwargs.get, NAMED), number)


@cache
def _operator() -> Any:
    # Defined on first use, so that importing the library registers no operator.
    # The tag splits CUDA graphs at the operator, since each call may launch different kernels.
    tags = (torch.Tag.cudagraph_unsafe,)
    run = torch.library.custom_op("dqar::site", _run, mutates_args=(), schema=SCHEMA, tags=tags)
    run.register_fake(_shape_of)
    return run


def _run(
    hidden: Tensor, timestep: Tensor | None, class_labels: Tensor | None, number: int
) -> Tensor:
    given = zip(NAMED, (timestep, class_labels), strict=True)
    named = {name: value for name, value in given if value is not None}
    output = _sites[number].acted(hidden, (), named)
    # A copy, since the graph may write to the output, which may be a tensor of the cache.
    return output.clone(memory_format=torch.contiguous_format)


def _shape_of(
    hidden: Tensor, timestep: Tensor | None, class_labels: Tensor | None, number: int
) -> Tensor:
    del timestep, class_labels, number
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)
