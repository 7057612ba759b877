"""The committed errors of exported plans are measured again on the first samples."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from benchmarks.quality.cache_dit_export import (
    BASES,
    PLANS,
    digits_pipeline,
    latents_of,
    table_of,
    variants,
)
from dqar.signals import relative_error

RESULT = json.loads((PLANS.parents[1] / "cpu" / "cache-dit-export.json").read_text())
PAGE = Path(__file__).parents[3] / "docs" / "sharing.md"
SAMPLES, LAYERS = 2, 8


def rows_of(base):
    return {row["variant"]: row for row in RESULT["rows"] if row["base"] == base}


@pytest.mark.parametrize("base", BASES)
def test_the_page_has_the_committed_figures(base):
    for line in table_of([*rows_of(base).values()]).splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert f"| {cells[2]} | {cells[3]} |" in PAGE.read_text()


def test_each_plan_computes_what_it_says():
    stored = json.loads(PLANS.read_text())
    for base in BASES:
        for variant in variants(stored, base, LAYERS):
            row = rows_of(base)[variant.name]
            assert row["computed_steps"] == sum(variant.plan.export("list"))
            first = (
                0 if "cache-dit" not in variant.name else stored["steps"] - row["computed_steps"]
            )
            assert row["attention_computations"] == LAYERS * row["computed_steps"] + first


@pytest.mark.parametrize("name", ["PlannedDiT", "cache-dit"])
def test_errors_are_measured_again(name):
    if name == "cache-dit":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip("cache_dit", reason="needs cache-dit 1.5.3 on PYTHONPATH")
    stored = json.loads(PLANS.read_text())
    steps, guidance = stored["steps"], stored["guidance"]
    (variant,) = [one for one in variants(stored, BASES[1], LAYERS) if one.name == name]
    pipe = digits_pipeline()
    reference = latents_of(pipe, SAMPLES, guidance, steps)
    with variant.sampling(pipe, variant.plan) as run, run():
        found = relative_error(latents_of(pipe, SAMPLES, guidance, steps), reference)
    expected = torch.tensor(rows_of(BASES[1])[name]["latent_rel_l2"][:SAMPLES])
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-5)
