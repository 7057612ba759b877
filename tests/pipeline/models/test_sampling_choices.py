"""Samplers with settings: one spelling each, known names and values, and differences by name."""

from __future__ import annotations

import inspect

import diffusers
import pytest

from dqar.sampler_names import SOLVERS, is_sampler, plan_sampler, sampler_of_plan
from pipeline.models.identity import describe_change
from pipeline.models.sampling_choices import (
    SETTINGS,
    canonical_sampler,
    read_sampler,
    sampler_change,
)

THIRD = "dpm:solver_order=3,timestep_spacing=linspace,use_karras_sigmas=true"


@pytest.mark.parametrize("text", ["ddim", "dpm", "saved", "deis", THIRD])
def test_canonical_samplers_are_their_own_spelling(text):
    assert canonical_sampler(text) == text
    assert is_sampler(text)


def test_the_order_of_settings_and_spaces_make_no_other_sampler():
    given = "dpm:use_karras_sigmas=true, timestep_spacing=linspace, solver_order=3"
    assert canonical_sampler(given) == THIRD


def test_values_have_the_types_that_the_scheduler_takes():
    assert read_sampler(THIRD).values == {
        "solver_order": 3,
        "timestep_spacing": "linspace",
        "use_karras_sigmas": True,
    }


@pytest.mark.parametrize("solver", sorted(SETTINGS.keys() - {"saved"}))
def test_settings_are_those_of_the_solvers_class(solver):
    taken = inspect.signature(getattr(diffusers, SOLVERS[solver]).__init__).parameters
    assert SETTINGS[solver].keys() <= taken.keys()
    assert SETTINGS.keys() == SOLVERS.keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("euler", "be one of ddim, dpm, unipc, deis, saved. Got 'euler'"),
        ("", "be one of ddim, .* Got ''"),
        ("DPM", "Got 'DPM'"),
        ("dpm:", "have settings of dpm: .* Got ''"),
        ("dpm:eta=1", "have settings of dpm: euler_at_final, .* Got 'eta'"),
        ("ddim:solver_order=2", "settings of ddim: timestep_spacing. Got 'solver_order'"),
        ("saved:solver_order=2", "settings of saved: none"),
        ("dpm:solver_order=4", "have solver_order of 1, 2, 3. Got '4'"),
        ("dpm:solver_order", "have solver_order of 1, 2, 3. Got ''"),
        ("dpm:algorithm_type=sde-dpmsolver++", "Got 'algorithm_type'"),
        ("dpm:solver_order=2,solver_order=3", "have each setting once"),
    ],
)
def test_what_is_no_sampler_is_refused_in_one_line(text, said):
    with pytest.raises(ValueError, match=f"^sampler must .*{said}") as refused:
        canonical_sampler(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["ddim", "dpm", "saved", THIRD, "unipc:solver_type=bh1"])
def test_a_plan_names_the_class_and_the_same_settings(text):
    assert sampler_of_plan(plan_sampler(text)) == text
    assert plan_sampler("dpm") == "DPMSolverMultistepScheduler"
    assert plan_sampler("") == ""


@pytest.mark.parametrize("text", ["euler", "dpm:x", "dpm:a=b;c", "dpm:" + "a=b," * 99, "ddim\n"])
def test_other_texts_are_no_samplers_of_a_policy(text):
    assert not is_sampler(text)


def test_plans_of_other_schedulers_name_no_sampler():
    assert sampler_of_plan("EulerDiscreteScheduler") is None


def test_a_difference_names_the_settings():
    other = "dpm:solver_order=2,timestep_spacing=linspace"
    expected = "sampler dpm with use_karras_sigmas left out instead of true"
    assert sampler_change(other, THIRD).startswith("sampler dpm with ")
    assert "solver_order 2 instead of 3" in describe_change("sampler", other, THIRD)
    assert sampler_change(THIRD.removesuffix(",use_karras_sigmas=true"), THIRD) == expected
    assert sampler_change("ddim", "dpm") == "sampler 'ddim' instead of 'dpm'"
    assert sampler_change("older", "dpm") == "sampler 'older' instead of 'dpm'"
