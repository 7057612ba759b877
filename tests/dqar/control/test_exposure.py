"""Exposure equals execution: replaying a logged mask gives the same features and latents."""

from __future__ import annotations

import itertools

import pytest
import torch

from dqar.gates.rules import MaskGate
from dqar.records import FEATURES, DecisionReason

ROUNDING = 1e-5
"""Relative L2 distance within which two orders of the same float32 sums stay over a run: kernels
round differently for another number of rows."""
by_branches = pytest.mark.parametrize("branch_mode", ["tied", "independent"])
ORDERS = {"0": 0, "1": 1, "2": 2, "mixed": torch.tensor([2, 0, 1])}
by_orders = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)


def of_order(order: int | torch.Tensor) -> tuple[dict, dict]:
    """Return changes of the configuration, and options of the run, for a forecast order."""
    if isinstance(order, int):
        return {"forecast_order": order}, {}
    return {"forecast_order": int(order.max())}, {"forecast_order": order}


def assert_replays(exposed, skipped):
    assert torch.equal(exposed.reasons, skipped.reasons)
    torch.testing.assert_close(exposed.features, skipped.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exposed.latents, skipped.latents, atol=1e-5, rtol=1e-5)
    assert exposed.summary == skipped.summary


@pytest.mark.parametrize(
    "sites",
    [("attn",), pytest.param(("ff",), marks=pytest.mark.slow), ("attn", "ff")],
    ids="+".join,
)
@by_branches
@by_orders
def test_replay_of_an_exposure_run_is_the_run(rig, sites, branch_mode, order):
    changes, options = of_order(order)
    config = rig.config(sites=sites, branch_mode=branch_mode, **changes)
    script = MaskGate(rig.mask(config))
    exposed = rig.run(config, script, exposure=True, **options)
    assert_replays(exposed, rig.run(config, script, **options))


@by_branches
@by_orders
def test_replay_holds_for_cached_keys_and_values(rig, branch_mode, order):
    changes, options = of_order(order)
    config = rig.config(cached="kv", branch_mode=branch_mode, **changes)
    script = MaskGate(rig.mask(config))
    exposed = rig.run(config, script, exposure=True, **options)
    assert_replays(exposed, rig.run(config, script, **options))


@by_orders
def test_replay_holds_for_blocks(rig, order):
    changes, options = of_order(order)
    config = rig.config(sites=("block",), **changes)
    script = MaskGate(rig.mask(config))
    exposed = rig.run(config, script, exposure=True, **options)
    assert_replays(exposed, rig.run(config, script, **options))


def test_replay_holds_without_guidance(rig):
    script = MaskGate(rig.mask(rig.config()))
    exposed = rig.run(rig.config(), script, exposure=True, guidance=1.0)
    assert_replays(exposed, rig.run(rig.config(), script, guidance=1.0))


@pytest.mark.parametrize("cached", ["output", "kv"])
@by_orders
def test_replay_holds_with_an_int8_cache(rig, cached, order, distance):
    changes, options = of_order(order)
    config = rig.config(quantization_bits=8, cached=cached, **changes)
    script = MaskGate(rig.mask(config))
    exposed = rig.run(config, script, exposure=True, **options)
    skipped = rig.run(config, script, **options)
    # Computing only some rows changes the last bit of a float, which may change one int8 code.
    torch.testing.assert_close(exposed.features, skipped.features, atol=1e-3, rtol=1e-3)
    assert distance(skipped.latents, exposed.latents) < 1e-3
    assert exposed.features[2:, ..., FEATURES.index("quant_error")].min() > 0


def mates():
    """Yield all combinations; the quick suite has those that hold every pair of two settings'
    values."""
    for place in itertools.product(range(2), range(2), range(len(ORDERS))):
        branch, cached = ("tied", "independent")[place[0]], ("output", "kv")[place[1]]
        name, order = list(ORDERS.items())[place[2]]
        marks = pytest.mark.slow if sum(place) % 2 else ()
        yield pytest.param(branch, cached, order, marks=marks, id=f"{name}-{cached}-{branch}")


@pytest.mark.parametrize(("branch_mode", "cached", "order"), [*mates()])
def test_sample_does_not_depend_on_its_batch_mates(rig, branch_mode, cached, order, distance):
    changes, options = of_order(order)
    config, chosen = rig.config(branch_mode=branch_mode, cached=cached, **changes), [2, 0]
    mask = rig.mask(config)
    together = rig.run(config, MaskGate(mask), exposure=True, **options)
    options = {name: value[chosen] for name, value in options.items()}
    columns = chosen if branch_mode == "tied" else chosen + [rig.samples + one for one in chosen]
    fewer = rig.run(config, MaskGate(mask[..., columns]), exposure=True, chosen=chosen, **options)
    assert distance(fewer.latents, together.latents[chosen]) < ROUNDING
    torch.testing.assert_close(
        fewer.features, together.features[:, :, columns], atol=1e-5, rtol=1e-5
    )


def test_first_step_is_cold_and_the_rest_follows_the_script(rig):
    mask = rig.mask(rig.config())
    ran = rig.run(rig.config(), MaskGate(mask), exposure=True)
    assert torch.equal(ran.reasons[1:] == DecisionReason.REUSE, mask[1:])
    assert torch.equal(ran.reasons[0] == DecisionReason.COLD, mask[0])
    assert not (ran.reasons[0] == DecisionReason.REUSE).any()


@pytest.mark.parametrize("cached", ["output", "kv"])
def test_local_error_is_known_wherever_something_was_cached(rig, cached):
    config = rig.config(cached=cached)
    ran = rig.run(config, MaskGate(rig.mask(config)), exposure=True)
    assert ran.local_errors[0].isnan().all()
    assert (ran.local_errors[1:] > 0).all()


def test_local_error_of_a_skipping_run_is_unknown(rig):
    config = rig.config()
    assert rig.run(config, MaskGate(rig.mask(config))).local_errors.isnan().all()


@pytest.mark.parametrize("step", [1, 3, 5])
def test_features_are_known_before_the_steps_verdict(rig, step):
    config = rig.config()
    mask = rig.mask(config)
    runs = []
    for decision in (False, True):
        mask[step] = decision
        runs.append(rig.run(config, MaskGate(mask.clone()), exposure=True))
    assert torch.equal(runs[0].features[: step + 1], runs[1].features[: step + 1])
    assert not torch.equal(runs[0].latents, runs[1].latents)


def test_features_do_not_read_the_steps_own_output(rig):
    config, step = rig.config(), 3
    script = MaskGate(rig.mask(config))
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


def test_each_sample_of_a_mixed_batch_is_what_it_is_alone_at_its_order(rig):
    config, mixed = rig.config(forecast_order=2), ORDERS["mixed"]
    script = MaskGate(rig.mask(config))
    together = rig.run(config, script, exposure=True, forecast_order=mixed)
    for sample, order in enumerate(mixed.tolist()):
        alone = rig.run(rig.config(forecast_order=order), script, exposure=True)
        torch.testing.assert_close(
            alone.latents[sample], together.latents[sample], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            alone.local_errors[..., sample],
            together.local_errors[..., sample],
            atol=1e-5,
            rtol=1e-4,
            equal_nan=True,
        )
        actions = together.records[-1].inputs.order[:, sample]
        assert actions.max() <= order


def test_local_error_is_the_forecasts(rig):
    # Before step 4 the value was computed at the steps 0, 2 and 3.
    reuse = torch.tensor([0, 1, 0, 0, 1, 0], dtype=torch.bool)[:, None, None]
    kept: list[torch.Tensor] = []
    attention = rig.model.transformer_blocks[0].attn1
    handle = attention.to_out[0].register_forward_hook(lambda *seen: kept.append(seen[2].clone()))
    errors = {
        order: rig.run(
            rig.config(sites=("attn",), forecast_order=order), MaskGate(reuse), exposure=True
        ).local_errors[4, 0]
        for order in (0, 1, 2)
    }
    handle.remove()
    for order, error in errors.items():
        v0, _, v2, v3, v4, _ = kept[order * rig.steps : (order + 1) * rig.steps]
        d1, d1_before = v3 - v2, (v2 - v0) / 2
        shown = v3 + (order >= 1) * d1 + (order == 2) * 2 * (d1 - d1_before) / 3
        by_row = (shown - v4).flatten(1).norm(dim=1) / v4.flatten(1).norm(dim=1)
        torch.testing.assert_close(error, by_row.view(2, -1).mean(dim=0), atol=1e-6, rtol=1e-3)


def test_drift_is_the_change_since_the_last_computation(rig):
    """Attention computes at the steps 0, 2, 3 and 5; step 4 reads the change from 2 to 3."""
    reuse = torch.tensor([0, 1, 0, 0, 1, 0], dtype=torch.bool)[:, None, None]
    kept: list[torch.Tensor] = []
    attention = rig.model.transformer_blocks[0].attn1
    handle = attention.to_out[0].register_forward_hook(lambda *seen: kept.append(seen[2].clone()))
    records = rig.run(rig.config(sites=("attn",)), MaskGate(reuse)).records
    handle.remove()
    v0, v2, v3, _ = kept
    for step, old, new in ((3, v0, v2), (4, v2, v3), (5, v2, v3)):
        by_row = (new - old).flatten(1).norm(dim=1) / new.flatten(1).norm(dim=1)
        drift = by_row.view(2, -1).mean(dim=0)
        torch.testing.assert_close(records[step].inputs.drift[0], drift)


def test_orders_that_are_kept_and_not_wanted_change_nothing(rig):
    script = MaskGate(rig.mask(rig.config()))
    plain = rig.run(rig.config(), script)
    kept = rig.run(rig.config(forecast_order=2), script, forecast_order=torch.zeros(3).long())
    assert torch.equal(plain.latents, kept.latents)
    assert kept.summary.cache_bytes == 3 * plain.summary.cache_bytes
