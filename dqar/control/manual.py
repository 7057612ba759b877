"""Manual control: the DQAR paper's ``should_reuse``, ``commit`` and ``reuse`` for one site at a
time."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from dqar.cache.site_tensors import Decision
from dqar.control.branch_sharing import CONDITIONAL
from dqar.control.open_step import OpenStep
from dqar.records import STACKED, DecisionReason, EntryKey
from dqar.signals import map_entropy


class ManualControl(ABC):
    """The calls by which a hand-written model uses a controller inside an open step: first
    ``should_reuse``, then ``commit`` (after computing) or ``reuse``."""

    @abstractmethod
    def _opened(self) -> OpenStep:
        """Return the open step.

        Raises:
            ValueError: if no step is open.
        """

    def should_reuse(self, layer: int, branch: str = STACKED, site: str = "attn") -> Decision:
        """Return the decision of one gate. A decision to reuse is replaced by ``COLD`` if this
        branch has no cached value yet.

        Raises:
            ValueError: if no step is open.
        """
        key = EntryKey(site, layer, branch)
        opened = self._opened()
        gate = opened.entries.table.index(site, layer)
        codes = opened.codes[gate]
        if opened.executor.is_lent(gate, branch):
            lent = EntryKey(site, layer, branch, lender=CONDITIONAL)
            reasons = (DecisionReason.SHARED,) * len(codes)
            return Decision(mask=(True,) * len(codes), reasons=reasons, entry=lent)
        if key not in opened.executor.history:
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
        """Cache the computed keys and values, or the output, of one site.

        Args:
            attn_map: attention map, from which the entropy is computed if ``entropy`` is None.
            latent: ignored; it is accepted since the DQAR paper's signature has it. The latent
                norm is measured by ``begin_step``.
            entropy: attention entropy in nats.

        Raises:
            ValueError: if no part is given, or no step is open.
        """
        del latent
        given = {"keys": keys, "values": values, "output": output}
        parts = {name: value for name, value in given.items() if value is not None}
        if not parts:
            raise ValueError(
                "commit must be given something to cache. Got nothing. Pass keys and values, or "
                "output."
            )
        if entropy is None and attn_map is not None:
            entropy = map_entropy(attn_map)
        opened = self._opened()
        gate = opened.entries.table.index(site, layer)
        opened.executor.commit(EntryKey(site, layer, branch), gate, parts, entropy)

    def reuse(self, entry: EntryKey) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return keys, values and output (residual) of an entry; None for a part not cached.

        Raises:
            ValueError: if no step is open.
        """
        opened = self._opened()
        gate = opened.entries.table.index(entry.site, entry.layer)
        found = opened.executor.hand_out(entry, gate)
        return found.keys, found.values, found.output
