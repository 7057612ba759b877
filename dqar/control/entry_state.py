"""State of the cached entries between steps, from which the inputs of the gates are made.

For each gate (row) and sample (column): the step of the last computation, the spans between
computations, the number of reuses, and the last measurements. The state is updated once a step.

Counters are kept on the host, where gates decide. Measurements are kept on the model's device, and
those that the gates read are copied to the host together, once a step.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dqar.gate_table import GateTable
from dqar.records import SITES, WHOLE_SITES, GateInputs, Step

NEVER = -1
MEASURES = {"entropy": "entropy", "drift": "log_drift", "quant_error": "quant_error"}
"""Measurements taken at a computation, and the feature that is made of each."""
BRANCH_GAP = "branch_gap"


class EntryState:
    """State of all cached entries at the start of a step.

    Args:
        table: gates of the model whose result is cached.
        num_columns: columns that are decided separately: samples, or rows of independent branches.
        device: device of the model, where measurements are kept.
        order: wanted order of the forecasts that reuse shows, one number or one for each column.
        feedback: gain of the error feedback, one number or one for each column.
    """

    def __init__(
        self,
        table: GateTable,
        num_columns: int,
        device: torch.device,
        order: int | Int[Tensor, " b"] = 0,
        feedback: float | Float[Tensor, " b"] = 0.0,
    ) -> None:
        self.table = table
        shape = (table.num_gates, num_columns)
        self.shape = shape
        self.device = device
        self.wanted_order = torch.as_tensor(order).expand(num_columns)
        self.feedback = torch.as_tensor(feedback, dtype=torch.float32).expand(num_columns)
        self.committed_at = torch.full(shape, NEVER)
        self.span = torch.zeros(shape, dtype=torch.long)
        self.span_before = torch.zeros(shape, dtype=torch.long)
        self.reuses = torch.zeros(shape, dtype=torch.long)
        self.branch_at = torch.full(shape, NEVER)
        self.shares = {site: torch.zeros(num_columns) for site in SITES}
        self.blank = {name: torch.zeros(shape) for name in MEASURES}
        self.blank[BRANCH_GAP] = torch.full(shape, float("nan"))
        self.measured = {name: blank.to(device) for name, blank in self.blank.items()}

    def lengths(
        self, prompt_length: int | Float[Tensor, " s"], num_branches: int
    ) -> Float[Tensor, " b"]:
        """Prompt lengths by column, from one number or one for each sample.

        Args:
            num_branches: number of columns of each sample.

        Raises:
            ValueError: if the number of lengths is neither 1 nor the number of samples.
        """
        lengths = torch.as_tensor(prompt_length, dtype=torch.float32, device="cpu")
        if lengths.numel() == 1:
            return lengths.expand(self.shape[1])
        if lengths.numel() * num_branches != self.shape[1]:
            raise ValueError(
                f"prompt_length must be one number, or one a sample. Got {lengths.numel()} for "
                f"{self.shape[1] // num_branches} samples. Pass a tensor of that many."
            )
        return lengths.repeat(num_branches)

    def inputs(
        self,
        step: Step,
        log_latent_norm: Float[Tensor, " b"] | None,
        prompt_length: Float[Tensor, " b"],
        reads: frozenset[str],
    ) -> GateInputs:
        """Make the inputs of the gates of a step.

        Args:
            log_latent_norm: log of the latent's L2 norm, on the model's device; None if unread.
            reads: features that the gates read; other measurements are not copied from the device
                and are 0 (``branch_gap``: NaN).
        """
        cached = self.committed_at != NEVER
        seen = self._on_host(reads, log_latent_norm)
        return GateInputs(
            step=step,
            num_layers=self.table.num_layers,
            site=self.table.site_codes,
            layer=self.table.layers,
            cached=cached,
            gap=torch.where(cached, step.index - self.committed_at, 0),
            reuses=self.reuses,
            span=self.span,
            span_before=self.span_before,
            order=self._order(),
            feedback=self.feedback,
            entropy=seen["entropy"],
            drift=seen["drift"],
            quant_error=seen["quant_error"],
            branch_gap=seen[BRANCH_GAP],
            branch_age=step.index - self.branch_at,
            log_latent_norm=seen["log_latent_norm"][0],
            prompt_length=prompt_length,
            share_attn=self._share("attn"),
            share_ff=self._share("ff"),
        )

    def _share(self, site: str) -> Float[Tensor, " b"]:
        # A reused block or stack reuses attention and feed-forward, and excludes other sites.
        return torch.stack([self.shares[name] for name in (site, *WHOLE_SITES)]).sum(dim=0)

    def _order(self) -> Int[Tensor, "g b"]:
        differences = (self.span > 0).long() + (self.span_before > 0)
        return torch.minimum(differences, self.wanted_order)

    def _on_host(
        self, reads: frozenset[str], log_latent_norm: Float[Tensor, " b"] | None
    ) -> dict[str, Float[Tensor, "rows b"]]:
        """Copy the measurements that gates read to the host, all at once; others are blank."""
        features = MEASURES | {BRANCH_GAP: BRANCH_GAP}
        wanted = {name: self.measured[name] for name in features if features[name] in reads}
        if log_latent_norm is not None:
            wanted["log_latent_norm"] = log_latent_norm[None]
        blank = self.blank | {"log_latent_norm": torch.zeros(1, self.shape[1])}
        if not wanted:
            return blank
        copied = torch.cat(list(wanted.values())).cpu()
        parts = copied.split([len(value) for value in wanted.values()])
        return blank | dict(zip(wanted, parts, strict=True))

    def close_step(
        self,
        step: Step,
        computed: Bool[Tensor, "g b"],
        reused: Bool[Tensor, "g b"],
        measured: dict[str, Float[Tensor, "g b"]],
        compared: Bool[Tensor, "g b"] | None = None,
    ) -> None:
        """Update the state with the events of a finished step.

        Every tensor is replaced, not written to, so that earlier :class:`GateInputs` keep theirs.

        Args:
            computed: gates that computed a new value.
            reused: gates that reused the cached value.
            measured: measurements by name, on the model's device.
            compared: gates whose distance between guidance branches was measured.
        """
        is_second = computed & (self.committed_at != NEVER)
        self.span_before = torch.where(is_second, self.span, self.span_before)
        self.span = torch.where(is_second, step.index - self.committed_at, self.span)
        self.committed_at = torch.where(computed, step.index, self.committed_at)
        self.reuses = torch.where(computed, 0, self.reuses + reused)
        if compared is not None:
            self.branch_at = torch.where(compared, step.index, self.branch_at)
        self._enter_measures(computed, compared, measured)
        slices = self.table.slices
        self.shares = self.shares | {
            site: reused[gates].float().mean(dim=0) for site, gates in slices.items()
        }

    def _enter_measures(
        self, computed: Tensor, compared: Tensor | None, measured: dict[str, Tensor]
    ) -> None:
        if measured:
            self._follow(next(iter(measured.values())).device)
        for name, value in measured.items():
            where = compared if name == BRANCH_GAP and compared is not None else computed
            where = where.to(value.device)
            self.measured[name] = torch.where(where, value, self.measured[name])

    def _follow(self, device: torch.device) -> None:
        # Under manual control step 0 may begin without a latent, and so without a known device.
        if device != self.device:
            self.device = device
            self.measured = {name: value.to(device) for name, value in self.measured.items()}
