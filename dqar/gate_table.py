"""The gates of a model: which sites each of its layers has.

Layers are numbered through all stacks of blocks of a model: the 19 double blocks of Flux are layers
0 to 18, its single blocks layers 19 to 56. A model is *ragged* where some layers lack a site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from dqar.records import SITES

BLOCKS = "blocks"
"""Name of the only stack of a model that is described by its number of layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackShape:
    """One stack of blocks of a model, with the sites that its blocks have."""

    name: str
    """Name of the stack, such as its attribute in the model."""
    num_layers: int
    """Number of blocks."""
    sites: tuple[str, ...] = SITES
    """Sites of the stack's blocks that may be reused."""
    absent: frozenset[tuple[str, int]] = frozenset()
    """Sites that single blocks lack, with the block's index within the stack."""

    def layers_with(self, site: str) -> Iterable[int]:
        """Indices, within the stack, of the blocks whose gate of this site exists."""
        if site not in self.sites:
            return ()
        if site == "stack":
            return (0,)  # one gate for the whole stack, at its first layer
        return (at for at in range(self.num_layers) if (site, at) not in self.absent)


@dataclass(frozen=True, kw_only=True)
class GateTable:
    """The gates of a model for some sites, site-major: all layers of the first site come first.

    Example: ``GateTable.regular(("attn", "ff"), num_layers=28)`` has 56 gates.
    """

    sites: tuple[str, ...]
    """Sites whose result is reused, as in :attr:`dqar.DQARConfig.sites`."""
    stacks: tuple[StackShape, ...]
    """Stacks of the model, in the order of their layers."""

    def __post_init__(self) -> None:
        for site in self.sites:
            if not any(at == site for at, _ in self.gates):
                raise ValueError(
                    f"Each site must exist in the model. Got {site!r} for a model with "
                    f"{', '.join(self._offered())}. Choose sites that the model has."
                )

    @classmethod
    def regular(cls, sites: tuple[str, ...], num_layers: int) -> GateTable:
        """Make the table of a model with one stack, whose blocks all have the same sites."""
        return cls(sites=sites, stacks=(StackShape(name=BLOCKS, num_layers=num_layers),))

    @classmethod
    def of(cls, sites: tuple[str, ...], model: int | GateTable) -> GateTable:
        """Make the table of some sites of a model.

        Args:
            model: a table of the model for any sites, or its number of equal blocks.
        """
        if isinstance(model, int):
            return cls.regular(sites, model)
        return replace(model, sites=sites)

    def _offered(self) -> list[str]:
        return [site for site in SITES if any(site in stack.sites for stack in self.stacks)]

    @cached_property
    def gates(self) -> tuple[tuple[str, int], ...]:
        """Site and layer of each gate."""
        return tuple((site, layer) for site in self.sites for layer in self._layers_with(site))

    def _layers_with(self, site: str) -> list[int]:
        return [
            first + at
            for first, stack in zip(self.first_layers, self.stacks, strict=True)
            for at in stack.layers_with(site)
        ]

    @cached_property
    def first_layers(self) -> tuple[int, ...]:
        """Number of the first layer of each stack."""
        return (0, *accumulate(stack.num_layers for stack in self.stacks))[:-1]

    @property
    def num_layers(self) -> int:
        """Number of blocks of all stacks."""
        return sum(stack.num_layers for stack in self.stacks)

    @property
    def num_gates(self) -> int:
        """Number of gates."""
        return len(self.gates)

    @property
    def is_regular(self) -> bool:
        """True if the table is that of :meth:`regular`."""
        return self.gates == GateTable.regular(self.sites, self.num_layers).gates

    @cached_property
    def _places(self) -> Mapping[tuple[str, int], int]:
        return {gate: place for place, gate in enumerate(self.gates)}

    def index(self, site: str, layer: int) -> int:
        """Index of a gate.

        Raises:
            ValueError: if the layer does not have the site.
        """
        if (site, layer) not in self._places:
            raise ValueError(
                f"The gate must exist. Got {site=}, {layer=}. Ask for one of the model's "
                f"{self.num_gates} gates."
            )
        return self._places[site, layer]

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Places of each site's gates."""
        counts = [sum(at == site for at, _ in self.gates) for site in self.sites]
        ends = accumulate(counts)
        return {
            site: slice(end - count, end)
            for site, count, end in zip(self.sites, counts, ends, strict=True)
        }

    @cached_property
    def site_codes(self) -> Int[Tensor, " g"]:
        """Index of each gate's site in :data:`dqar.records.SITES`."""
        return torch.tensor([SITES.index(site) for site, _ in self.gates])

    @cached_property
    def layers(self) -> Int[Tensor, " g"]:
        """Layer of each gate."""
        return torch.tensor([layer for _, layer in self.gates])
