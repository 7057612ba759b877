"""Settings that each sample of a batch may have of its own."""

from __future__ import annotations

from copy import copy

from jaxtyping import Float, Int
from torch import Tensor

from dqar.config import DQARConfig
from dqar.control.error_feedback import Gain
from dqar.gates.base import AllOf, Gate


def gate_for(gate: Gate, samples: slice) -> Gate:
    """The gate as some samples of a batch have it: parameters that differ by sample are theirs.

    A gate's tensors hold samples along their last axis, which is 1 long where all share one.
    """
    if isinstance(gate, AllOf):
        return AllOf(*(gate_for(one, samples) for one in gate.gates))
    part = copy(gate)
    for name, value in vars(gate).items():
        if isinstance(value, Tensor) and value.ndim and value.shape[-1] > 1:
            setattr(part, name, value[..., samples])
    return part


def orders_of(
    config: DQARConfig, given: Int[Tensor, " s"] | None, branches: int, num_columns: int
) -> int | Int[Tensor, " b"]:
    """Orders of forecasts, none above the configuration's.

    Args:
        given: one a sample; None for the configuration's for all.
        branches: columns of one sample.

    Raises:
        ValueError: if there is not one a sample.
    """
    if given is None:
        return config.forecast_order
    orders = _by_column("forecast_order", "order", given, branches, num_columns)
    return orders.clamp(0, config.forecast_order)


def gains_of(
    config: DQARConfig, given: Float[Tensor, " s"] | None, branches: int, num_columns: int
) -> Gain:
    """Gains of the error feedback, in the configuration's place; as :func:`orders_of`.

    Raises:
        ValueError: if there is not one a sample, or one lies outside of [0, 1].
    """
    if given is None:
        return config.feedback
    gains = _by_column("feedback", "gain", given, branches, num_columns)
    # Written so that what is not a number is refused.
    if not bool(((gains >= 0.0) & (gains <= 1.0)).all()):
        raise ValueError(f"feedback must be in [0, 1]. Got {gains}. Pass gains in that range.")
    return gains


def _by_column(name: str, noun: str, given: Tensor, branches: int, num_columns: int) -> Tensor:
    if len(given) * branches != num_columns:
        raise ValueError(
            f"{name} must hold one {noun} a sample. Got {len(given)} for "
            f"{num_columns // branches} samples. Pass a tensor of that many."
        )
    return given.cpu().repeat(branches)
