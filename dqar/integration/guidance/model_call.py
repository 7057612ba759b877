"""One call of a transformer: its latent, timestep and conditioning, found by parameter name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

LATENTS = ("hidden_states", "x", "sample", "latents")
"""Names of the parameter that takes the latents; the first parameter, if it has another name."""
TIMESTEPS = ("timestep", "t", "timesteps")
"""Names of the parameter that takes the timestep."""
CONDITIONS = ("encoder_hidden_states", "cap_feats", "class_labels", "pooled", "prompt", "context")
"""Parts of the names of parameters that take a condition, by which branches differ."""

Latent = Tensor | Sequence[Tensor]
"""Latents of all rows: a batch, or one tensor for each row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A tensor as a call saw it. The reference keeps its memory from being used again."""

    tensor: Tensor
    version: int
    """Count of the writes to the tensor; -1 if PyTorch does not count them."""

    @classmethod
    def of(cls, tensor: Tensor) -> Seen:
        """Note the current version of a tensor."""
        return cls(tensor=tensor, version=-1 if tensor.is_inference() else tensor._version)

    def is_certainly(self, other: Seen) -> bool:
        """True if both are the same elements of the same memory, unwritten in between."""
        return self.version == other.version >= 0 and self.shares_memory(other)

    def shares_memory(self, other: Seen) -> bool:
        """True if both are the same elements of the same memory."""
        mine, its = self.tensor, other.tensor
        return mine is its or (_place(mine) == _place(its) and bool(mine.data_ptr()))


def _place(tensor: Tensor) -> tuple:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCall:
    """One call of a transformer."""

    latent: Latent
    """Latents of all rows."""
    timestep: Any
    """Timestep, a number or a tensor."""
    arguments: dict[str, Any]
    """All arguments by the name of their parameter."""
    context: str | None = None
    """Name that the pipeline gave the call by ``transformer.cache_context``."""
    layers: range | None = None
    """Layers that the call can reach, in a model of several transformers."""
    seen: tuple[Seen, ...] = ()
    """The latents as the call saw them."""

    @classmethod
    def of(
        cls,
        transformer: nn.Module,
        args: tuple,
        kwargs: dict[str, Any],
        context: str | None = None,
        layers: range | None = None,
    ) -> ModelCall:
        """Read the arguments of a call by the signature of the transformer's ``forward``.

        Raises:
            ValueError: without latents or a timestep.
        """
        names = _parameters(type(transformer))
        given = dict(zip(names, args, strict=False)) | kwargs
        latent = _named(given, LATENTS, names[:1])
        unnamed = () if set(TIMESTEPS) & set(names) else names[1:2]
        timestep = _named(given, TIMESTEPS, unnamed)
        if latent is None or timestep is None:
            raise ValueError(
                "A run must call the model with a timestep. Got none. Pass timestep=, one of the "
                "scheduler's."
            )
        tensors = (latent,) if isinstance(latent, Tensor) else tuple(latent)
        seen = tuple(map(Seen.of, tensors))
        return cls(
            latent=latent,
            timestep=timestep,
            arguments=given,
            context=context,
            layers=layers,
            seen=seen,
        )

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self.latent)

    @property
    def conditions(self) -> dict[str, Any]:
        """Arguments by which guidance branches differ."""
        return {
            name: value
            for name, value in self.arguments.items()
            if any(part in name for part in CONDITIONS)
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that choose, such as ``skip_layers`` of skip-layer guidance. Fractions are
        left out, since they may follow the steps."""
        return {
            name: value
            for name, value in self.arguments.items()
            if name not in TIMESTEPS and _is_choice(value)
        }

    def has_the_latent_of(self, other: ModelCall) -> bool:
        """True if both calls were certainly given the same tensors; no device is asked."""
        return len(self.seen) == len(other.seen) and all(
            mine.is_certainly(its) for mine, its in zip(self.seen, other.seen, strict=True)
        )

    def was_overwritten_by(self, other: ModelCall) -> bool:
        """True if a later call has the same memory, with other contents."""
        return any(
            mine.version != its.version and mine.shares_memory(its)
            for mine, its in zip(self.seen, other.seen, strict=False)
        )

    def equals_the_latent_of(self, other: ModelCall, num_samples: int) -> bool:
        """True if the latents of the samples are equal; waits for the device."""
        mine, its = (call.latent[:num_samples] for call in (self, other))
        return equal(mine, its)


def equal(one: Any, other: Any) -> bool:
    """True if two arguments hold the same values. Waits for the device unless they are the same
    object."""
    if one is other:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _are_alike(one, other) and torch.equal(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and bool(one == other)


def are_same_objects(one: Any, other: Any) -> bool:
    """True if two arguments are the same object, or lists of the same objects."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(are_same_objects, one, other))
    return one is other


def _are_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


def _is_choice(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_choice, value))
    return value is None or isinstance(value, bool | int | str)


def _named(given: dict[str, Any], names: tuple[str, ...], others: tuple[str, ...] = ()) -> Any:
    return next((given[name] for name in (*names, *others) if given.get(name) is not None), None)


@cache
def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    """Names of the parameters of a class's ``forward``, without ``self``."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]
