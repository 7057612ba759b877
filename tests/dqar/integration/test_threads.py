"""Threads share no state: each gets the same bits as when it runs alone."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from dqar.config import DQARConfig
from dqar.control.controller import DQARController
from dqar.gates.base import AllOf, Gate
from dqar.gates.rules import Interval, MaskGate, NeverReuse
from dqar.integration import DQARDDIMSampler, DQARDiTWrapper, SamplerConfig, patch_dit_pipeline

PATIENCE = 30.0
"""Seconds after which a thread that waits for another gives up."""


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run each call in a separate thread and return the results; a call's error is raised here."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def hold_together(*models: Any) -> None:
    """Make two threads wait for each other at each block of their models."""
    barrier = threading.Barrier(2, timeout=PATIENCE)

    def wait(*_: object) -> None:
        barrier.wait()

    for model in models:
        for block in model.transformer_blocks:
            block.norm1.register_forward_hook(wait)


class Job:
    """A sampling run with a separate gate, configuration and samples."""

    def __init__(self, rig, config: DQARConfig, gate: Gate | None, chosen: list[int]) -> None:
        self.noise, self.labels = rig.noise[chosen], rig.labels[chosen]
        self.records: list[Any] = []
        self.controller = DQARController(config, gate=gate, sink=self.records.append)
        self.scheduler = type(rig.scheduler).from_config(rig.scheduler.config)

    def run(self, model: Any) -> torch.Tensor:
        """Return latents of a wrapped model under the job's controller, or of a stock model."""
        controller = self.controller if isinstance(model, DQARDiTWrapper) else None
        sampler = DQARDDIMSampler(model, self.scheduler, SamplerConfig(num_inference_steps=6))
        return sampler.sample(
            len(self.labels), self.labels, latents=self.noise, controller=controller
        )

    @property
    def account(self) -> Any:
        return self.controller.summary()


def jobs_of(rig, sites=("attn", "ff"), cached: Any = "output") -> list[Job]:
    """Return jobs with different gates, measurements, caches and batch sizes."""
    seed = DQARConfig(sites=sites, cached=cached, entropy_threshold=9.0, snr_low=0.0, snr_high=1e9)
    mask = torch.rand(6, 1, 2, generator=torch.Generator().manual_seed(1)) < 0.5
    exact = rig.config(sites=sites, cached=cached, cross_branch_threshold=0.9)
    return [Job(rig, seed, None, [0, 1, 2]), Job(rig, exact, MaskGate(mask), [2, 0])]


def assert_as_alone(jobs: list[Job], wrappers: list[Any], hold: Callable[[], None]) -> None:
    alone = [job.run(wrapper) for job, wrapper in zip(jobs, wrappers, strict=True)]
    accounts = [job.account for job in jobs]
    assert all(account.reused for account in accounts)
    hold()
    together = at_once(
        *(lambda job=job, on=on: job.run(on) for job, on in zip(jobs, wrappers, strict=True))
    )
    assert all(torch.equal(*pair) for pair in zip(together, alone, strict=True))
    assert [job.account for job in jobs] == accounts


@pytest.mark.parametrize("cached", ["output", "kv"])
@pytest.mark.parametrize("num_wrappers", [1, 2])
def test_threads_share_a_model(rig, cached, num_wrappers):
    jobs = jobs_of(rig, cached=cached)
    wrappers = [DQARDiTWrapper(rig.model, controller=job.controller) for job in jobs[:num_wrappers]]
    wrappers = [wrappers[0], wrappers[-1]]
    assert_as_alone(jobs, wrappers, lambda: hold_together(rig.model))


def test_wrappers_of_other_sites_share_a_model(rig):
    jobs = [jobs_of(rig, sites=("attn",), cached="kv")[0], jobs_of(rig, sites=("ff",))[1]]
    wrappers = [DQARDiTWrapper(rig.model, controller=job.controller) for job in jobs]
    assert_as_alone(jobs, wrappers, lambda: hold_together(rig.model))


def test_threads_with_a_model_each(rig):
    other = copy.deepcopy(rig.model)
    other.proj_out_2.weight.mul_(0.5)
    jobs = jobs_of(rig)
    wrappers = [
        DQARDiTWrapper(model, controller=job.controller)
        for model, job in zip([rig.model, other], jobs, strict=True)
    ]
    assert_as_alone(jobs, wrappers, lambda: hold_together(rig.model, other))


def test_plain_calls_beside_a_run_are_stock(rig):
    stock = rig.sample()
    plain, job = Job(rig, rig.config(), NeverReuse(), [0, 1, 2]), jobs_of(rig)[1]
    wrapper = DQARDiTWrapper(rig.model, controller=job.controller)
    alone = job.run(wrapper)
    hold_together(rig.model)
    beside, found = at_once(lambda: plain.run(rig.model), lambda: job.run(wrapper))
    assert torch.equal(beside, stock)
    assert torch.equal(found, alone)


def test_two_pipelines_in_two_threads(pipe, images_of):
    other = type(pipe)(
        transformer=pipe.transformer,
        vae=pipe.vae,
        scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config),
    )
    other.set_progress_bar_config(disable=True)
    pipes = [patch_dit_pipeline(pipe), patch_dit_pipeline(other)]
    controllers = [DQARController(gate=Interval(2)), DQARController(gate=AllOf())]
    alone = [
        images_of(one, controller=controller)
        for one, controller in zip(pipes, controllers, strict=True)
    ]
    hold_together(pipe.transformer)
    together = at_once(
        *(
            lambda one=one, controller=controller: images_of(one, controller=controller)
            for one, controller in zip(pipes, controllers, strict=True)
        )
    )
    assert all(torch.equal(*pair) for pair in zip(together, alone, strict=True))
    assert not torch.equal(*alone)


class Waiting(Gate):
    """A gate that blocks in its decision until it is released."""

    def __init__(self) -> None:
        self.is_asked, self.is_released = threading.Event(), threading.Event()

    def decide(self, inputs):
        self.is_asked.set()
        assert self.is_released.wait(PATIENCE)
        return NeverReuse().decide(inputs)


def test_run_may_end_while_another_begins_its_step(rig):
    # PyTorch looks up in a second table, hook by hook, which hooks take keyword arguments.
    rig.scheduler.set_timesteps(1)
    timestep = rig.scheduler.timesteps[0].expand(3)
    arguments = {"timestep": timestep, "class_labels": rig.labels}
    stock = rig.model(rig.noise, **arguments).sample
    gate, is_open, may_call = Waiting(), threading.Event(), threading.Event()
    wrapper = rig.wrap(rig.config(), gate)

    def call() -> torch.Tensor:
        with wrapper.run(rig.scheduler, num_branches=1):
            is_open.set()
            assert may_call.wait(PATIENCE)
            return wrapper(rig.noise, **arguments).sample

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(call)
        assert is_open.wait(PATIENCE)
        guest = DQARController(rig.config(), gate=AllOf())
        with wrapper.run(rig.scheduler, num_branches=1, controller=guest):
            may_call.set()
            assert gate.is_asked.wait(PATIENCE)
        gate.is_released.set()
        assert torch.equal(running.result(), stock)


def test_controller_of_another_threads_run_is_refused(rig):
    gate = Waiting()
    wrapper = rig.wrap(rig.config(), gate)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(rig.sample, wrapper)
        assert gate.is_asked.wait(PATIENCE)
        with (
            pytest.raises(ValueError, match="must serve one run at a time"),
            wrapper.run(rig.scheduler, num_branches=2),
        ):
            pass
        gate.is_released.set()
        assert torch.equal(running.result(), rig.sample())
