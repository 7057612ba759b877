"""A plan exported without a model equals the decisions that its gate takes in a run."""

from __future__ import annotations

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from dqar.cache.site_tensors import Fresh
from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.base import AllOf, Gate
from dqar.gates.rules import (
    Cooldown,
    EntropyBelow,
    Interval,
    Learned,
    MaskGate,
    MaxReuses,
    NeverReuse,
    Scheduled,
    SnrBand,
    Staleness,
    Warmup,
)
from dqar.layer_schedule import LayerSchedule
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from dqar.records import FEATURE_SETS, STACKED, DecisionReason
from dqar.schedules.export import export_plan

SITES = ("attn", "ff")
OUTPUT = Fresh(parts={"output": torch.ones(1, 2, 2)})


def learned(features=FEATURE_SETS["schedule"], **spec) -> Gate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        policy = ReusePolicy(PolicySpec(features=features, sites=SITES, **spec))
    for weight in policy.parameters():
        weight.data *= 3.0  # scaled so that some gates are on each side of the threshold
    return Learned(policy.requires_grad_(False))


GATES: dict[str, Gate] = {
    "closed": NeverReuse(),
    "interval": Interval(3),
    "staleness": Staleness(2),
    "budget": AllOf(Warmup(0.2), MaxReuses(2), Cooldown(0.2)),
    "linear": Scheduled(LayerSchedule(schedule_type="linear")),
    "snr": AllOf(SnrBand(0.01, 5.0), Staleness(1)),
    "mask": MaskGate(torch.arange(36).reshape(6, 6, 1) % 5 > 1),
    "learned": learned(log_threshold=0.3),
    "by step": learned(granularity="step", log_threshold=1.0),
    "shares": learned(
        ("share_attn", "share_ff", "log_span", "log_gap", "depth"), log_threshold=0.1
    ),
}


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
def test_plan_is_what_the_gate_does_in_a_run(rig, gate):
    ran = rig.run(rig.config(sites=SITES), gate)
    rig.scheduler.set_timesteps(rig.steps)
    plan = export_plan(gate, sites=SITES, num_layers=rig.layers, scheduler=rig.scheduler)
    for sample in range(rig.samples):
        assert torch.equal(ran.reasons[:, :, sample] == DecisionReason.REUSE, plan.mask)
    assert plan.reuse_ratio == pytest.approx(ran.summary.reuse_ratio)
    assert plan.timesteps == tuple(rig.scheduler.timesteps.tolist())
    assert plan.sampler == "DDIMScheduler"


@pytest.mark.parametrize("name", ["learned", "by step", "shares"])
def test_policies_of_this_file_decide_both_ways(rig, name):
    plan = export_plan(GATES[name], sites=SITES, num_layers=rig.layers, steps=rig.steps)
    assert 0 < plan.mask[1:].double().mean() < 1


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
def test_without_a_scheduler_it_is_the_controllers_own_schedule(gate):
    plan = export_plan(gate, sites=SITES, num_layers=3, steps=6)
    controller = DQARController(DQARConfig(sites=SITES), num_layers=3, gate=gate)
    decided = []
    for step in range(6):
        controller.begin_step(step, 6)
        for site in SITES:
            for layer in range(3):
                decided.append(bool(controller.should_reuse(layer, STACKED, site)))
                controller.through(layer, site, lambda rows: OUTPUT)
    assert decided == plan.mask.flatten().tolist()
    assert (plan.sampler, plan.timesteps) == ("", ())


def test_prompt_length_is_part_of_what_it_is_for():
    gate = learned(features=("prompt_length",), scales=(0.01,), log_threshold=0.3)
    short, long = (
        export_plan(gate, sites=SITES, num_layers=2, steps=3, prompt_length=length)
        for length in (1, 300)
    )
    assert short != long


def test_gates_that_measure_are_refused():
    for gate in (EntropyBelow(2.0), learned(features=("log_drift", "progress"))):
        with pytest.raises(ValueError, match=r"measures nothing\. Got one that reads \['"):
            export_plan(gate, sites=SITES, num_layers=3, steps=6)


ALIKE = r"for all samples alike\. Got: "


@pytest.mark.parametrize(
    ("shape", "said"),
    [((6, 6, 2), ALIKE), ((5, 6, 1), "of the run's 6 steps. Got one of 5"), ((6, 5, 1), ALIKE)],
)
def test_masks_of_samples_or_of_other_steps_are_refused(shape, said):
    with pytest.raises(ValueError, match=said):
        export_plan(
            MaskGate(torch.zeros(shape, dtype=torch.bool)), sites=SITES, num_layers=3, steps=6
        )


def test_thresholds_by_sample_are_refused():
    gate = Learned(ReusePolicy(PolicySpec(features=("depth",))), log_threshold=torch.zeros(3))
    with pytest.raises(ValueError, match="for all samples alike"):
        export_plan(gate, sites=("attn",), num_layers=3, steps=6)


def test_policy_of_other_sites_is_refused():
    with pytest.raises(ValueError, match="policy must fit"):
        export_plan(learned(), sites=("block",), num_layers=3, steps=6)


@pytest.mark.parametrize("order", [1, 2])
def test_orders_are_those_of_a_controller(rig, order):
    gate = MaskGate(torch.arange(36).reshape(6, 6, 1) % 5 > 1)
    ran = rig.run(rig.config(sites=SITES, forecast_order=order), gate)
    plan = export_plan(gate, sites=SITES, num_layers=3, steps=6, forecast_order=order)
    shown = torch.stack([record.inputs.order[:, 0] for record in ran.records])
    assert torch.equal(plan.orders, torch.where(plan.mask, shown, 0))
    assert plan.forecast_order == order


def test_order_is_by_default_the_policys():
    gate = learned(("order", "log_gap"), log_threshold=10.0, forecast_order=2, max_gap=1)
    plan = export_plan(gate, sites=SITES, num_layers=3, steps=6)
    assert plan.orders[:, 0].tolist() == [0, 0, 0, 1, 0, 2]
    assert export_plan(Interval(2), sites=SITES, num_layers=3, steps=6).forecast_order == 0


def test_policies_see_the_order_of_what_they_allow():
    """A policy that reuses only at forecast order 2 starts to reuse when order 2 is available."""
    policy = ReusePolicy(
        PolicySpec(features=("order",), hidden=(), sites=SITES, forecast_order=2, max_gap=1)
    )
    weight, bias = policy.parameters()
    weight.data.fill_(-1.0)
    bias.data.fill_(1.5)
    plan = export_plan(Learned(policy), sites=SITES, num_layers=2, steps=6)
    assert plan.orders[:, 0].tolist() == [0, 0, 0, 2, 0, 2]


def test_another_order_than_the_policys_is_refused():
    gate = learned(forecast_order=2)
    for order in (0, 1):
        with pytest.raises(ValueError, match=rf"trained on 2 for {order}\. Pass forecast_order=2"):
            export_plan(gate, sites=SITES, num_layers=3, steps=6, forecast_order=order)


@pytest.mark.parametrize("order", [-1, 3])
def test_orders_that_are_none_are_refused(order):
    with pytest.raises(ValueError, match=rf"forecast_order must be 0 to 2\. Got {order}\. Pass"):
        export_plan(Interval(2), sites=SITES, num_layers=3, steps=6, forecast_order=order)


def test_either_steps_or_a_scheduler(ddim):
    ddim.set_timesteps(6)
    for given in ({}, {"steps": 6, "scheduler": ddim}):
        with pytest.raises(ValueError, match="Either steps or a scheduler"):
            export_plan(Interval(2), sites=SITES, num_layers=3, **given)


# NumPy warns of how diffusers' schedulers hand it tensors.
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
def test_equal_timesteps_are_steps_of_their_own():
    """Rounding gives steps of different sigmas equal timesteps."""
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True
    )
    scheduler.set_timesteps(20)
    assert len(scheduler.timesteps.unique()) < 20
    seen = []

    class Seen(Gate):
        @property
        def reads_snr(self):
            return True

        def decide(self, inputs):
            seen.append(inputs.step.snr)
            return Interval(2).decide(inputs)

    export_plan(Seen(), sites=SITES, num_layers=3, scheduler=scheduler)
    assert seen == pytest.approx([float(sigma) ** -2 for sigma in scheduler.sigmas[:-1]])
