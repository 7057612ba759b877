"""Gates, FLOPs and cache of published models by site, the tables of docs/models.md.

    python -m benchmarks.quality.model_sizes --write docs/models.md

Models and inputs are on the device ``meta``: nothing is downloaded and nothing is computed. FLOPs
are those of torch's FlopCounterMode, two for each multiply-add of matrix products, convolutions and
attention. The cache holds in 16 bits what each gate returns, for one sample and both branches of
guidance where there are two, without the differences that forecasts add.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.quality.published_models import MODELS, PublishedModel
from dqar.integration.sites import PlacedStack, stacks_of
from pipeline.markdown import markdown_table

BEGIN = "<!-- made by: python -m benchmarks.quality.model_sizes --write docs/models.md -->"
END = "<!-- end of what is made -->"
BYTES = 2
"""Bytes of a cached value."""
INNER = ("attn", "cross", "ff", "ff_context")
"""Sites within a block, in the order of the tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Sizes of a model by site; ``block`` and ``stack`` stand beside those of :data:`INNER`."""

    model: PublishedModel
    """The model."""
    parameters: int
    """Number of weights."""
    stacks: tuple[tuple[str, int], ...]
    """Name and number of blocks of each stack."""
    gates: Counter[str]
    """Number of gates."""
    flops: Counter[str]
    """FLOPs of a step."""
    total_flops: int
    """FLOPs of a step of the whole model."""
    cache: Counter[str]
    """Bytes of the cache."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites within the blocks that the model has."""
        return tuple(site for site in INNER if self.gates[site])


def sizes_of(model: PublishedModel) -> Sizes:
    """Return the sizes of a model from one call on the device ``meta``."""
    transformer = model.transformer()
    stacks = stacks_of(transformer)
    places = [place for placed in stacks for place in places_of(placed)]
    cache, handles = Counter[str](), []
    for site, name, returns in places:
        count = partial(add_returned, cache, site, returns, model.calls)
        handles.append(transformer.get_submodule(name).register_forward_hook(count))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        transformer(**model.inputs())
    for handle in handles:
        handle.remove()
    return Sizes(
        model=model,
        parameters=sum(weight.numel() for weight in transformer.parameters()),
        stacks=tuple((one.stack.path, len(one.blocks)) for one in stacks),
        gates=Counter(site for site, _, _ in places),
        flops=flops_of(counter, transformer, places, model.calls),
        total_flops=counter.get_total_flops() * model.calls,
        cache=cache,
    )


def places_of(placed: PlacedStack) -> Iterator[tuple[str, str, int]]:
    """Yield the site, the module's name and the number of returned tensors of each gate of a stack.

    A stack's residual has the shapes of what its last block returns.
    """
    stack = placed.stack
    for at in range(len(placed.blocks)):
        name = f"{stack.path}.{at}"
        for site, described in stack.sites.items():
            if placed.module(described, at) is not None:
                yield site, f"{name}.{described.module}", len(described.returns)
        yield "block", name, len(stack.streams)
    if not stack.is_interleaved:
        yield "stack", f"{stack.path}.{len(placed.blocks) - 1}", len(stack.streams)


def add_returned(
    cache: Counter[str], site: str, returns: int, calls: int, module: Any, args: Any, output: Any
) -> None:
    """Add the bytes of a module's returned tensors, for all calls of a step."""
    values = output if isinstance(output, tuple) else (output,)
    tensors = [value for value in values[:returns] if isinstance(value, Tensor)]
    cache[site] += BYTES * calls * sum(value.numel() for value in tensors)


def flops_of(
    counter: FlopCounterMode, transformer: nn.Module, places: list[tuple[str, str, int]], calls: int
) -> Counter[str]:
    """Return the FLOPs of a step by site."""
    found, flops = counter.get_flop_counts(), Counter[str]()
    for site, name, _ in places:
        by_operator = found.get(f"{type(transformer).__name__}.{name}", {})
        if site != "stack":
            flops[site] += calls * sum(by_operator.values())
    flops["stack"] = flops["block"]
    return flops


def described(sizes: Sizes) -> list[str]:
    """Return the row of a model in the table of gates."""
    model = sizes.model
    return [
        f"[{model.name}](https://huggingface.co/{model.repository})",
        f"{sizes.parameters / 1e9:.{2 if sizes.parameters < 1e9 else 1}f}e9",
        model.size,
        " + ".join(f"{count} `{name}`" for name, count in sizes.stacks),
        *(str(sizes.gates[site] or "-") for site in (*INNER, "stack")),
        model.guidance,
    ]


def computed(sizes: Sizes) -> list[str]:
    """Return the row of a model in the table of FLOPs."""
    rest = sizes.total_flops - sizes.flops["block"]
    left = sizes.flops["block"] - sum(sizes.flops[site] for site in INNER)
    shares = [sizes.flops[site] for site in INNER]
    return [
        sizes.model.name,
        f"{sizes.total_flops / 1e12:,.{0 if sizes.total_flops >= 1e14 else 1}f}",
        *(f"{share / sizes.total_flops:.1%}" if share else "-" for share in (*shares, left, rest)),
        sizes.model.not_gated,
    ]


def cached(sizes: Sizes) -> list[str]:
    """Return the row of a model in the table of the cache."""
    inner = sum(sizes.cache[site] for site in sizes.sites)
    return [
        sizes.model.name,
        gib(sizes.cache["attn"]),
        f"{gib(inner)} ({', '.join(sizes.sites)})",
        gib(sizes.cache["block"]),
        gib(sizes.cache["stack"]),
    ]


def gib(count: int) -> str:
    """Format a number of bytes in GiB, with two significant digits below 10."""
    value = count / 2**30
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


HEADS = {
    described: ["model", "weights", "size", "stacks", *INNER, "stack", "guidance"],
    computed: ["model", "10^12 FLOPs", *INNER, "other in blocks", "outside", "not gated"],
    cached: ["model", "attn", "all sites within blocks", "block", "stack"],
}
TITLES = {
    described: "Gates: one for each module of a site; `block` has one for each block.",
    computed: (
        "FLOPs of a step for one sample, with both branches of guidance, and the share of each "
        "site. `block` and `stack` cover all but the share outside."
    ),
    cached: (
        "Cache in GiB for one sample at 16 bits, with both branches of guidance. A forecast of "
        "order k takes k + 1 times as much, int8 half."
    ),
}


def tables_of(every: list[Sizes]) -> str:
    """Return the Markdown of all tables."""
    parts = [
        f"{TITLES[row]}\n\n{markdown_table(heads, [row(one) for one in every])}"
        for row, heads in HEADS.items()
    ]
    return "\n\n".join(parts)


def write(page: Path, tables: str) -> None:
    """Replace the part of a page between the marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", help="names of models; all by default")
    parser.add_argument("--write", type=Path, help="page whose marked part is replaced")
    arguments = parser.parse_args()
    chosen = [one for one in MODELS if not arguments.models or one.name in arguments.models]
    tables = tables_of([sizes_of(one) for one in chosen])
    print(tables)
    if arguments.write:
        write(arguments.write, tables)


if __name__ == "__main__":
    main()
