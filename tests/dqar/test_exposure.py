"""Exposure is execution: a logged mask, replayed, gives the features and the latents again."""

from __future__ import annotations

import pytest
import torch

from dqar.gates import Scripted
from dqar.records import FEATURES, Reason

by_branches = pytest.mark.parametrize("branch_mode", ["tied", "independent"])


def assert_replays(exposed, skipped):
    assert torch.equal(exposed.reasons, skipped.reasons)
    torch.testing.assert_close(exposed.features, skipped.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exposed.latents, skipped.latents, atol=1e-5, rtol=1e-5)
    assert exposed.summary == skipped.summary


@pytest.mark.parametrize("sites", [("attn",), ("ff",), ("attn", "ff")], ids="+".join)
@by_branches
def test_replay_of_an_exposure_run_is_the_run(rig, sites, branch_mode):
    config = rig.config(sites=sites, branch_mode=branch_mode)
    script = Scripted(rig.mask(config))
    assert_replays(rig.run(config, script, exposure=True), rig.run(config, script))


@by_branches
def test_replay_holds_for_cached_keys_and_values(rig, branch_mode):
    config = rig.config(cached="kv", branch_mode=branch_mode)
    script = Scripted(rig.mask(config))
    assert_replays(rig.run(config, script, exposure=True), rig.run(config, script))


def test_replay_holds_without_guidance(rig):
    script = Scripted(rig.mask(rig.config()))
    exposed = rig.run(rig.config(), script, exposure=True, guidance=1.0)
    assert_replays(exposed, rig.run(rig.config(), script, guidance=1.0))


@pytest.mark.parametrize("cached", ["output", "kv"])
def test_replay_holds_with_an_int8_cache(rig, cached, distance):
    config = rig.config(quantization_bits=8, cached=cached)
    script = Scripted(rig.mask(config))
    exposed = rig.run(config, script, exposure=True)
    skipped = rig.run(config, script)
    # Computing some rows rounds differently in the last bit, which can move one int8 value.
    torch.testing.assert_close(exposed.features, skipped.features, atol=1e-3, rtol=1e-3)
    assert distance(skipped.latents, exposed.latents) < 1e-3
    assert exposed.features[2:, ..., FEATURES.index("quant_error")].min() > 0


@by_branches
@pytest.mark.parametrize("cached", ["output", "kv"])
def test_sample_does_not_depend_on_its_batch_mates(rig, branch_mode, cached):
    config, chosen = rig.config(branch_mode=branch_mode, cached=cached), [2, 0]
    mask = rig.mask(config)
    together = rig.run(config, Scripted(mask), exposure=True)
    columns = chosen if branch_mode == "tied" else chosen + [rig.samples + one for one in chosen]
    fewer = rig.run(config, Scripted(mask[..., columns]), exposure=True, chosen=chosen)
    torch.testing.assert_close(fewer.latents, together.latents[chosen], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        fewer.features, together.features[:, :, columns], atol=1e-5, rtol=1e-5
    )


def test_first_step_is_cold_and_the_rest_follows_the_script(rig):
    mask = rig.mask(rig.config())
    ran = rig.run(rig.config(), Scripted(mask), exposure=True)
    assert torch.equal(ran.reasons[1:] == Reason.REUSE, mask[1:])
    assert torch.equal(ran.reasons[0] == Reason.COLD, mask[0])
    assert not (ran.reasons[0] == Reason.REUSE).any()


@pytest.mark.parametrize("cached", ["output", "kv"])
def test_local_error_is_known_wherever_something_was_cached(rig, cached):
    config = rig.config(cached=cached)
    ran = rig.run(config, Scripted(rig.mask(config)), exposure=True)
    assert ran.local_errors[0].isnan().all()
    assert (ran.local_errors[1:] > 0).all()


def test_local_error_of_a_skipping_run_is_unknown(rig):
    config = rig.config()
    assert rig.run(config, Scripted(rig.mask(config))).local_errors.isnan().all()


@pytest.mark.parametrize("step", [1, 3, 5])
def test_features_are_known_before_the_steps_verdict(rig, step):
    config = rig.config()
    mask = rig.mask(config)
    runs = []
    for verdict in (False, True):
        mask[step] = verdict
        runs.append(rig.run(config, Scripted(mask.clone()), exposure=True))
    assert torch.equal(runs[0].features[: step + 1], runs[1].features[: step + 1])
    assert not torch.equal(runs[0].latents, runs[1].latents)


def test_features_do_not_read_the_steps_own_output(rig):
    config, step = rig.config(), 3
    script = Scripted(rig.mask(config))
    untouched = rig.run(config, script, exposure=True)

    def spoil(done: int) -> None:
        if done == step:
            for block in rig.model.transformer_blocks:
                block.attn1.to_q.weight.mul_(3.0)
                block.ff.net[2].weight.mul_(3.0)

    spoiled = rig.run(config, script, exposure=True, on_step=spoil)
    assert torch.equal(spoiled.features[: step + 1], untouched.features[: step + 1])
    assert not torch.equal(spoiled.features[step + 1], untouched.features[step + 1])
    assert not torch.equal(spoiled.local_errors[step], untouched.local_errors[step])
