"""The seed's verbs, by which a caller drives one site at a time by hand inside an open step."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from dqar.cache.history import History
from dqar.cache.site_tensors import Decision
from dqar.control.branch_sharing import CONDITIONAL
from dqar.control.entry_state import EntryState
from dqar.control.site_execution import SiteExecutor
from dqar.records import STACKED, DecisionReason, EntryKey
from dqar.signals import map_entropy


class ManualControl(ABC):
    """``should_reuse``, then ``commit`` or ``reuse``, for whoever has decided a step's gates."""

    history: History
    _codes: list[list[int]]
    _passage: SiteExecutor

    @abstractmethod
    def _books(self) -> EntryState:
        """The books of the open step; a ``ValueError`` where none is open."""

    def should_reuse(self, layer: int, branch: str = STACKED, site: str = "attn") -> Decision:
        """The verdict for one gate; refuses as ``cold`` where this branch has no entry yet."""
        key = EntryKey(site, layer, branch)
        gate = self._books().gate(site, layer)
        codes = self._codes[gate]
        if self._passage.is_lent(gate, branch):
            lent = EntryKey(site, layer, branch, lender=CONDITIONAL)
            reasons = (DecisionReason.SHARED,) * len(codes)
            return Decision(mask=(True,) * len(codes), reasons=reasons, entry=lent)
        if key not in self.history:
            codes = [
                int(DecisionReason.COLD) if code == DecisionReason.REUSE else code for code in codes
            ]
        mask = tuple(code == DecisionReason.REUSE for code in codes)
        return Decision(mask=mask, reasons=tuple(DecisionReason(code) for code in codes), entry=key)

    def commit(
        self,
        layer: int,
        branch: str = STACKED,
        attn_map: Float[Tensor, "r h n m"] | None = None,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        latent: Float[Tensor, "r *axes"] | None = None,
        *,
        output: Tensor | None = None,
        entropy: Float[Tensor, " r"] | None = None,
        site: str = "attn",
    ) -> None:
        """Cache what was computed: K and V, or the output, with the entropy or the map.

        ``latent`` is accepted for the seed's signature; its norm is taken at ``begin_step``.
        """
        del latent
        given = {"keys": keys, "values": values, "output": output}
        parts = {name: value for name, value in given.items() if value is not None}
        if not parts:
            raise ValueError(
                "commit must be given something. Got nothing. Pass keys and values, or output."
            )
        if entropy is None and attn_map is not None:
            entropy = map_entropy(attn_map)
        gate = self._books().gate(site, layer)
        self._passage.commit(EntryKey(site, layer, branch), gate, parts, entropy)

    def reuse(self, entry: EntryKey) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Keys, values and output (residual) of an entry; None for what was not cached."""
        gate = self._books().gate(entry.site, entry.layer)
        found = self._passage.hand_out(entry, gate)
        return found.keys, found.values, found.output
