"""State of one sampling run: cached histories, the state of their entries, and error feedback."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.cache.cache import Balance
from dqar.cache.forecast_coefficients import ManualForecastHistory
from dqar.cache.history import History
from dqar.config import DQARConfig
from dqar.control.branch_calls import BranchCalls, BranchFeedback
from dqar.control.entry_state import EntryState
from dqar.control.per_sample import gains_of, orders_of
from dqar.gate_table import GateTable


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """Settings of a controller's runs that hold for a whole run."""

    config: DQARConfig
    balance: Balance | None
    """Salience balance factors of the cache."""
    forecast_order: Int[Tensor, " s"] | None
    """A forecast order for each sample, in place of the configuration's."""
    feedback: Float[Tensor, " s"] | None
    """A gain of the error feedback for each sample, in place of the configuration's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """All tensors that a controller keeps between the steps of a run."""

    history: History
    """Cached values and their divided differences."""
    entries: EntryState
    """Counters and measurements of the entries."""
    by_hand: ManualForecastHistory
    """Steps at which entries under manual control were computed."""
    feedback: BranchFeedback
    """Error feedback of the run."""
    calls: BranchCalls
    """Calls of the model by guidance branch, where branches are called separately."""

    @classmethod
    def of(
        cls,
        settings: RunSettings,
        *,
        table: GateTable,
        num_heads: int | None,
        columns_of_a_sample: int,
        num_samples: int,
        device: torch.device,
    ) -> RunState:
        """Make the state of a run that has cached nothing yet.

        Args:
            num_samples: columns that are decided separately: samples, or rows of independent
                branches.
        """
        config = settings.config
        kept, columns = config.forecast_order, (columns_of_a_sample, num_samples)
        order = orders_of(config, settings.forecast_order, *columns)
        gain = gains_of(config, settings.feedback, *columns)
        entries = EntryState(table, num_samples, device, order, gain)
        return cls(
            history=History.of(config.cache_formats(num_heads), settings.balance, kept),
            entries=entries,
            by_hand=ManualForecastHistory(entries.wanted_order, kept),
            feedback=BranchFeedback(gain=gain),
            calls=BranchCalls(),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the cache and of the error feedback's outputs."""
        return self.history.nbytes + self.feedback.nbytes
