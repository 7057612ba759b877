"""Claims of the DQAR paper and talk on the shipped model: cached value, cache format, signal.

    python -m benchmarks.quality.paper_claims --out runs/seed-claims

Every case runs with each of 5 random seeds, on the same evaluation noise for all cases of a seed.
The tables go to standard output and to ``table.md`` in the folder. A seed whose file exists there
is read and not sampled again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dqar.config import DQARConfig
from dqar.gates.base import AllOf, Gate
from dqar.gates.paper_cascade import paper_cascade
from dqar.gates.rules import (
    EntropyBelow,
    Interval,
    MaxReuses,
    NeverReuse,
    RequireCached,
    Scheduled,
    SnrBand,
    Staleness,
    Warmup,
)
from dqar.layer_schedule import LayerSchedule
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.markdown import markdown_table
from pipeline.methods.base import PAPER_WARMUP, OperatingPoint
from pipeline.methods.calibration import CalibrationTask
from pipeline.methods.threshold import PAPER_MAX_GAP
from pipeline.report.frontier import error_at
from pipeline.statistics import spread_of

SEEDS = (11, 12, 13, 14, 15)
INFINITE = float("inf")
QUANTILES = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
RATIOS = (0.2, 0.3, 0.4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A cache setting, and the gates to run with it."""

    name: str
    """Value of ``method`` in the rows of this case."""
    cache: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`EvaluateConfig`."""
    gates: tuple[tuple[str, Gate], ...] = (("interval=2", Interval(2)),)


def cache_cases() -> Iterator[Case]:
    """Yield cache formats at equal reuse, for outputs and for keys and values."""
    periods = tuple((f"interval={period}", Interval(period)) for period in (2, 3, 4))
    for cached in ("output", "kv"):
        keep = {"cached": cached}
        yield Case(name=f"{cached} fp32", cache=keep | {"cache_bits": 32}, gates=periods)
        yield Case(name=f"{cached} fp16", cache=keep | {"cache_bits": 16})
        for bits in (8, 4, 2):
            for granularity in ("per_tensor", "per_channel", "per_head"):
                fields = keep | {"cache_bits": bits, "cache_granularity": granularity}
                yield Case(name=f"{cached} int{bits} {granularity}", cache=fields)
            fields = keep | {"cache_bits": bits, "balanced": True}
            yield Case(name=f"{cached} int{bits} per_tensor balanced", cache=fields)
    for bits in (8, 4):
        fields = {"cached": "kv", "cache_bits": bits, "quantize_keys": False}
        yield Case(name=f"kv K16/V{bits} per_tensor", cache=fields)


def paper_case() -> Case:
    """Gates with the settings of the DQAR paper and talk, the recommended setting among them."""
    linear = partial(LayerSchedule, schedule_type="linear", warmup_fraction=PAPER_WARMUP)
    reverse = partial(LayerSchedule, schedule_type="linear-reverse", warmup_fraction=PAPER_WARMUP)
    # A bounded gap separates the effect of depth from the effect of an entry never refreshed.
    fresh = Staleness(2)
    gates = {
        "LINEAR 1/2 (recommended)": Scheduled(linear(layer_fraction=0.5)),
        "LINEAR 1": Scheduled(linear()),
        "LINEAR reverse 1/2": Scheduled(reverse(layer_fraction=0.5)),
        "LINEAR reverse 1": Scheduled(reverse()),
        "LINEAR 1, gap at most 2": AllOf(Scheduled(linear()), RequireCached(), fresh),
        "LINEAR reverse 1, gap at most 2": AllOf(Scheduled(reverse()), RequireCached(), fresh),
        "cascade, README values": paper_cascade(DQARConfig()),
        "cascade, talk's values": paper_cascade(DQARConfig.slides()),
    }
    return Case(name="seed", gates=tuple(gates.items()))


def signal_case(entropies: Any) -> Case:
    """Gates of entropy, SNR and both, each with the DQAR paper's warm-up, gap and reuse limits."""
    taus = {q: float(entropies.quantile(q)) * (1.0 + 1e-6) for q in QUANTILES}
    windows = [(0.0, high) for high in (0.02, 0.06, 0.2, 0.6, 2.0, 10.0, 100.0, INFINITE)]
    gates: list[tuple[str, Gate]] = []
    for quantile, tau in taus.items():
        gates.append((f"entropy alone q{quantile:g}", _signal_gate(tau, 0.0, INFINITE)))
        gates.append((f"entropy and SNR q{quantile:g}", _signal_gate(tau, 0.1, 10.0)))
    gates += [
        (f"SNR alone [0, {high:g}]", _signal_gate(INFINITE, low, high)) for low, high in windows
    ]
    return Case(name="signals", gates=tuple(gates))


def _signal_gate(tau: float, low: float, high: float) -> Gate:
    limits = Staleness(PAPER_MAX_GAP), MaxReuses(PAPER_MAX_GAP)
    return AllOf(
        Warmup(PAPER_WARMUP), RequireCached(), *limits, EntropyBelow(tau), SnrBand(low, high)
    )


def measure_seed(seed: int, num_samples: int) -> list[dict[str, Any]]:
    """Rows of one random seed; its reference samples are sampled once for all cases."""
    config = partial(
        EvaluateConfig, model="digits", guidance_scale=2.0, num_samples=num_samples, seed=seed
    )
    first = EvaluationWorker(config())
    reference = first.measure(
        OperatingPoint(method="baseline", operating_point="twin", steps=50)
    ).row
    observed = first.calibrate(CalibrationTask(name="observe", gate=NeverReuse(), num_samples=32))
    rows = [reference]
    for case in [*cache_cases(), paper_case(), signal_case(observed.entropies)]:
        worker = EvaluationWorker(config(**case.cache))
        worker.references = first.references
        for label, gate in case.gates:
            point = OperatingPoint(method=case.name, operating_point=label, steps=50, gate=gate)
            row = worker.measure(point).row
            rows.append(row | {"fid_lost": row["fid"] - reference["fid"]})
    return rows


def finished_seed(out: Path, num_samples: int, seed: int) -> list[dict[str, Any]]:
    """Rows of one random seed, read from its file if that exists."""
    path = out / f"seed-{seed}-{num_samples}.json"
    if not path.exists():
        rows = measure_seed(seed, num_samples)
        path.write_text(json.dumps(rows, indent=1))
        print(f"seed {seed}: {len(rows)} points", flush=True)
    return json.loads(path.read_text())


def points_table(by_seed: list[list[dict[str, Any]]], keep: Callable[[str], bool]) -> str:
    """Markdown table with one row for each gate: reuse ratio, error, FID increase, cache size."""
    heads = ["case", "gate", "reuse", "rel L2", "FID lost", "cache MB"]
    points = zip(*by_seed, strict=True)
    return markdown_table(heads, [_cells(point) for point in points if keep(point[0]["method"])])


def _cells(point: Sequence[dict[str, Any]]) -> list[str]:
    """Cells of one gate, with means over its rows of all seeds."""
    error, lost, reuse = (
        spread_of([row[name] for row in point])
        for name in ("latent_rel_l2", "fid_lost", "reuse_ratio")
    )
    first = point[0]
    return [
        *(first["method"], first["operating_point"], f"{reuse.mean:.3f}"),
        *(error.shown(".4f"), lost.shown("+.3f"), f"{first['cache_mb']:.3f}"),
    ]


def signals_table(by_seed: list[list[dict[str, Any]]]) -> str:
    """Markdown table of each signal's error at equal reuse ratio, on the frontier of its sweep."""
    heads = ["signal", *(f"at reuse {ratio:g}" for ratio in RATIOS)]
    names = ("SNR alone", "entropy and SNR", "entropy alone")
    rows = [[name, *(_signal_cell(by_seed, name, ratio) for ratio in RATIOS)] for name in names]
    return markdown_table(heads, rows)


def _signal_cell(by_seed: list[list[dict[str, Any]]], name: str, ratio: float) -> str:
    errors = [_signal_error(rows, name, ratio) for rows in by_seed]
    known = [error for error in errors if error is not None]
    return spread_of(known).shown(".4f") if len(known) == len(errors) else "-"


def _signal_error(rows: list[dict[str, Any]], name: str, ratio: float) -> float | None:
    mine = [
        row | {"method": name}
        for row in rows
        if row["method"] == "signals" and row["operating_point"].startswith(name)
    ]
    return error_at(mine, name, "reuse_ratio", ratio)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs/seed-claims", help="folder of rows and table.md")
    parser.add_argument("--num-samples", type=int, default=128, help="samples of each case")
    parser.add_argument("--processes", type=int, default=2, help="seeds that run side by side")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    work = partial(finished_seed, out, arguments.num_samples)
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        by_seed = list(pool.map(work, SEEDS))
    reference_fid = spread_of([rows[0]["fid"] for rows in by_seed]).shown(".2f")
    text = (
        f"{points_table(by_seed, lambda name: name.startswith(('output', 'kv')))}\n\n"
        f"{points_table(by_seed, lambda name: name == 'seed')}\n\n{signals_table(by_seed)}\n\n"
        f"FID of the reference samples {reference_fid}. `python -m benchmarks.quality.paper_claims "
        f"--num-samples {arguments.num_samples}`, {len(SEEDS)} seeds, digits, DDIM-50, "
        f"{by_seed[0][0]['device']}, {datetime.now(UTC).date().isoformat()}\n"
    )
    (out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
