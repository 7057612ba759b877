"""The books behind the gates: when each entry was computed, how often it was reused, and what
was measured then. One row a gate, one column a decision; written once a step, not once a gate."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqar.records import SITES, Signal, Step

NEVER = -1
MEASURES = ("entropy", "drift", "quant_error")


class Ledger:
    """State of all entries at the start of a step; :meth:`signal` shows it to the gates."""

    def __init__(
        self, sites: tuple[str, ...], num_layers: int, num_columns: int, device: torch.device
    ) -> None:
        self.sites = sites
        self.num_layers = num_layers
        shape = (len(sites) * num_layers, num_columns)
        self.shape = shape
        self.device = device
        layers = torch.arange(num_layers, device=device)
        self.layer = layers.repeat(len(sites))
        codes = torch.tensor([SITES.index(site) for site in sites], device=device)
        self.site = codes.repeat_interleave(num_layers)
        self.committed_at = torch.full(shape, NEVER, device=device)
        self.span = torch.zeros(shape, dtype=torch.long, device=device)
        self.reuses = torch.zeros(shape, dtype=torch.long, device=device)
        self.measured = {name: torch.zeros(shape, device=device) for name in MEASURES}
        self.branch_gap = torch.full(shape, float("nan"), device=device)
        self.branch_at = torch.full(shape, NEVER, device=device)
        self.shares = {site: torch.zeros(num_columns, device=device) for site in SITES}

    def gate(self, site: str, layer: int) -> int:
        """Row of a gate."""
        return self.sites.index(site) * self.num_layers + layer

    def lengths(self, prompt_length: int | Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Prompt lengths by column: one for all, one a sample, or one a column."""
        lengths = torch.as_tensor(prompt_length, dtype=torch.float32, device=self.device)
        if lengths.ndim == 1 and self.shape[1] % len(lengths) == 0:
            # Independent branches: one decision a row, so each sample's length serves its rows.
            return lengths.repeat(self.shape[1] // len(lengths))
        return lengths.expand(self.shape[1])

    def signal(
        self, step: Step, log_latent_norm: Float[Tensor, " b"], prompt_length: Float[Tensor, " b"]
    ) -> Signal:
        """What the gates of ``step`` may look at."""
        cached = self.committed_at != NEVER
        return Signal(
            step=step,
            num_layers=self.num_layers,
            site=self.site,
            layer=self.layer,
            cached=cached,
            gap=torch.where(cached, step.index - self.committed_at, 0),
            reuses=self.reuses,
            span=self.span,
            entropy=self.measured["entropy"],
            drift=self.measured["drift"],
            quant_error=self.measured["quant_error"],
            branch_gap=self.branch_gap,
            branch_age=step.index - self.branch_at,
            log_latent_norm=log_latent_norm,
            prompt_length=prompt_length,
            # A reused block is its attention and its feed-forward reused; never both kinds.
            share_attn=self.shares["attn"] + self.shares["block"],
            share_ff=self.shares["ff"] + self.shares["block"],
        )

    def close_step(
        self,
        step: Step,
        computed: Bool[Tensor, "g b"],
        reused: Bool[Tensor, "g b"],
        measured: dict[str, Float[Tensor, "g b"]],
        branch_gap: Float[Tensor, "g b"] | None = None,
    ) -> None:
        """Enter what the step did. Every array is replaced, so that a Signal stays true."""
        is_second = computed & (self.committed_at != NEVER)
        self.span = torch.where(is_second, step.index - self.committed_at, self.span)
        self.committed_at = torch.where(computed, step.index, self.committed_at)
        self.reuses = torch.where(computed, 0, self.reuses + reused)
        for name, value in measured.items():
            self.measured[name] = torch.where(computed, value, self.measured[name])
        if branch_gap is not None:
            self._enter_branches(step, branch_gap)
        by_site = reused.float().unflatten(0, (len(self.sites), self.num_layers)).mean(dim=1)
        self.shares = self.shares | dict(zip(self.sites, by_site, strict=True))

    def _enter_branches(self, step: Step, gap: Float[Tensor, "g b"]) -> None:
        is_new = ~gap.isnan()
        self.branch_gap = torch.where(is_new, gap, self.branch_gap)
        self.branch_at = torch.where(is_new, step.index, self.branch_at)
