"""Reuse without SNR runs on every scheduler that a stock loop runs on."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from dqar.control.controller import DQARController
from dqar.gates.base import AllOf, Gate, refuse_where
from dqar.gates.rules import Interval, NeverReuse, Scheduled, SnrBand
from dqar.layer_schedule import LayerSchedule
from dqar.records import DecisionReason
from dqar.schedules.export import export_plan

# Several schedulers of diffusers call numpy in a way that numpy 2 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

SCHEDULERS = sorted(
    name
    for name in dir(diffusers)
    if isinstance(kind := getattr(diffusers, name), type) and issubclass(kind, SchedulerMixin)
)
FOREIGN = {
    *("AmusedScheduler", "BlockRefinementScheduler", "CogVideoXDPMScheduler"),
    *("DDPMWuerstchenScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler"),
    *("HeliosDMDScheduler", "HeliosScheduler", "KarrasVeScheduler"),
    *("LTXEulerAncestralRFScheduler", "MiniMaxH3Scheduler", "PiflowScheduler"),
    *("RFD4ProteinaScheduler", "RePaintScheduler", "SCMScheduler", "SchedulerMixin"),
    *("ScoreSdeVeScheduler", "VQDiffusionScheduler"),
}
"""Schedulers on which the stock loop of this module fails: they sample tokens or other data, need
arguments, or are stepped by arguments of their own pipelines."""
WITHOUT_SNR = "IPNDMScheduler"


class Loop:
    """A stock sampling loop of few steps."""

    def __init__(self, rig, scheduler: str, steps: int = 3) -> None:
        self.rig = rig
        self.kind, self.steps = getattr(diffusers, scheduler), steps

    def __call__(self, model=None, controller=None) -> torch.Tensor:
        """Latents of the stock model, or of a wrapper in a run."""
        torch.manual_seed(0)  # some schedulers draw noise from the global generator
        scheduler = self.kind()
        scheduler.set_timesteps(self.steps)
        if model is None:
            return self.sample(self.rig.model, scheduler)
        with model.run(scheduler, num_branches=1, controller=controller):
            return self.sample(model, scheduler)

    @torch.no_grad()
    def sample(self, model, scheduler) -> torch.Tensor:
        current = self.rig.noise
        scaled = getattr(scheduler, "scale_model_input", lambda sample, _: sample)
        for timestep in scheduler.timesteps:
            rows, labels = scaled(current, timestep), self.rig.labels
            output = model(rows, timestep=timestep.expand(len(rows)), class_labels=labels).sample
            current = scheduler.step(output, timestep, current).prev_sample
        return current


@pytest.fixture
def wrapper(rig):
    return rig.wrap(rig.config(), NeverReuse())


def test_every_scheduler_is_looked_at():
    assert {*SCHEDULERS} >= FOREIGN


def assert_runs(loop: Loop, wrapper, rig) -> None:
    stock = loop()
    assert torch.equal(loop(wrapper), stock)
    assert wrapper.controller.summary().by_reason.keys() == {"closed"}
    interval = DQARController(rig.config(), gate=Interval(2))
    assert not torch.equal(loop(wrapper, interval), stock)
    assert interval.summary().reused > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*SCHEDULERS} - FOREIGN))
def test_gates_without_snr_run_on_every_scheduler(rig, wrapper, name):
    # PNDM's Runge-Kutta start needs more steps than the others.
    loop = Loop(rig, name, 6 if name == "PNDMScheduler" else 3)
    assert_runs(loop, wrapper, rig)


@pytest.mark.parametrize(
    ("name", "steps"), [(WITHOUT_SNR, 3), ("KDPM2AncestralDiscreteScheduler", 2)]
)
def test_gates_without_snr_run_where_a_step_has_none(rig, wrapper, name, steps):
    assert_runs(Loop(rig, name, steps), wrapper, rig)


READERS = {
    "SnrBand": SnrBand(0.1, 10.0),
    "Scheduled": AllOf(
        Interval(2), Scheduled(LayerSchedule(schedule_type="all", deep_layer_snr_threshold=1.0))
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_gate_that_reads_the_snr_is_named(rig, wrapper, name):
    controller = DQARController(rig.config(), gate=READERS[name])
    with pytest.raises(ValueError, match=rf"{name} reads the SNR.*Got {WITHOUT_SNR}"):
        Loop(rig, WITHOUT_SNR)(wrapper, controller)


def test_the_papers_cascade_and_a_sink_read_the_snr(rig, wrapper):
    loop = Loop(rig, WITHOUT_SNR)
    with pytest.raises(ValueError, match="SnrBand reads the SNR"):
        loop(wrapper, DQARController(rig.config()))
    with pytest.raises(ValueError, match="A sink reads the SNR"):
        loop(wrapper, DQARController(rig.config(), gate=Interval(2), sink=lambda record: None))


class Undeclared(Gate):
    """A gate that reads the SNR and does not say so."""

    def decide(self, inputs):
        noisy = torch.tensor(inputs.step.known_snr < 1.0)
        return refuse_where(noisy, DecisionReason.SNR, inputs)


def test_gate_that_reads_the_snr_without_saying_so_is_refused(rig, wrapper):
    with pytest.raises(ValueError, match="A gate that reads the SNR must say so"):
        Loop(rig, "DDIMScheduler")(wrapper, DQARController(rig.config(), gate=Undeclared()))


def test_a_plan_needs_no_snr_where_its_gate_reads_none():
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(3)
    options = {"scheduler": scheduler, "sites": ("attn",), "num_layers": 2}
    assert export_plan(Interval(2), **options).mask.sum(dim=1).tolist() == [0, 2, 0]
    with pytest.raises(ValueError, match=rf"SnrBand reads the SNR.*Got {WITHOUT_SNR}"):
        export_plan(SnrBand(0.1, 10.0), **options)
