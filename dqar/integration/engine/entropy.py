"""Attention entropy of a site, where the family says how its queries and keys are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor

from dqar.control.controller import DQARController
from dqar.integration.attention_site import QueryKeyCapture

T = TypeVar("T")


def with_entropy(
    attention: Any, controller: DQARController, compute: Callable[[], T], fold: int = 1
) -> tuple[T, Float[Tensor, " s"] | None]:
    """Return the result of ``compute``, and the entropy of the attention call that it makes.

    The entropy is None if nothing reads it, or if the attention is None: a site without attention,
    or with one whose queries and keys the family does not describe.

    Args:
        fold: rows of the module for each row of the transformer's call.
    """
    if attention is None or "entropy" not in controller.needs:
        return compute(), None
    with QueryKeyCapture(attention) as capture:
        result = compute()
    by_row = capture.entropy(controller.config.entropy_rows)
    return result, by_row.unflatten(0, (-1, fold)).mean(dim=1)
