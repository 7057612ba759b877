"""Fits of one training: a trial fit with validation, then a final fit on all noise samples."""

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
"""Most rows of the gate table that are held in memory for feature scales and validation. If there
are more, noise samples are drawn at random."""
NO_FLOOR = -30.0
"""Log squared error of a trajectory without reuse, for models fitted on one-step errors."""
Report = Callable[[int, float], None]
"""Function that is called with the optimizer step and the loss."""


def no_report(step: int, loss: float) -> None:
    """Ignore the step and the loss; a :data:`Report`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitter:
    """Data and settings that the fits of one training share."""

    label: Literal["final", "local"]
    """``final`` fits the final errors of trajectories, ``local`` the one-step errors of gates."""
    gates: Gates
    """Reused gates of all trajectories."""
    split: Split
    """Trajectories of each fit."""
    local_errors: Mapping[Subset, StoredLocalGates]
    """Random samples of gates with their one-step errors, for each part of the split."""
    config: FitConfig
    """Settings of the optimizer and of early stopping."""
    checkpoints: Path | None
    """Folder for checkpoints of the fits; None writes none."""
    claim: dict[str, str]
    """Digests of the configuration and the traces; checkpoints with other digests are ignored."""

    def load(self, chosen: Mask) -> ReusedGates:
        """Read the gates of some trajectories into memory, at most :data:`LOADED_ROWS` rows."""
        return bounded(self.gates.subset(chosen), LOADED_ROWS, self.config.seed).load()

    def fit_with_validation(self, spec: PolicySpec) -> DamageFit:
        """Fit on four fifths of the noise samples, with early stopping on the others."""
        return self._fit(spec, "trial", self.config, "fitted", "held_out")

    def refit(self, spec: PolicySpec, steps: int, report: Report) -> DamageFit:
        """Fit on all usable trajectories for a fixed number of steps, without early stopping."""
        config = replace(self.config, steps=steps)
        return self._fit(spec, "final", config, "usable", None, report)

    def fit_local_errors(self, spec: PolicySpec) -> ReusePolicy:
        """Fit on the one-step errors of the usable trajectories, for all ``config.steps`` steps.

        No checkpoint is written.
        """
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
