"""The fits of one training: one validated on held-out noise samples, then one on all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.train.checkpoint import Checkpoint
from pipeline.train.damage_model import DamageFit, DamageModel, fit_damage
from pipeline.train.early_stopping import FitConfig
from pipeline.train.gate_table import Gates, ReusedGates, bounded
from pipeline.train.local_error_model import fit_local
from pipeline.train.local_error_sample import StoredLocalGates
from pipeline.train.training_data import Mask, Split, Subset

LOADED_ROWS = 2**17
"""Rows of gates that are held in memory for scales and validation; of more, those of noise samples
drawn at random."""
NO_FLOOR = -30.0
"""Log error of a trajectory without reuse, where one-step errors are learned from."""
Report = Callable[[int, float], None]
"""Called with the step and the loss."""


def no_report(step: int, loss: float) -> None:
    """A :data:`Report` that says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitter:
    """Data and settings that the fits share."""

    label: Literal["final", "local"]
    """Learn from final errors or from one-step errors."""
    gates: Gates
    """Reused gates of all trajectories."""
    split: Split
    """Which trajectories each fit takes."""
    local_errors: Mapping[Subset, StoredLocalGates]
    """Random gates with their one-step errors."""
    config: FitConfig
    """How the models are fitted."""
    checkpoints: Path | None
    """Folder for checkpoints of the fits; None for none."""
    claim: dict[str, str]
    """Digests of the configuration and the traces, which a checkpoint must share."""

    def load(self, chosen: Mask) -> ReusedGates:
        """Read some trajectories into memory, at most :data:`LOADED_ROWS` rows of them."""
        return bounded(self.gates.subset(chosen), LOADED_ROWS, self.config.seed).load()

    def fit_with_validation(self, spec: PolicySpec) -> DamageFit:
        """Fit on four fifths of the noise samples until the others are predicted worse."""
        return self._fit(spec, "trial", self.config, "fitted", "held_out")

    def refit(self, spec: PolicySpec, steps: int, report: Report) -> DamageFit:
        """Fit on all usable trajectories for a number of steps, on a cosine as long."""
        config = replace(self.config, steps=steps)
        return self._fit(spec, "final", config, "usable", None, report)

    def fit_local_errors(self, spec: PolicySpec) -> ReusePolicy:
        """Fit on one-step errors of the usable trajectories, for as long as fits may be. It keeps
        no checkpoint."""
        alike = replace(self, label="local", checkpoints=None)
        return alike._fit(spec, "local", self.config, "usable", None).model.policy

    def _fit(
        self,
        spec: PolicySpec,
        stage: str,
        config: FitConfig,
        fitted: Subset,
        held_out: Subset | None,
        report: Report = no_report,
    ) -> DamageFit:
        checkpoint = None
        if self.checkpoints is not None:
            claim = self.claim | {"steps": str(config.steps)}
            checkpoint = Checkpoint(self.checkpoints, stage, claim)
        if self.label == "local":
            few = None if held_out is None else self.local_errors[held_out].load()
            gates = self.local_errors[fitted].load()
            policy, state = fit_local(
                spec, gates, config, report, held_out=few, checkpoint=checkpoint
            )
            return DamageFit(model=DamageModel(policy=policy, log_floor=NO_FLOOR), state=state)
        gates = self.gates.subset(getattr(self.split, fitted))
        few = None if held_out is None else self.load(getattr(self.split, held_out))
        return fit_damage(spec, gates, config, report, held_out=few, checkpoint=checkpoint)
