"""The DQAR controller: runs the gate once a step, and serves the sites of a model from the cache.

A patched model calls :meth:`DQARController.through` once for each site. A hand-written model calls
the DQAR paper's ``should_reuse``, ``commit`` and ``reuse`` instead (:mod:`dqar.control.manual`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dqar.cache.cache import Balance, ReuseCache
from dqar.cache.site_tensors import Compute, Parts
from dqar.config import DQARConfig
from dqar.control.branch_sharing import BranchSharing
from dqar.control.step_control import StepControl
from dqar.control.summary import ReuseSummary, summarize
from dqar.gate_table import GateTable
from dqar.gates.base import AllOf, Gate
from dqar.gates.paper_cascade import paper_cascade, policy_config, policy_gate
from dqar.gates.rules import RequireCached
from dqar.policy.network import ReusePolicy
from dqar.records import DecisionReason, EntryKey, GateRecord


class DQARController(StepControl):
    """The controller of one sampling run at a time: decides each step, and owns the cache.

    Args:
        config: settings of gate, cache and layer schedule.
        num_layers: transformer blocks of the model; set by :meth:`bind` for a patched model.
        num_heads: attention heads of the model, for a cache with scales per head; set by
            :meth:`bind` for a patched model.
        gate: replaces the DQAR paper's cascade, which ``config`` describes.
        policy: a learned policy that becomes the last gate of the cascade.
        exposure: collection mode. Every site computes, so that the local error of a reuse is
            measured, and the decision selects only the value that the sampler sees.
        sink: receives a :class:`GateRecord` after each step. With a sink every feature is
            measured; without a sink, only the features that the gate reads.
        balance: salience balance factors of the cache, from
            :func:`dqar.integration.calibrate_balance`.
        forecast_order: a forecast order for each sample, in place of the configuration's, which
            is the largest that takes effect.
        feedback: a gain of the error feedback for each sample, in place of the configuration's.

    Raises:
        ValueError: if a policy does not fit the configuration, or if the configuration shares
            branches in exposure.
    """

    def __init__(
        self,
        config: DQARConfig | None = None,
        *,
        num_layers: int | None = None,
        num_heads: int | None = None,
        gate: Gate | None = None,
        policy: ReusePolicy | None = None,
        exposure: bool = False,
        sink: Callable[[GateRecord], None] | None = None,
        balance: Balance | None = None,
        forecast_order: Int[Tensor, " b"] | None = None,
        feedback: Float[Tensor, " b"] | None = None,
    ) -> None:
        self.config = config or DQARConfig()
        self.num_layers = num_layers
        self._bound: GateTable | None = None
        self.num_heads = num_heads
        self.branches: tuple[str, ...] = ()
        self.gate = AllOf(gate or paper_cascade(self.config, policy), RequireCached())
        for decides in self.gate.policies:
            decides.spec.refuse_misfit(
                self.config.sites,
                self.config.branch_mode,
                self.config.cached,
                self.config.forecast_order,
                self.config.feedback,
            )
        self.exposure = exposure
        self.sink = sink
        self.balance = balance
        self.forecast_order = forecast_order
        self.feedback = feedback
        self.sharing = BranchSharing.of(self.config, exposure=exposure)
        self._reset()

    @classmethod
    def of_policy(cls, policy: ReusePolicy, **options: Any) -> DQARController:
        """Make a controller whose only gate is a policy, with the sites, cache and forecasts that
        the policy was trained with. Patch the model with the controller's :attr:`config`.

        Args:
            options: further arguments of the constructor.
        """
        return cls(policy_config(policy.spec), gate=policy_gate(policy), **options)

    @property
    def cache(self) -> ReuseCache:
        """The cache of last computed values, without their differences."""
        return ReuseCache({}) if self._run is None else self._run.history.values

    def bind(
        self,
        model: int | GateTable,
        num_heads: int | None = None,
        branches: tuple[str, ...] = (),
    ) -> None:
        """Set the shape of the model.

        Args:
            model: its gates; a number of layers stands for as many equal blocks.
            branches: guidance branches in the order in which the batch stacks them.

        Raises:
            ValueError: if the controller belongs to a model with another number of blocks, or if
                the model lacks one of the configuration's sites.
        """
        table = GateTable.of(self.config.sites, model)
        if self.num_layers not in (None, table.num_layers):
            raise ValueError(
                f"num_layers must be the model's. Got {self.num_layers} for a model of "
                f"{table.num_layers} blocks. Make a controller for each model."
            )
        self.num_layers, self._bound = table.num_layers, table
        self.num_heads = num_heads or self.num_heads
        self.branches = branches

    def through(self, layer: int, site: str, compute: Compute) -> Parts:
        """Return a site's parts for the whole batch, where each row is computed or reused.

        The tensors may belong to the cache: do not write to them, nor read them after the step.

        Args:
            compute: called with the rows to compute, or None for all rows; not called if every
                row reuses.

        Raises:
            ValueError: if no step is open.
        """
        opened = self._opened()
        gate = opened.entries.table.index(site, layer)
        branch = opened.executor.calls.current.branch
        return opened.executor.through(EntryKey(site, layer, branch), gate, compute)

    def begin_call(
        self,
        branch: str,
        *,
        num_rows: int | None = None,
        layers: range | None = None,
        is_new: bool = False,
    ) -> None:
        """Begin one call of the model within the open step, in a pipeline that calls the model once
        for each guidance branch, or whose number of branches changes during a run.

        The calls of a step share its decisions; each branch has its own entries. A branch that the
        step before did not call, or called with another number of rows, computes everything.

        Args:
            branch: name of the branch; ``STACKED`` for a call that holds all branches.
            num_rows: rows of the call's batch.
            layers: layers that the call can reach, in a model of several transformers; all layers
                by default. Gates of other layers do not count in this step.
            is_new: True if the branch's earlier entries belong to other conditions, so that the
                call computes everything.

        Raises:
            ValueError: if no step is open.
        """
        opened, run = self._opened(), self._run
        assert run is not None
        run.calls.begin(branch, opened.inputs.step.index, num_rows, is_new=is_new)
        if layers is not None:
            depth = opened.inputs.layer
            opened.log.reach((depth >= layers.start) & (depth < layers.stop))

    def corrected(self, output: Float[Tensor, "r *axes"]) -> Float[Tensor, "r *axes"]:
        """Return the model's output at the open step, corrected by the error feedback. Without
        feedback, or at a step without correction, the output itself. Call it once a step."""
        opened = self._opened()
        codes = opened.codes
        assert self._run is not None
        if not self._run.feedback.is_on:
            return output
        reused = (torch.tensor(codes) == DecisionReason.REUSE)[opened.log.present]
        share = reused.double().mean(dim=0)
        return self._run.feedback.through(self._run.calls.current, output, share)

    def free_cache(self) -> None:
        """Release all tensors that the last run cached. The next run allocates them again; a step
        of the last run that comes nevertheless computes everything. :meth:`summary` stays as it is.

        Raises:
            ValueError: if a step is open.
        """
        if self._open is not None:
            raise ValueError(
                "The cache must be freed between runs. Got a controller with an open step. Leave "
                "the run first, or call finish_step()."
            )
        if self._run is not None:
            self._freed_bytes, self._run = self._run.nbytes, None

    def summary(self) -> ReuseSummary:
        """Counts of reuses and refusals since step 0, including the open step so far."""
        reasons, orders = self._reasons, self._orders_shown
        if self._open is not None:
            reasons = [*reasons, self._open.log.outcome]
            orders = [*orders, self._open.inputs.order]
        kept = self._freed_bytes if self._run is None else self._run.nbytes
        return summarize(reasons, self._table(), kept, orders)
