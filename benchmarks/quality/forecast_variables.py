"""Variables of forecasts over unevenly spaced steps: step index, timestep, log SNR, angle, sigma.

    python -m benchmarks.quality.forecast_variables --out benchmarks/results/cpu

The model is sampled by DPM-Solver++ 2M over Karras sigmas. Of T steps, K compute, at the steps of a
spacing rule ``(T - 1) * (1 - (1 - k / (K - 1)) ** p)``; all others forecast by divided differences
in the variable: the residual of the whole stack of blocks (``--site stack``), or the outputs of
attention and feed-forward (``--site attn,ff``). The power p is chosen for each variable on
calibration noise samples, and the error is measured on others, paired over samples with that of the
step index.

The replay below is independent of the library's cache and controller; with the step index it gives
their images (tests/benchmarks/quality/test_forecast_variables.py).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dqar.integration import DQARSampler, SamplerConfig
from dqar.signals import relative_error
from dqar.snr import scheduler_snr
from pipeline.models.loading import LoadedModel, load_model, pick_device
from pipeline.models.model_info import find_model
from pipeline.models.noise import Purpose, draw_noise

SAMPLER = "dpm:solver_order=2,timestep_spacing=linspace,use_karras_sigmas=true"
POWERS = (1.0, 1.25, 1.5, 1.75)
"""Powers of the spacing rule that are tried on calibration noise samples."""
COMPUTED = (10, 12, 15, 20)
ORDERS = (1, 2)
VARIABLES: dict[str, Callable[[int, float, float], float]] = {
    "step": lambda step, timestep, snr: float(step),
    "timestep": lambda step, timestep, snr: timestep,
    "log_snr": lambda step, timestep, snr: math.log(snr),
    "angle": lambda step, timestep, snr: math.atan(snr**-0.5),
    "sigma": lambda step, timestep, snr: snr**-0.5,
}
"""Variable of a step by index, timestep and SNR. Log sigma is log SNR but for a factor, which
divided differences do not see."""


@dataclass(kw_only=True, slots=True)
class Replay:
    """Run in which the sites compute at some steps and forecast at all others."""

    computed: frozenset[int]
    """Steps that compute."""
    places: list[float]
    """Variable of each step."""
    order: int
    """Order of the forecasts."""
    step: int = -1
    """Step of the last call."""
    kept: dict[int, list[tuple[float, Tensor]]] = field(default_factory=dict)
    """Last computed values of each site with their variable, newest first."""

    def through(self, site: int, compute: Callable[[], Tensor]) -> Tensor:
        """Return the computed or the forecast value of a site."""
        place = self.places[self.step]
        if self.step in self.computed:
            value = compute()
            self.kept[site] = [(place, value), *self.kept.get(site, [])][: self.order + 1]
            return value
        return newton(self.kept[site], place)


def newton(known: list[tuple[float, Tensor]], place: float) -> Tensor:
    """Return Newton's interpolation polynomial through known values, newest first."""
    (at, value), *earlier = known
    if not earlier:
        return value
    first = (value - earlier[0][1]) / (at - earlier[0][0])
    forecast = value + (place - at) * first
    if len(earlier) > 1:
        (mid, middle), (far, last) = earlier
        second = (first - (middle - last) / (mid - far)) / (at - far)
        forecast = forecast + (place - at) * (place - mid) * second
    return forecast


@contextmanager
def replaying(transformer: Any, replay: Replay, site: str = "attn,ff") -> Iterator[None]:
    """Run the sites of a transformer through a replay."""
    blocks = list(transformer.transformer_blocks)
    plain = {module: module.forward for one in blocks for module in (one, one.attn1, one.ff)}

    def next_step(*_: Any) -> None:
        replay.step += 1

    def routed(place: int, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **named: replay.through(place, lambda: forward(*args, **named))

    def whole(hidden: Tensor, *args: Any, **named: Any) -> Tensor:
        def residual() -> Tensor:
            after = hidden
            for block in blocks:
                after = plain[block](after, *args, **named)
            return after - hidden

        return hidden + replay.through(0, residual)

    hook = transformer.register_forward_pre_hook(next_step)
    if site == "stack":
        blocks[0].forward = whole
        for block in blocks[1:]:
            block.forward = lambda hidden, *_, **__: hidden
    else:
        modules = [module for block in blocks for module in (block.attn1, block.ff)]
        for place, module in enumerate(modules):
            module.forward = routed(place, plain[module])
    try:
        yield
    finally:
        hook.remove()
        for module, forward in plain.items():
            module.forward = forward


def spaced(steps: int, computed: int, power: float) -> frozenset[int]:
    """Return the steps of the spacing rule; equal ones are moved to the next free step."""
    found: list[int] = []
    for k in range(computed):
        wanted = round((steps - 1) * (1 - (1 - k / (computed - 1)) ** power))
        found.append(max(wanted, found[-1] + 1 if found else 0))
    # The rule ends at the last step, behind which moved ones are not pushed.
    found = [min(step, steps - computed + k) for k, step in enumerate(found)]
    return frozenset(found)


def places_of(scheduler: Any, variable: str) -> list[float]:
    """Return a variable at each of the scheduler's steps."""
    timesteps = scheduler.timesteps.double().tolist()
    return [
        VARIABLES[variable](step, timestep, scheduler_snr(scheduler, timestep, step=step))
        for step, timestep in enumerate(timesteps)
    ]


class Measurement:
    """Errors of forecasts on noise samples of two purposes, against the run without forecasts."""

    def __init__(
        self, model: LoadedModel, steps: int, samples: int, seed: int, site: str = "stack"
    ) -> None:
        self.model, self.steps, self.samples, self.seed = model, steps, samples, seed
        self.site = site
        self.guidance = model.info.guidance_scale
        self.references = {purpose: self._sample(purpose) for purpose in ("calibrate", "evaluate")}

    def errors(
        self, purpose: Purpose, computed: frozenset[int], variable: str, order: int
    ) -> list[float]:
        """Return the relative L2 error of each sample's final latent."""
        places = places_of(self.model.scheduler, variable)
        replay = Replay(computed=computed, places=places, order=order)
        with replaying(self.model.transformer, replay, self.site):
            latents = self._sample(purpose)
        return relative_error(latents, self.references[purpose]).tolist()

    def _sample(self, purpose: Purpose) -> Tensor:
        info = self.model.info
        noise, labels = draw_noise(
            purpose, self.seed, range(self.samples), info.latent_shape, info.num_classes
        )
        config = SamplerConfig(num_inference_steps=self.steps, guidance_scale=self.guidance)
        sampler = DQARSampler(self.model.transformer, self.model.scheduler, config)
        device = self.model.transformer.device
        return sampler.sample(len(noise), labels.to(device), latents=noise.to(device))

    def row(self, variable: str, order: int, computed: int) -> dict[str, Any]:
        """Choose the power on calibration noise, then measure on evaluation noise."""
        tried = {
            power: self.errors("calibrate", spaced(self.steps, computed, power), variable, order)
            for power in POWERS
        }
        best = min(tried, key=lambda power: float(np.mean(np.log(tried[power]))))
        errors = self.errors("evaluate", spaced(self.steps, computed, best), variable, order)
        print(
            f"{variable:9} order {order} computed {computed:2}: {np.mean(errors):.4f}", flush=True
        )
        return {
            "variable": variable,
            "order": order,
            "computed": computed,
            "power": best,
            "latent_rel_l2": float(np.mean(errors)),
            "latent_rel_l2_p90": float(np.quantile(errors, 0.9)),
            "latent_rel_l2_worst": max(errors),
            "calibration_rel_l2": float(np.mean(tried[best])),
            "latent_rel_l2_samples": errors,
        }


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row its error over that of the step index: the geometric mean over samples, with
    a 95% interval of the paired log ratios."""
    base = {(one["order"], one["computed"]): one for one in rows if one["variable"] == "step"}
    for row in rows:
        other = base[row["order"], row["computed"]]["latent_rel_l2_samples"]
        logs = np.log(row["latent_rel_l2_samples"]) - np.log(other)
        half = 1.96 * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
        middle = float(np.mean(logs))
        row["ratio_to_step"] = math.exp(middle)
        row["ratio_to_step_ci95"] = [math.exp(middle - half), math.exp(middle + half)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--sampler", default=SAMPLER)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--num-samples", type=int, default=32)
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--site", choices=["stack", "attn,ff"], default="stack")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cpu"))
    args = parser.parse_args()
    info = find_model(args.model)
    model = load_model(info, sampler=args.sampler, dtype="fp32", device=pick_device())
    measurement = Measurement(model, args.steps, args.num_samples, args.seed, args.site)
    rows = [
        measurement.row(variable, order, computed)
        for computed in COMPUTED
        for order in ORDERS
        for variable in VARIABLES
    ]
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "model": args.model,
        "sampler": args.sampler,
        "steps": args.steps,
        "num_samples": args.num_samples,
        "seed": args.seed,
        "site": args.site,
        "powers": POWERS,
        "rows": with_ratios(rows),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"forecast-variables-{args.site.replace(',', '-')}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
