"""Error of learned plans in cache-dit against the error of the same plans in this library.

    python -m benchmarks.quality.cache_dit_export \\
        --out benchmarks/results/cpu/cache-dit-export.json

Needs cache-dit 1.5.3 (``pip install --no-deps --target FOLDER cache-dit==1.5.3``, with FOLDER on
PYTHONPATH). Plans with 25 and 17 of 50 computed steps sample the digits model in diffusers' own
DiTPipeline: first in PlannedDiT, then with one thing less at a time, then exported to cache-dit,
which reads the file with ``load_configs``. cache-dit computes the first of the 8 blocks at every
step, so a plan with fewer computed steps stands beside it that computes as many blocks as
PlannedDiT. The error is the relative L2 distance of the final latent to the stock pipeline's, which
starts from the same noise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dqar.gate_table import GateTable
from dqar.integration import PlannedDiT
from dqar.schedules.static_plan import StaticPlan
from dqar.signals import relative_error
from dqar.step_schedule import StepSchedule
from pipeline.cluster.hardware import describe_machine
from pipeline.markdown import markdown_table
from pipeline.models.loading import load_model
from pipeline.models.model_info import find_model
from pipeline.statistics import normal_spread_of

PLANS = Path(__file__).parents[1] / "results" / "plans" / "digits.json"
"""Schedules that a policy planned for the digits model."""
BASES = (25, 17)
"""Computed steps of the plans: 2x and 3x fewer than 50."""
NULL = 1000
"""Class label of the unconditional branch in DiTPipeline."""
SEED = 7_000
"""Seed of the first sample's noise."""


Run: TypeAlias = Callable[[], AbstractContextManager]
"""Context of one run of a patched pipeline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A way to sample by a plan."""

    name: str
    """Row of the table."""
    plan: StaticPlan
    """Plan to sample by."""
    sampling: Callable[[Any, StaticPlan], AbstractContextManager[Run]]
    """Context in which a pipeline is patched for the plan."""


class LatentKeeper(nn.Module):
    """A stand-in for the VAE that keeps the latent which it is given."""

    config = SimpleNamespace(scaling_factor=1.0, block_out_channels=(1,))
    dtype, device = torch.float32, torch.device("cpu")
    latent = torch.zeros(0)

    def decode(self, latent: Tensor) -> SimpleNamespace:
        """Keep the latent, and return it as the image."""
        self.latent = latent
        return SimpleNamespace(sample=latent)


def digits_pipeline() -> Any:
    """Return the digits model in diffusers' DiTPipeline.

    The pipeline's unconditional label is 1000, so the table of labels gets 1001 rows, of which the
    digits' ten and the last are used.
    """
    from diffusers import DiTPipeline

    loaded = load_model(find_model("digits"), sampler="ddim", dtype="fp32", device="cpu")
    for block in loaded.transformer.transformer_blocks:
        embedder = block.norm1.emb.class_embedder
        rows = embedder.embedding_table.weight
        table = nn.Embedding(NULL + 1, rows.shape[1]).requires_grad_(False)
        table.weight[: len(rows)] = rows
        table.weight[NULL] = rows[-1]
        embedder.embedding_table = table
    keeper: Any = LatentKeeper()
    pipe = DiTPipeline(loaded.transformer, keeper, loaded.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents_of(pipe: Any, num_samples: int, guidance: float, steps: int) -> Float[Tensor, "b ..."]:
    """Return the final latents of samples, each with the noise of its own seed."""
    pipe(
        class_labels=[index % 10 for index in range(num_samples)],
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(SEED + index) for index in range(num_samples)],
        num_inference_steps=steps,
        output_type="pt",
    )
    return pipe.vae.latent


@contextmanager
def planned(pipe: Any, plan: StaticPlan) -> Iterator[Run]:
    """Patch a pipeline with PlannedDiT; yield the context of one run."""
    model = PlannedDiT(pipe.transformer, plan)
    try:
        yield partial(model.run, pipe.scheduler)
    finally:
        model.unpatch()


@contextmanager
def in_cache_dit(pipe: Any, plan: StaticPlan) -> Iterator[Run]:
    """Patch a pipeline with cache-dit, which reads the YAML file of the export; yield the context
    of one run."""
    import cache_dit  # pyright: ignore[reportMissingImports] installed for this script alone

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the feedback, which is left out
        path = Path(folder) / "plan.yaml"
        plan.export("cache-dit", path)
        cache_dit.enable_cache(pipe, **cache_dit.load_configs(str(path)))
    try:
        yield nullcontext
    finally:
        # Its patch of the transformer's forward stays: every variant has a pipeline of its own.
        cache_dit.disable_cache(pipe)


@contextmanager
def counted_attention(pipe: Any) -> Iterator[list[int]]:
    """Count the computations of the blocks' attention; the count is the list's only number."""
    count = [0]

    def add(*_: Any) -> None:
        count[0] += 1

    blocks = pipe.transformer.transformer_blocks
    handles = [one.attn1.to_q.register_forward_hook(add) for one in blocks]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


def variants(stored: dict[str, Any], num_computed: int, num_layers: int) -> Iterator[Variant]:
    """Yield the rows of the table for a number of computed steps."""
    steps = stored["steps"]
    schedules = {len(one["computed"]): one for one in reversed(stored["schedules"])}

    def plan(sites: tuple[str, ...], number: int, order: int | None, gain: float) -> StaticPlan:
        one = schedules[number]
        schedule = StepSchedule(
            computed=tuple(one["computed"]),
            forecast_order=one["forecast_order"] if order is None else order,
            feedback=gain,
        )
        gates = GateTable.regular(sites, num_layers)
        return StaticPlan.of_mask(
            schedule.mask(steps)[:, None].expand(-1, gates.num_gates),
            sites=sites,
            gates=gates,
            forecast_order=schedule.forecast_order,
            feedback=gain,
        )

    both, gain = tuple(stored["sites"]), schedules[num_computed]["feedback"]
    # Blocks that cache-dit computes: the first at each step, all others at computed steps.
    equal = (num_computed * num_layers - steps) // (num_layers - 1)
    rows = {
        "PlannedDiT": (plan(both, num_computed, None, gain), planned),
        "without feedback": (plan(both, num_computed, None, 0.0), planned),
        "and with site `block`": (plan(("block",), num_computed, None, 0.0), planned),
        "or with site `stack`": (plan(("stack",), num_computed, None, 0.0), planned),
        "cache-dit": (plan(both, num_computed, None, gain), in_cache_dit),
        "cache-dit, order 1": (plan(both, num_computed, 1, gain), in_cache_dit),
        "cache-dit, order 0": (plan(both, num_computed, 0, gain), in_cache_dit),
        f"cache-dit, {equal} computed steps": (plan(both, equal, None, gain), in_cache_dit),
    }
    for name, (one, sampling) in rows.items():
        yield Variant(name=name, plan=one, sampling=sampling)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the errors of all variants; return the content of the result file."""
    stored = json.loads(PLANS.read_text())
    num_samples, steps, guidance = arguments.num_samples, stored["steps"], stored["guidance"]
    pipe = digits_pipeline()
    num_layers = len(pipe.transformer.transformer_blocks)
    reference = latents_of(pipe, num_samples, guidance, steps)
    rows = []
    for base in BASES:
        for variant in variants(stored, base, num_layers):
            pipe = digits_pipeline()
            with variant.sampling(pipe, variant.plan) as run:
                with run():
                    first = latents_of(pipe, num_samples, guidance, steps)
                # The second run: the first of a planned model computes a forward more.
                with run(), counted_attention(pipe) as count:
                    latents = latents_of(pipe, num_samples, guidance, steps)
            rows.append(row_of(base, variant, relative_error(latents, reference), count[0]))
            before = relative_error(first, reference).mean().item()
            rows[-1]["first_run_rel_l2_mean"] = round(before, 6)
            print(f"{base} {variant.name}: {rows[-1]['latent_rel_l2_mean']}", flush=True)
    return {
        "command": "python -m benchmarks.quality.cache_dit_export "
        f"--num-samples {num_samples} --out FILE",
        "cache_dit": cache_dit_version(),
        "model": stored["model"],
        "steps": steps,
        "guidance": guidance,
        "num_samples": num_samples,
        "machine": describe_machine("cpu"),
        "rows": rows,
    }


def row_of(
    base: int, variant: Variant, errors: Float[Tensor, " samples"], count: int
) -> dict[str, Any]:
    """Return the result of a variant."""
    spread = normal_spread_of(errors.tolist())
    return {
        "base": base,
        "variant": variant.name,
        "computed_steps": sum(variant.plan.export("list")),
        "forecast_order": variant.plan.forecast_order,
        "attention_computations": count,
        "latent_rel_l2_mean": round(spread.mean, 6),
        "latent_rel_l2_ci95": [round(end, 6) for end in spread.ci95 or ()],
        "latent_rel_l2": [round(error, 7) for error in errors.tolist()],
    }


def table_of(rows: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    headers = ["sampled by", "computed steps", "computed blocks", "relative L2 error"]
    cells = [
        [
            row["variant"],
            str(row["computed_steps"]),
            str(row["attention_computations"]),
            normal_spread_of(row["latent_rel_l2"]).shown(".4f"),
        ]
        for row in rows
    ]
    return markdown_table(headers, cells)


def cache_dit_version() -> str:
    """Return the version of the installed cache-dit."""
    import cache_dit  # pyright: ignore[reportMissingImports] installed for this script alone

    return cache_dit.__version__


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-samples", type=int, default=32, help="samples of each variant")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    result = measure(arguments)
    # One line for each row, so that a diff shows which row changed.
    text = json.dumps(result).replace('{"base"', '\n{"base"') + "\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text)
    print(table_of(result["rows"]))


if __name__ == "__main__":
    main()
