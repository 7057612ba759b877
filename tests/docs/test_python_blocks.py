"""Python blocks of the Markdown pages run as they stand, on a tiny pipeline with random weights."""

from __future__ import annotations

import copy
import math
import re
import subprocess
import sys
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from dqar import PolicySpec, ReusePolicy, StaticPlan, save_plan, save_policy
from dqar.records import FEATURE_SETS
from pipeline.traces.commit import claim_output, write_manifest
from tests.docs.markdown_pages import PAGES, ROOT, blocks_of
from tests.pipeline.little_traces import FACTS, PLAN, commit_all

LAYERS, STEPS = 3, 6
WITH_PYTHON = [page for page in PAGES if blocks_of(page, "python")]
READ = re.compile(r"""(load_plan|load_policy|read_trajectories)\("([^"]+)"\)""")
"""Calls in a block that read what an earlier command wrote."""


@pytest.fixture(scope="module")
def pipe():
    """A DiT pipeline with the classes of ImageNet and random weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=LAYERS,
            sample_size=8,
            num_embeds_ada_norm=1000,
        )
        vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    scheduler: Any = DDIMScheduler()
    pipe = DiTPipeline(transformer.eval(), vae.eval(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_plan(path):
    reuse = torch.zeros(STEPS, 2 * LAYERS, dtype=torch.bool)
    reuse[3:] = True
    save_plan(StaticPlan.of_mask(reuse, sites=("attn", "ff"), forecast_order=2), path)


def write_policy(path):
    spec = PolicySpec(
        features=FEATURE_SETS["schedule"],
        granularity="step",
        num_layers=LAYERS,
        steps=STEPS,
        guidance=4.0,
        plans=((0, 2, 4), tuple(range(STEPS))),
        plan_errors=(0.1, 0.0),
    )
    save_policy(ReusePolicy(spec), path)


def write_traces(path):
    claim_output(path, PLAN)
    write_manifest(path, PLAN, commit_all(path), FACTS)


WRITERS = {
    "load_plan": write_plan,
    "load_policy": write_policy,
    "read_trajectories": write_traces,
}


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_blocks_run(page, pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks_of(page, "python"):
        # Empty lines before it, so that a traceback names the line of the page.
        code = compile("\n" * (block.line - 1) + block.code, ROOT / page, "exec")
        if block.not_run:
            continue
        for reader, path in READ.findall(block.code):
            if not (tmp_path / path).exists():
                WRITERS[reader](tmp_path / path)
        names["pipe"] = copy.deepcopy(pipe)
        # torch.compile leaves its functions uncompiled: compiling one takes a minute.
        with torch.compiler.set_stance("force_eager"):
            exec(code, names)


def test_blocks_that_are_not_run_say_why():
    blocks = [block for page in WITH_PYTHON for block in blocks_of(page, "python")]
    assert {block.page: block.not_run for block in blocks if block.not_run} == {
        "docs/sharing.md": "needs cache-dit, or an account of the Hugging Face Hub",
        "docs/usage.md": "loads weights from the hub onto a GPU",
    }
    assert len(blocks) > 10


def test_the_patch_that_adds_a_feature_is_right(tmp_path, monkeypatch):
    (block,) = blocks_of("docs/add_a_feature.md", "diff")
    (tmp_path / "dqar").mkdir()
    records = tmp_path / "dqar" / "records.py"
    records.write_bytes((ROOT / "dqar" / "records.py").read_bytes())
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=block.code, text=True, check=True)
    patched = ModuleType("patched_records")
    monkeypatch.setitem(sys.modules, patched.__name__, patched)  # dataclasses look it up there
    exec(compile(records.read_text(), records, "exec"), patched.__dict__)
    assert patched.FEATURES[-1] == patched.FEATURE_SETS["schedule"][-1] == "log_stretch"
    inputs = SimpleNamespace(gap=torch.tensor([6]), span=torch.tensor([2]))
    inputs._column = partial(patched.GateInputs._column, inputs)
    assert inputs._column("log_stretch").item() == pytest.approx(math.log(3))
