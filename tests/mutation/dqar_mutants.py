"""Mutants of planner, quantisation, positions on a schedule and conversions of schedulers."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

NOISE = "dqar/integration/noise_schedules.py"
PLANNER = "dqar/policy/planner.py"
POSITION = "dqar/integration/schedule_position.py"
QUANTIZATION = "dqar/cache/quantization.py"
TEST_NOISE = ("tests/dqar/integration/test_noise_schedules.py",)
TEST_PLANNER = ("tests/dqar/policy/test_planner.py",)
TEST_POSITION = ("tests/dqar/integration/test_schedule_position.py",)
TEST_QUANTIZATION = ("tests/dqar/cache/test_quantization.py",)

DQAR_MUTANTS = (
    Mutant(
        fault="ratios at the explored limit are excluded",
        file=PLANNER,
        old="(gap > max_stretch * span)",
        new="(gap >= max_stretch * span)",
        tests=TEST_PLANNER,
    ),
    Mutant(
        fault="plans without forecasts keep to explored spans",
        file=PLANNER,
        old="(is_long | is_uneven) & (order > 0)",
        new="(is_long | is_uneven)",
        tests=TEST_PLANNER,
    ),
    Mutant(
        fault="only the last reused step of a gap has damage",
        file=PLANNER,
        old="until[..., gap + 1] = until[..., gap] + stale",
        new="until[..., gap + 1] = stale",
        tests=TEST_PLANNER,
    ),
    Mutant(
        fault="the damage of one layer stands for all",
        file=PLANNER,
        old=".exp().sum(dim=0) * repeats",
        new=".exp().sum(dim=0)",
        tests=TEST_PLANNER,
    ),
    Mutant(
        fault="an uneven pair of spans is allowed",
        file=PLANNER,
        old="(longer > max_stretch * shorter)",
        new="(longer > max_stretch * longer)",
        tests=TEST_PLANNER,
    ),
    Mutant(
        fault="codes are cut off and not rounded",
        file=QUANTIZATION,
        old="(grouped / scale).round_()",
        new="(grouped / scale).trunc_()",
        tests=TEST_QUANTIZATION,
    ),
    Mutant(
        fault="a scale overflows",
        file=QUANTIZATION,
        old="largest.clamp(1e-30, 3.4e38)",
        new="largest.clamp(1e-30)",
        tests=TEST_QUANTIZATION,
    ),
    Mutant(
        fault="NaN is cast to an integer",
        file=QUANTIZATION,
        old="codes.nan_to_num_(0.0).flatten(-2)",
        new="codes.flatten(-2)",
        tests=TEST_QUANTIZATION,
        equivalent="x86 casts NaN to 0, as nan_to_num does; other processors may not",
    ),
    Mutant(
        fault="a value is cast to float16 without a bound",
        file=QUANTIZATION,
        old="return saturate_(value.to(stored.dtype)).reshape",
        new="return value.to(stored.dtype).reshape",
        tests=TEST_QUANTIZATION,
    ),
    Mutant(
        fault="rows are written with the scales of the rows before",
        file=QUANTIZATION,
        old="        stored.scale.index_copy_(0, rows, fresh.scale)\n",
        new="        pass\n",
        tests=TEST_QUANTIZATION,
    ),
    Mutant(
        fault="a repeated timestep is its first entry wherever the scheduler begins",
        file=POSITION,
        old="for start in (begins_at, 0):",
        new="for start in (0,):",
        tests=TEST_POSITION,
    ),
    Mutant(
        fault="a timestep of the host is not compared",
        file=POSITION,
        old="            self._confirm(_value(timestep), step)\n",
        new="            pass\n",
        tests=TEST_POSITION,
    ),
    Mutant(
        fault="a timestep must be in the schedule's own precision",
        file="dqar/integration/guidance/timestep_scale.py",
        old="return 0.0 if given in (entry, scaled) else",
        new="return 0.0 if given == entry else",
        tests=TEST_POSITION,
    ),
    Mutant(
        fault="the last timestep copied from a GPU is not compared",
        file="dqar/integration/step_counter.py",
        old="        self.position.finish()\n",
        new="",
        tests=(*TEST_POSITION, "tests/dqar/integration/test_step_counter.py"),
    ),
    Mutant(
        fault="a converted scheduler clips",
        file=NOISE,
        old='config.get("clip_sample", False)',
        new='config.get("clip_sample", True)',
        tests=TEST_NOISE,
    ),
    Mutant(
        fault="sigmas of a flow are converted",
        file=NOISE,
        old="    if flags := [flag for flag in FLOW_FLAGS if config.get(flag)]:\n",
        new="    if flags := []:\n",
        tests=TEST_NOISE,
    ),
    Mutant(
        fault="a scheduler with other alphas is converted",
        file=NOISE,
        old="    if not _has_same_noise(converted, scheduler):\n",
        new="    if False:\n",
        tests=TEST_NOISE,
    ),
)
