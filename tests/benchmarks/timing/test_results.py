"""Results of the timing benchmarks on models of two blocks: keys, bounds and bad flags."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.timing import gate_latency, speed, step_profile
from benchmarks.timing.cache_formats import formats
from benchmarks.timing.cost_table import WAYS, measure_costs, of_a_gate
from benchmarks.timing.forced_reuse import RATIOS
from benchmarks.timing.scaling import Line, Plan, measure_scaling, point
from benchmarks.timing.speed import QUICK, Effort, measure
from benchmarks.timing.step_profile import TOP
from benchmarks.timing.support.architectures import ARCHITECTURES, Architecture
from benchmarks.timing.support.flags import Settings

ROOT = Path(__file__).parents[3]
BESIDE = {"speedup", "speedup_ci95", "bound", "fraction_of_bound", "fraction_ci95", "flops_bound"}
ON_TINY = ["--model", "tiny-dit", "--device", "cpu", "--batch", "1"]


def settings_for(name: str, **changes) -> Settings:
    return Settings(model=name, device="cpu", batch=1, **changes)


@pytest.mark.parametrize("name", ["tiny-dit", pytest.param("tiny-pixart", marks=pytest.mark.slow)])
def test_speed(name):
    result = measure(settings_for(name), Effort(rounds=1, pairs=2))
    result = json.loads(json.dumps(result, allow_nan=False))
    names = [",".join(sites) for sites in ARCHITECTURES[name].site_sets]
    places = [(row["sites"], row["reuse_ratio"]) for row in result["forced"]]
    assert places == [(sites, ratio) for sites in names for ratio in RATIOS]
    assert [row["sites"] for row in result["intervals"]] == names[1:]
    assert [row["cache_bits"] for row in result["formats"]] == [32, 16, 8, 4]
    policies = [row["policy"] for row in result["policies"]]
    assert policies == ["threshold", "learned full", "learned schedule"]
    rows = [row for key in ("forced", "intervals", "policies", "formats") for row in result[key]]
    assert all(row.keys() >= BESIDE for row in rows)
    assert all(row["cache_mb"] > 0 and row["peak_memory_mb"] is None for row in rows)
    for row in result["forced"]:  # of one round, medians are the round's own
        assert row["speedup"] == pytest.approx(row["bound"] * row["fraction_of_bound"], rel=2e-3)
    assert result["closed_ratio"] > 0
    assert (result["block_over_sites"] is None) == (name == "tiny-pixart")
    assert result["weights"] == "random"


def test_formats_are_no_wider_than_the_run_caches():
    assert formats(32) == [32, 16, 8, 4]
    assert formats(16) == [16, 8, 4]
    assert formats(4) == [4]


def test_costs_of_gates():
    table = measure_costs(settings_for("tiny-dit"), rounds=1)
    table = json.loads(json.dumps(table, allow_nan=False))
    assert [row["site"] for row in table["costs"]] == ["attn", "ff", "block"]
    for row in table["costs"]:
        assert row.keys() >= {"model", "device", "batch", "dtype", "layers", "stock_s"}
        assert row.keys() >= {f"{way}_s" for way in WAYS}
    pixart = measure_costs(settings_for("tiny-pixart"), rounds=1)
    assert [row["site"] for row in pixart["costs"]] == ["attn", "ff"]


def test_a_gate_costs_its_share_of_what_a_step_takes_more():
    assert of_a_gate([5.0, 7.0], [1.0, 3.0], 4) == [1.0, 1.0]


@pytest.mark.slow
def test_gaps(tmp_path, capsys):
    out = tmp_path / "folder" / "result.json"
    step_profile.main([*ON_TINY, "--out", str(out)])
    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert result["gaps"][0]["variant"] == "stock"
    for row in result["gaps"]:
        assert row["busy_s"] > 0
        assert row["idle_share"] is None  # a CPU never waits for its host
        own = [found["self_s"] for found in row["top"]]
        assert own == sorted(own, reverse=True)
        assert 0 < len(own) <= TOP


def test_scaling():
    base = Architecture(num_layers=1, num_heads=1, head_dim=16, latent_size=4)
    plan = Plan(
        base=base,
        lines=(Line(axis="tokens", values=(4, 64)), Line(axis="layers", values=(1, 6))),
    )
    result = json.loads(json.dumps(measure_scaling("cpu", "fp32", 1, plan=plan)))
    tokens, layers = result["lines"]
    assert tokens["values"] == [4, 64]
    assert layers["costs"].keys() == {
        "step",
        "saved by attn",
        "saved by attn,ff",
        "saved by block",
    }
    assert math.isfinite(layers["costs"]["step"]["fit"]["exponent"])


def test_points_along_an_axis():
    base = Architecture(num_layers=1, num_heads=1, head_dim=16, latent_size=4)
    assert point("tokens", 576, base).sizes.num_tokens == 576
    assert point("layers", 9, base).sizes.num_layers == 9
    assert point("batch", 8, base).batch == 8
    with pytest.raises(ValueError, match="a square"):
        point("tokens", 200, base)


@pytest.mark.parametrize(
    "changes", [{"batch": 0}, {"cache_bits": 3}, {"dtype": "fp64"}, {"model": "dit"}]
)
def test_settings_refuse(changes):
    with pytest.raises(ValueError, match=r"Got .*\. Pass "):
        Settings(**({"model": "tiny-dit", "device": "cpu"} | changes))


def test_effort():
    # Fewer than 6 rounds have no interval of 95%.
    assert QUICK.rounds >= 6
    assert QUICK.budget_s is not None
    assert QUICK.budget_s < 600
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        Effort(rounds=0)


BAD_FLAGS = [
    ["--model", "none", "--device", "cpu"],
    ["--model", "tiny-dit", "--device", "tpu"],
    ["--model", "tiny-dit", "--device", "cpu", "--batch", "0"],
    ["--model", "tiny-dit", "--device", "cpu", "--rounds", "-1"],
    ["--model", "tiny-dit", "--device", "cpu", "--pairs", "1000"],
]


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_bad_flags_end_with_2_and_a_line(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        speed.main(flags)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_speed_ends_with_its_line_of_json(tmp_path, capsys):
    out = tmp_path / "folder" / "result.json"
    speed.main([*ON_TINY, "--rounds", "1", "--pairs", "1", "--out", str(out)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == json.loads(out.read_text())


def test_gates_that_are_timed_on_the_host_decide():
    figures = gate_latency.milliseconds(gate_latency.gates()["plan"])
    assert set(figures) == {"decide_ms", "begin_step_ms"}


def test_nothing_of_the_pipeline_is_imported_but_statistics():
    code = (
        "import sys\n"
        "from benchmarks.timing import cost_table, gate_latency, gpu_suite, scaling, speed\n"
        "from benchmarks.timing import skipped_steps, step_profile\n"
        "heavy = 'ray mlflow pyarrow sklearn scipy matplotlib diffusers'.split()\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "print(sorted(name for name in sys.modules if name.startswith('pipeline')))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == ["[]", "['pipeline', 'pipeline.statistics']"]
