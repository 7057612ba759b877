"""A rerouted site as one operator, which a compiler calls and does not look into.

So a compiled model stays one graph, whatever the controller of a run decides within its sites.
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
"""What a block is given besides hidden states; other sites take neither."""


@runtime_checkable
class Site(Protocol):
    """What the operator runs."""

    def acted(self, hidden: Tensor, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """The site's output, whoever acts in this thread."""
        ...


_sites: WeakValueDictionary[int, Site] = WeakValueDictionary()
_numbers = count()
_defining = Lock()


def number_of(site: Site) -> int:
    """What the operator is to be told to run a site, for as long as the site lives."""
    with _defining:
        _operator()
    number = next(_numbers)
    _sites[number] = site
    return number


# Traced: dynamo is not to find a type checker here.
@no_type_check
def fits(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the operator can stand in a graph for a call with these arguments.

    It has no gradient, its output has its input's dtype, and of other arguments it takes a block's.
    """
    is_cast = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
    others = [*args, *(value for name, value in kwargs.items() if name not in NAMED)]
    return not torch.is_grad_enabled() and not is_cast and all(one is None for one in others)


@no_type_check
def called(number: int, hidden: Float[Tensor, "r n d"], kwargs: dict[str, Any]) -> Tensor:
    """The operator's call in a graph."""
    return torch.ops.dqar.site.default(hidden, *map(kwargs.get, NAMED), number)


@cache
def _operator() -> Any:
    # Here, since nothing is registered at import.
    # CUDA graphs are split at it: which kernels it launches is decided anew in each call.
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
    # A copy, since a graph may write to what it was given and this may be the cache's own.
    return output.clone(memory_format=torch.contiguous_format)


def _shape_of(
    hidden: Tensor, timestep: Tensor | None, class_labels: Tensor | None, number: int
) -> Tensor:
    del timestep, class_labels, number
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)
