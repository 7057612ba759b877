"""The controller acts on what the gates decide. It alone touches the cache.

The seed's four verbs drive one site at a time by hand (``begin_step``, ``should_reuse``,
``commit``, ``reuse``); :meth:`DQARController.through` is the same in one call, for a module that
can compute some rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dqar.cache import ReuseCache
from dqar.config import DQARConfig
from dqar.exchange import Compute, Decision, Fresh
from dqar.gates import MEASURED, AllOf, Cached, Gate, seed_cascade
from dqar.ledger import Ledger
from dqar.policy import ReusePolicy
from dqar.records import STACKED, EntryKey, GateRecord, Reason, Step, Verdict
from dqar.signals import cosine_snr, log_norm, map_entropy, relative_error
from dqar.summary import ReuseSummary, summarize
from dqar.tape import Rows, StepTape, rows_that_compute

CLASS_PROMPT_LENGTH = 16
"""Prompt length of a class-conditional model, so that tau(p) = tau_base."""


class DQARController:
    """Runs the gates once a step and keeps the cache.

    Args:
        config: gate, cache and schedule values.
        num_layers: transformer blocks; an integration fills it in with :meth:`bind`.
        gate: replaces the seed's cascade that ``config`` describes.
        policy: the last gate of that cascade.
        exposure: compute every site, so that the local error is known, and let the verdict
            decide only what the sampler sees.
        sink: receives a :class:`GateRecord` after each step. With a sink every feature is
            measured; without one, only what the gate needs.
    """

    def __init__(
        self,
        config: DQARConfig | None = None,
        *,
        num_layers: int | None = None,
        gate: Gate | None = None,
        policy: ReusePolicy | None = None,
        exposure: bool = False,
        sink: Callable[[GateRecord], None] | None = None,
    ) -> None:
        self.config = config or DQARConfig()
        self.num_layers = num_layers
        self.gate = AllOf(gate or seed_cascade(self.config, policy), Cached())
        self.exposure = exposure
        self.sink = sink
        self.cache = ReuseCache(self.config.cache_dtype)
        self.needs = MEASURED if sink or exposure else self.gate.needs
        self._reset()

    def _reset(self) -> None:
        self.cache.clear()
        self._ledger: Ledger | None = None
        self._step: Step | None = None
        self._asked: list[Tensor] = []

    def bind(self, num_layers: int) -> None:
        """Tell how many blocks the model has. Refuses a controller bound to another depth."""
        if self.num_layers not in (None, num_layers):
            raise ValueError(
                f"num_layers must be the model's. Got {self.num_layers} for a model of "
                f"{num_layers}. Make a controller for each model."
            )
        self.num_layers = num_layers

    def begin_step(
        self,
        step: int,
        total_steps: int,
        prompt_length: int | Float[Tensor, " b"] = CLASS_PROMPT_LENGTH,
        *,
        timestep: float | None = None,
        snr: float | None = None,
        latent: Float[Tensor, "b *axes"] | None = None,
        num_samples: int | None = None,
    ) -> None:
        """Decide every gate of a step. Step 0 forgets the previous run.

        Args:
            prompt_length: tokens of the prompt, one for all or one a sample.
            timestep: the scheduler's timestep; steps to go by default.
            snr: estimated from a cosine schedule when not given.
            latent: the sampler's latent, for its norm and for the number of samples.
            num_samples: decisions side by side; 1 by default.
        """
        self.finish_step()
        if step == 0:
            self._reset()
        snr = cosine_snr(1.0 - step / total_steps) if snr is None else snr
        timestep = float(total_steps - step) if timestep is None else timestep
        self._step = Step(index=step, total=total_steps, timestep=timestep, snr=snr)
        ledger = self._open_ledger(latent, num_samples)
        self._signal = ledger.signal(
            self._step, self._latent_norm(latent), self._lengths(prompt_length)
        )
        self._decide(self.gate.decide(self._signal))

    def _open_ledger(self, latent: Tensor | None, num_samples: int | None) -> Ledger:
        if num_samples is None:
            num_samples = len(latent) if latent is not None else 1
            if self._ledger is not None and latent is None:
                num_samples = self._ledger.shape[1]
        if self._ledger is None:
            device = torch.device("cpu") if latent is None else latent.device
            self._ledger = Ledger(self.config.sites, self._depth(), num_samples, device)
        if self._ledger.shape[1] != num_samples:
            raise ValueError(
                "The number of samples must stay the same from step 0 on. Got "
                f"{num_samples} after {self._ledger.shape[1]}. Begin a new run with step 0."
            )
        return self._ledger

    def _depth(self) -> int:
        if self.num_layers is None:
            raise ValueError(
                "num_layers must be known before the first step. Got None. "
                "Pass num_layers=, or attach the controller to a model."
            )
        return self.num_layers

    def _latent_norm(self, latent: Tensor | None) -> Tensor:
        ledger = self._books()
        if latent is None or "log_latent_norm" not in self.needs:
            return torch.zeros(ledger.shape[1], device=ledger.device)
        return log_norm(latent)

    def _lengths(self, prompt_length: int | Tensor) -> Tensor:
        ledger = self._books()
        lengths = torch.as_tensor(prompt_length, dtype=torch.float32, device=ledger.device)
        if lengths.ndim == 1 and ledger.shape[1] % len(lengths) == 0:
            # Independent branches: one decision a row, so each sample's length serves its rows.
            return lengths.repeat(ledger.shape[1] // len(lengths))
        return lengths.expand(ledger.shape[1])

    def _decide(self, verdict: Verdict) -> None:
        # One device-to-host copy for all gates of a step.
        self._codes: list[list[int]] = verdict.reason.tolist()
        self._tape = StepTape(verdict)

    def _books(self) -> Ledger:
        if self._ledger is None:
            raise ValueError("A step must be open. Got none. Call begin_step first.")
        return self._ledger

    def should_reuse(self, layer: int, branch: str = STACKED, site: str = "attn") -> Decision:
        """The verdict for one gate; refuses as ``cold`` where this branch has no entry yet."""
        key = EntryKey(site, layer, branch)
        gate = self._books().gate(site, layer)
        codes = self._codes[gate]
        if key not in self.cache:
            codes = [int(Reason.COLD) if code == Reason.REUSE else code for code in codes]
        mask = tuple(code == Reason.REUSE for code in codes)
        return Decision(mask=mask, reasons=tuple(Reason(code) for code in codes), entry=key)

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
        if entropy is not None:
            self._tape.measure("entropy", gate, entropy, None)
        self.cache.store(EntryKey(site, layer, branch), parts)
        self._tape.mark_committed(gate, None, branch)

    def reuse(self, entry: EntryKey) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Keys, values and output (residual) of an entry; None for what was not cached."""
        gate = self._books().gate(entry.site, entry.layer)
        self._tape.mark_reused(gate, entry.branch)
        found = self.cache.fetch(entry)
        return found.keys, found.values, found.output

    def through(self, layer: int, site: str, compute: Compute) -> Tensor:
        """A site's output for the whole stacked batch: computed, reused, or some rows of each."""
        key = EntryKey(site, layer)
        gate = self._books().gate(site, layer)
        if self.exposure:
            return self._expose(key, gate, compute)
        mask = [code == Reason.REUSE for code in self._codes[gate]]
        if not any(mask):
            fresh = compute(None)
            self._enter(key, gate, fresh, None)
            return fresh.output
        self._tape.mark_reused(gate)
        cached = self.cache.fetch_output(key)
        return cached if all(mask) else self._mix(key, gate, compute, cached)

    def _mix(self, key: EntryKey, gate: int, compute: Compute, cached: Tensor) -> Tensor:
        rows = rows_that_compute(self._tape.verdict.reuse[gate], len(cached))
        fresh = compute(rows.rows)
        mixed = cached.index_copy(0, rows.rows, fresh.output)
        self._enter(key, gate, fresh, rows)
        return mixed

    def _expose(self, key: EntryKey, gate: int, compute: Compute) -> Tensor:
        fresh = compute(None)
        if key not in self.cache:
            self._enter(key, gate, fresh, None)
            return fresh.output
        reuse = self._tape.verdict.reuse[gate]
        cached = self.cache.fetch_output(key)
        self._tape.note_local_error(gate, relative_error(cached, fresh.output))
        self._tape.mark_reused(gate)
        rows = rows_that_compute(reuse, len(cached))
        if len(rows.rows):
            self._enter(key, gate, fresh.take(rows.rows), rows)
        seen_by_sampler = reuse.repeat(len(cached) // len(reuse))
        return torch.where(seen_by_sampler[:, None, None], cached, fresh.output)

    def _enter(self, key: EntryKey, gate: int, fresh: Fresh, rows: Rows | None) -> None:
        if fresh.entropy is not None:
            self._tape.measure("entropy", gate, fresh.entropy, rows)
        if "log_drift" in self.needs and key in self.cache:
            self._measure_against_cache("drift", key, gate, fresh, rows)
        self.cache.store(key, {"output": fresh.output}, None if rows is None else rows.rows)
        if "quant_error" in self.needs:
            self._measure_against_cache("quant_error", key, gate, fresh, rows)
        self._tape.mark_committed(gate, rows)

    def _measure_against_cache(
        self, name: str, key: EntryKey, gate: int, fresh: Fresh, rows: Rows | None
    ) -> None:
        cached = self.cache.fetch_output(key)
        cached = cached if rows is None else cached[rows.rows]
        self._tape.measure(name, gate, relative_error(cached, fresh.output), rows)

    def finish_step(self) -> None:
        """Close the step that is open: enter it into the books and tell the sink."""
        if self._step is None or self._ledger is None:
            return
        tape = self._tape
        self._asked.append(torch.tensor(self._codes, dtype=torch.uint8))
        if self.sink is not None:
            error = tape.local_error
            self.sink(GateRecord(signal=self._signal, verdict=tape.verdict, local_rel_error=error))
        self._ledger.close_step(self._step, tape.computed, tape.reused, tape.measured)
        self._step = None

    def drop_step(self) -> None:
        """Forget a step that was broken off; nothing of it reaches the books or the sink."""
        self._step = None

    def summary(self) -> ReuseSummary:
        """What fired since step 0; closes the open step."""
        self.finish_step()
        return summarize(self._asked, self.config.sites, self._depth(), self.cache.nbytes)
