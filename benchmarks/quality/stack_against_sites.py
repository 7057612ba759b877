"""Errors of the site ``stack`` beside those of ``attn,ff``, at equal computed steps and FLOPs.

    python -m benchmarks.quality.stack_against_sites --out benchmarks/results/cpu/stack-digits.json

Uniform schedules of several numbers of computed steps and each forecast order run on the same noise
samples, so that errors are compared sample by sample. At equal FLOPs the logarithm of a sample's
error is interpolated linearly in the logarithm of the FLOPs, between a site's own schedules.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dqar.gates.rules import MaskGate
from dqar.records import ACTIONS
from pipeline.cluster.hardware import describe_machine
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.tasks import EvalTask
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.markdown import markdown_table
from pipeline.methods.base import OperatingPoint
from pipeline.methods.search.candidates import uniform_steps
from pipeline.models.model_info import find_model
from pipeline.statistics import normal_spread_of

SITES = (("attn", "ff"), ("stack",))
"""Sites that are compared: the second's errors are taken over the first's."""
NUMBERS = (25, 20, 17, 13, 10, 8)
"""Numbers of computed steps out of 50."""
RATIOS = (2.0, 3.0, 4.0)
"""Factors by which FLOPs are saved, at which errors are compared."""
SEED = 71
"""Random seed of the noise samples, which no other stage uses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Errors of a uniform schedule on all samples."""

    sites: tuple[str, ...]
    order: int
    computed: int
    """Number of computed steps."""
    flops_ratio: float
    """FLOPs of the reference samples over those of the schedule."""
    cache_mb: float
    errors: list[float]
    """Relative L2 error of each sample's final latent."""


def measure(config: EvaluateConfig, numbers: tuple[int, ...]) -> list[Measured]:
    """Measure every forecast order at each number of computed steps, for one set of sites."""
    worker, found = EvaluationWorker(config), []
    for order, number in product(range(len(ACTIONS)), numbers):
        reuse = torch.ones(config.steps, 1, 1, dtype=torch.bool)
        reuse[list(uniform_steps(config.steps, number))] = False
        point = OperatingPoint(
            method="uniform",
            operating_point=f"computed={number}",
            steps=config.steps,
            gate=MaskGate(reuse),
            forecast_order=order,
        )
        task = EvalTask(point=point, start=0, stop=config.num_samples)
        metrics = worker.measure_part(task).metrics
        one = Measured(
            sites=config.sites,
            order=order,
            computed=number,
            flops_ratio=metrics.reference_flops / metrics.flops,
            cache_mb=metrics.cache_bytes / 2**20,
            errors=metrics.errors,
        )
        print(f"{','.join(config.sites)} order {order} computed {number}", flush=True)
        found.append(one)
    return found


def compared(sites: list[float], stack: list[float]) -> dict[str, Any]:
    """Compare the errors of two sites on the same samples: means, mean difference, and the ratio
    of the geometric means, each with its 95% interval."""
    difference = normal_spread_of([b - a for a, b in zip(sites, stack, strict=True)])
    ratio = normal_spread_of([math.log(b / a) for a, b in zip(sites, stack, strict=True)])
    assert difference.ci95 is not None
    assert ratio.ci95 is not None
    return {
        "sites_error": normal_spread_of(sites).mean,
        "stack_error": normal_spread_of(stack).mean,
        "difference": difference.mean,
        "difference_ci95": list(difference.ci95),
        "ratio": math.exp(ratio.mean),
        "ratio_ci95": [math.exp(end) for end in ratio.ci95],
    }


def at_equal_steps(found: list[Measured]) -> list[dict[str, Any]]:
    """Compare the sites at each forecast order and number of computed steps."""
    by_place = {(one.sites, one.order, one.computed): one for one in found}
    places = [(one.order, one.computed) for one in found if one.sites == SITES[0]]
    rows = []
    for place in places:
        sites, stack = (by_place[names, *place] for names in SITES)
        row = {"order": place[0], "computed": place[1]}
        row |= {"sites_flops_ratio": sites.flops_ratio, "stack_flops_ratio": stack.flops_ratio}
        row |= {"sites_cache_mb": sites.cache_mb, "stack_cache_mb": stack.cache_mb}
        rows.append(row | compared(sites.errors, stack.errors))
    return rows


def at_equal_flops(found: list[Measured]) -> list[dict[str, Any]]:
    """Compare the sites at each forecast order and each of :data:`RATIOS` that both reach."""
    rows = []
    for order, ratio in product(sorted({one.order for one in found}), RATIOS):
        sides = [
            [one for one in found if (one.sites, one.order) == (names, order)] for names in SITES
        ]
        if all(_reaches(side, ratio) for side in sides):
            sites, stack = (errors_at(side, ratio) for side in sides)
            rows.append({"order": order, "flops_ratio": ratio} | compared(sites, stack))
    return rows


def _reaches(side: list[Measured], ratio: float) -> bool:
    reached = [one.flops_ratio for one in side]
    return min(reached) <= ratio <= max(reached)


def errors_at(side: list[Measured], ratio: float) -> list[float]:
    """Return each sample's error at a ratio of FLOPs between those of the measured schedules."""
    ordered = sorted(side, key=lambda one: one.flops_ratio)
    ratios = np.log([one.flops_ratio for one in ordered])
    errors = np.log([one.errors for one in ordered]).T
    return [float(np.exp(np.interp(math.log(ratio), ratios, own))) for own in errors]


def tables(result: dict[str, Any]) -> str:
    """Return both comparisons as markdown tables."""
    heads = ["order", "{}", "`attn,ff`", "`stack`", "difference", "`stack` over `attn,ff`"]
    parts = []
    for key, name, form in (("equal_steps", "computed", "d"), ("equal_flops", "flops_ratio", "g")):
        named = [head.format(name.replace("_", " ")) for head in heads]
        rows = [_shown(row, format(row[name], form)) for row in result[key]]
        parts.append(markdown_table(named, rows))
    return "\n\n".join(parts)


def _shown(row: dict[str, Any], place: str) -> list[str]:
    half = (row["difference_ci95"][1] - row["difference_ci95"][0]) / 2
    low, high = row["ratio_ci95"]
    return [
        str(row["order"]),
        place,
        f"{row['sites_error']:.4f}",
        f"{row['stack_error']:.4f}",
        f"{row['difference']:+.4f} ± {half:.4f}",
        f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]",
    ]


def compare_sites(config: EvaluateConfig, numbers: tuple[int, ...] = NUMBERS) -> dict[str, Any]:
    """Measure both sites; return the result's JSON without command and machine."""
    found = [one for names in SITES for one in measure(replace(config, sites=names), numbers)]
    return {"equal_steps": at_equal_steps(found), "equal_flops": at_equal_flops(found)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="file of the result, as JSON")
    parser.add_argument("--model", default="digits", help="model, as for jobs/evaluate.py")
    parser.add_argument("--num-samples", type=int, default=64, help="noise samples")
    parser.add_argument("--guidance-scale", type=float, help="default: that of the model")
    parser.add_argument(
        "--computed",
        default=",".join(map(str, NUMBERS)),
        help="numbers of computed steps; default: %(default)s",
    )
    parser.add_argument("--cache-bits", type=int, default=8, help="bits of a cached value")
    arguments = parser.parse_args(argv)
    info = find_model(arguments.model)
    config = EvaluateConfig(
        model=arguments.model,
        guidance_scale=arguments.guidance_scale or info.guidance_scale,
        num_samples=arguments.num_samples,
        cache_bits=arguments.cache_bits,
        seed=SEED,
    )
    result = {
        "command": f"python -m benchmarks.quality.stack_against_sites --model {arguments.model} "
        f"--num-samples {arguments.num_samples} --cache-bits {arguments.cache_bits} "
        f"--computed {arguments.computed}",
        "model_hash": info.model_hash,
        "steps": config.steps,
        "guidance_scale": config.guidance_scale,
        "seed": SEED,
        "machine": describe_machine("cpu"),
        "date": datetime.now(UTC).date().isoformat(),
    } | compare_sites(config, tuple(map(int, arguments.computed.split(","))))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(tables(result))


if __name__ == "__main__":
    main()
