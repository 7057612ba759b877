"""The fits of one training: on most of the noises, ended by the others, then on all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.traces.dataset import TraceUris
from pipeline.train.checkpoint import Checkpoint
from pipeline.train.damage_model import DamageFit, DamageModel, fit_damage
from pipeline.train.early_stopping import FitConfig
from pipeline.train.gate_table import Gates, ReusedGates, bounded
from pipeline.train.local_error_model import LocalGates, fit_local
from pipeline.train.training_data import HELD_OUT_LOCAL_ROWS, LOCAL_ROWS, local_labels

LOOK_ROWS = 2**17
"""Rows of gates that are looked at as a whole, for scales and held-out figures; of more, those of
noises drawn at random."""
NO_FLOOR = -30.0
"""Log error of a trajectory without reuse, where single gates are learned from."""
Mask = Bool[Tensor, " trajectories"]
"""Which trajectories."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitter:
    """What both fits share."""

    uri: TraceUris
    label: Literal["final", "local"]
    gates: Gates
    """Of all trajectories."""
    config: FitConfig
    checkpoints: Path | None
    """Where fits may be taken up; None for nowhere."""
    claim: dict[str, str]
    """What the fits are of."""

    def look(self, chosen: Mask) -> ReusedGates:
        """Some trajectories in memory, at most :data:`LOOK_ROWS` rows of them."""
        return bounded(self.gates.subset(chosen), LOOK_ROWS, self.config.seed).load()

    def trial(self, spec: PolicySpec, fitted: Mask, held_out: Mask) -> DamageFit:
        """Fit until held-out trajectories are predicted worse."""
        return self._fit(spec, "trial", self.config, fitted, held_out)

    def final(
        self, spec: PolicySpec, fitted: Mask, steps: int, report: Callable[[int, float], None]
    ) -> DamageFit:
        """Fit for as many steps as a trial was kept after, on a cosine as long."""
        return self._fit(spec, "final", replace(self.config, steps=steps), fitted, None, report)

    def local(self, spec: PolicySpec, fitted: Mask) -> ReusePolicy:
        """A fit on the one-step errors of the same gates, as long as fits may be; begun anew where
        a training was cut off."""
        alike = replace(self, label="local", checkpoints=None)
        return alike._fit(spec, "local", self.config, fitted, None).model.policy

    def _fit(
        self,
        spec: PolicySpec,
        stage: str,
        config: FitConfig,
        fitted: Mask,
        held_out: Mask | None,
        report: Callable[[int, float], None] = lambda step, loss: None,
    ) -> DamageFit:
        checkpoint = None
        if self.checkpoints is not None:
            claim = self.claim | {"steps": str(config.steps)}
            checkpoint = Checkpoint(self.checkpoints, stage, claim)
        if self.label == "local":
            few = None if held_out is None else self._labels(spec, held_out, HELD_OUT_LOCAL_ROWS)
            gates = self._labels(spec, fitted, LOCAL_ROWS)
            policy, descended = fit_local(
                spec, gates, config, report, held_out=few, checkpoint=checkpoint
            )
            model = DamageModel(policy=policy, log_floor=NO_FLOOR)
            return DamageFit(model=model, descended=descended)
        gates, few = self.gates.subset(fitted), None if held_out is None else self.look(held_out)
        return fit_damage(spec, gates, config, report, held_out=few, checkpoint=checkpoint)

    def _labels(self, spec: PolicySpec, chosen: Mask, rows: int) -> LocalGates:
        features, log_error = local_labels(
            self.uri, chosen, spec.features, spec.sites, rows, self.config.seed
        )
        return LocalGates(features=features, log_error=log_error)
