"""Cost of the cache, of sampled entropy and of partial rows as shares of a stock step.

    python -m benchmarks.timing.cache_cost --model dit-s-2-256 --device cpu --batch 4 --quick

Needs torch, diffusers, jaxtyping and safetensors; weights are random. Every round times a stock
step and each piece once, in an order that rotates; a share is the median over rounds of a ratio
within the round, with its 95% interval. A piece is timed for all gates of a step: ``attn`` and
``ff`` of every layer. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing.speed import clock, device_name, ratio_of
from benchmarks.timing.support.models import ARCHITECTURES, Batch, build_batch, build_model
from dqar import DQARConfig
from dqar.cache.kernels import fetch, overwrite, overwrite_rows
from dqar.cache.quantization import CacheDtype, CacheFormat, QuantizedTensor, dequantize, quantize
from dqar.signals import attention_entropy

DTYPES: tuple[CacheDtype, ...] = ("fp32", "fp16", "int8", "int4")
WEIGHTS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SITES = {"attn": "attn1", "ff": "ff"}

Pieces = dict[str, Callable[[], Any]]
"""Functions to time, by name."""


def features(model: Any, batch: Batch) -> list[Tensor]:
    """A random value for each gate of a step, ``[r, n, d]``."""
    sizes = model.config
    tokens = (sizes.sample_size // sizes.patch_size) ** 2
    shape = len(batch.latents), tokens, sizes.num_attention_heads * sizes.attention_head_dim
    gates = len(SITES) * len(model.transformer_blocks)
    generator = torch.Generator().manual_seed(0)
    like = {"device": batch.latents.device, "dtype": batch.latents.dtype}
    return [torch.randn(shape, generator=generator).to(**like) for _ in range(gates)]


def cache_pieces(values: list[Tensor], dtype: CacheDtype) -> Pieces:
    """Stores and fetches of all gates, by the cache's in-place kernels and by the reference."""
    form = CacheFormat(dtype=dtype)
    held = [quantize(value, form) for value in values]
    replaced: dict[int, QuantizedTensor] = {}

    def replace_all() -> None:
        for gate, value in enumerate(values):
            replaced[gate] = quantize(value, form)

    return {
        f"fetch {dtype}": lambda: in_turn(fetch, held),
        f"fetch {dtype} reference": lambda: in_turn(dequantize, held),
        f"store {dtype}": lambda: in_turn(overwrite, held, values),
        f"store {dtype} reference": replace_all,
    }


def in_turn(function: Callable[..., Any], *arguments: list[Any]) -> None:
    """Call a function gate by gate and drop each result, as a block does."""
    for given in zip(*arguments, strict=True):
        function(*given)


def entropy_piece(model: Any, values: list[Tensor]) -> Pieces:
    """Entropy of every attention layer from a sample of its query rows."""
    layers, rows = len(model.transformer_blocks), DQARConfig().entropy_rows
    heads = model.config.num_attention_heads
    queries = [value.unflatten(-1, (heads, -1)).transpose(1, 2) for value in values]

    def measure(query: Tensor, key: Tensor) -> None:
        attention_entropy(query, key, max_rows=rows)

    return {"entropy": lambda: in_turn(measure, queries[:layers], queries[layers:])}


def norm_piece(model: Any, values: list[Tensor]) -> Pieces:
    """Norms and modulation before the sites: a block runs them even where ``attn`` and ``ff`` are
    reused and nothing reads the result."""
    shift = values[0][:, :1]

    def norm(value: Tensor) -> Tensor:
        return model.transformer_blocks[0].norm3(value) * (1 + shift) + shift

    return {"norm and modulation": lambda: in_turn(norm, values)}


def row_pieces(model: Any, value: Tensor, site: str) -> Pieces:
    """One site at which some samples compute: on their rows alone, or on all rows and selected."""
    module = getattr(model.transformer_blocks[0], SITES[site])
    samples, pieces = len(value) // 2, {}
    for k in range(1, samples + 1):
        one_branch = torch.arange(k, device=value.device)
        rows = torch.cat([one_branch, one_branch + samples])
        stored = quantize(value, CacheFormat(dtype="fp32"))

        def gathered(rows: Tensor = rows, stored: QuantizedTensor = stored) -> Tensor:
            return entered(module(value[rows]), rows, stored)

        def selected(rows: Tensor = rows, stored: QuantizedTensor = stored) -> Tensor:
            return entered(module(value)[rows], rows, stored)

        pieces |= {f"{site} {k} gathered": gathered, f"{site} {k} selected": selected}
    return pieces


def entered(fresh: Tensor, rows: Tensor, stored: QuantizedTensor) -> Tensor:
    """Store fresh rows, and return them merged with the cached rows."""
    overwrite_rows(stored, fresh, rows)
    return fetch(stored).index_copy(0, rows, fresh)


def all_pieces(model: Any, batch: Batch) -> Pieces:
    """All pieces that a round times."""
    values = features(model, batch)
    pieces: Pieces = {"step": lambda: batch.call(model, 500.0)}
    for dtype in DTYPES:
        pieces |= cache_pieces(values, dtype)
    pieces |= entropy_piece(model, values) | norm_piece(model, values)
    for site in SITES:
        pieces |= row_pieces(model, values[0], site)
    return pieces


@torch.no_grad()
def time_rounds(pieces: Pieces, rounds: int, device: str) -> dict[str, list[float]]:
    """Time every piece once a round; the first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in pieces}
    for index in range(rounds + 1):
        names = list(pieces)
        start = index % len(names)
        for name in names[start:] + names[:start]:
            started = clock(device)
            pieces[name]()
            if index:
                seconds[name].append(clock(device) - started)
            else:
                clock(device)
        print(f"round {index} of {rounds}", flush=True)
    return seconds


def rounded(ratio: dict[str, float]) -> dict[str, float]:
    """Figures of a ratio to five places."""
    return {name: round(value, 5) for name, value in ratio.items()}


def switch_over(seconds: dict[str, list[float]], site: str) -> dict[str, Any]:
    """Compare gathered rows with all rows and a selection, by the number of samples that compute.

    Returns:
        ``gathered_over_selected``: ratio of times by number of samples. ``switch_over``: smallest
        number whose 95% interval lies above 1, where gathering is slower; None if there is none.
    """
    counts = [int(name.split()[1]) for name in seconds if name.startswith(f"{site} ")]
    ratios = {
        k: rounded(ratio_of(seconds[f"{site} {k} gathered"], seconds[f"{site} {k} selected"]))
        for k in sorted(set(counts))
    }
    slower = [k for k, ratio in ratios.items() if ratio["low"] > 1.0]
    return {"gathered_over_selected": ratios, "switch_over": min(slower, default=None)}


def byte_ratios(value: Tensor) -> dict[str, float]:
    """Bytes of a cached value, scales included, over those of fp16."""
    sixteen = quantize(value, CacheFormat(dtype="fp16")).nbytes
    return {
        dtype: round(quantize(value, CacheFormat(dtype=dtype)).nbytes / sixteen, 5)
        for dtype in DTYPES
    }


def shares(seconds: dict[str, list[float]]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the time of each piece of a whole step over the time of the step."""
    for name, taken in seconds.items():
        if name != "step" and name.split()[0] not in SITES:
            yield name, rounded(ratio_of(taken, seconds["step"]))


def report(
    seconds: dict[str, list[float]], value: Tensor, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Figures and settings of the run, as the result's JSON."""
    return {
        "model": arguments.model,
        "weights": "random",
        "device": device_name(arguments.device),
        "dtype": arguments.dtype,
        "batch": arguments.batch,
        "entropy_rows": DQARConfig().entropy_rows,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": arguments.rounds,
        "step_seconds": round(statistics.median(seconds["step"]), 5),
        "bytes_over_fp16": byte_ratios(value),
        "share_of_step": dict(shares(seconds)),
        "partial_rows": {site: switch_over(seconds, site) for site in SITES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the cache; the last line is JSON.")
    parser.add_argument(
        "--model", choices=sorted(ARCHITECTURES), required=True, help="architecture"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True, help="device to time")
    parser.add_argument("--batch", type=int, default=4, help="samples; rows are twice as many")
    parser.add_argument(
        "--dtype", choices=sorted(WEIGHTS), default="fp32", help="type of weights and activations"
    )
    parser.add_argument("--rounds", type=int, default=24, help="rounds that count")
    parser.add_argument("--quick", action="store_true", help="8 rounds")
    parser.add_argument("--out", type=Path, help="also write the JSON line to this file")
    arguments = parser.parse_args()
    arguments.rounds = 8 if arguments.quick else arguments.rounds
    dtype = WEIGHTS[arguments.dtype]
    model = build_model(arguments.model, arguments.device, dtype)
    batch = build_batch(arguments.model, arguments.batch, arguments.device, dtype)
    seconds = time_rounds(all_pieces(model, batch), arguments.rounds, arguments.device)
    line = json.dumps(report(seconds, features(model, batch)[0], arguments))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
