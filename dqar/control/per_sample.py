"""Settings that may differ between the samples of a batch."""

from __future__ import annotations

from copy import copy

from jaxtyping import Float, Int
from torch import Tensor

from dqar.config import DQARConfig
from dqar.control.error_feedback import Gain
from dqar.gates.base import AllOf, Gate


def gate_for(gate: Gate, samples: slice) -> Gate:
    """Return the gate restricted to some samples of a batch.

    The tensors of a gate hold samples along their last axis, or have length 1 there if all samples
    share one value.
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
    """Return the forecast orders by column, limited to the configuration's order.

    Args:
        given: one order for each sample, or None to use the configuration's for all.
        branches: number of columns of each sample.

    Raises:
        ValueError: if the number of orders is not the number of samples.
    """
    if given is None:
        return config.forecast_order
    orders = _by_column("forecast_order", "order", given, branches, num_columns)
    return orders.clamp(0, config.forecast_order)


def gains_of(
    config: DQARConfig, given: Float[Tensor, " s"] | None, branches: int, num_columns: int
) -> Gain:
    """Return the gains of the error feedback by column.

    Args:
        given: one gain for each sample, or None to use the configuration's for all.
        branches: number of columns of each sample.

    Raises:
        ValueError: if the number of gains is not the number of samples, or a gain is outside
            [0, 1].
    """
    if given is None:
        return config.feedback
    gains = _by_column("feedback", "gain", given, branches, num_columns)
    # Written as "not (gain >= 0 and gain <= 1)" so that NaN is refused.
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
