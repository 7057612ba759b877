"""Training on a tiny collection: saved policies, and validation on held-out noise samples."""

import math
from itertools import pairwise

import pytest
import torch

from dqar.policy.serialization import load_policy
from dqar.records import ACTIONS, FEATURE_SETS
from pipeline.errors import InputError
from pipeline.traces import read_gates, read_trajectories
from pipeline.traces.multi_dataset import open_traces
from pipeline.train.config import APART, TrainConfig
from pipeline.train.damage_model import fit_damage
from pipeline.train.early_stopping import FitConfig
from pipeline.train.gate_table import ReusedGates
from pipeline.train.train import save_trained, train
from pipeline.train.training_data import matching_trajectories
from tests.pipeline.gate_readers import check_propensities, load_reused_gates


@pytest.fixture(scope="module")
def trained(traces):
    """Result of a training with the full feature set."""
    return train(TrainConfig(features="full", members=1), open_traces(traces))


@pytest.mark.parametrize(
    ("features", "label"), [("seed", "final"), ("schedule", "final"), ("schedule", "local")]
)
def test_every_feature_set_and_label_gives_a_policy_that_loads(traces, tmp_path, features, label):
    config = TrainConfig(features=features, label=label, members=1)
    save_trained(train(config, open_traces(traces)), tmp_path, {"train": "run"})
    policy = load_policy(tmp_path)
    assert policy.spec.features == config.names
    assert bool(policy.spec.plans) == (features == "schedule")
    assert policy.spec.lineage == {"train": "run"}
    rows = torch.randn(7, len(config.names))
    assert torch.isfinite(policy(rows)).all()


@pytest.mark.parametrize("features", ["seed", "schedule", "full"])
def test_only_a_policy_that_plans_leaves_out_what_tells_gates_apart(features):
    apart = APART if features == "schedule" else ()
    expected = tuple(name for name in FEATURE_SETS[features] if name not in apart)
    assert TrainConfig(features=features).names == expected
    assert TrainConfig(features=features, granularity="gate").names == FEATURE_SETS[features]


@pytest.mark.parametrize("name", ["log_snr", "log_span_before", "feedback"])
def test_a_policy_plans_without_a_feature(traces, tmp_path, name):
    config = TrainConfig(without=(name,), members=1)
    whole = TrainConfig().names
    assert config.names == tuple(one for one in whole if one != name)
    save_trained(train(config, open_traces(traces)), tmp_path, {})
    policy = load_policy(tmp_path)
    assert policy.spec.features == config.names
    assert policy.spec.plans


@pytest.mark.parametrize(
    ("features", "without", "said"),
    [
        ("schedule", ("entropy",), r"set schedule: log_snr.*Got \['entropy'\]"),
        ("seed", ("log_gap",), r"set seed: entropy.*Got \['log_gap'\]"),
        ("full", ("entropy", "mood"), r"Got \['mood'\]"),
        ("schedule", ("log_gap",), "leave a feature, and log_gap"),
        ("schedule", ("log_snr", "log_span"), "leave a feature, and log_gap"),
        ("schedule", ("depth",), "never read depth"),
        ("seed", FEATURE_SETS["seed"], "leave a feature"),
    ],
)
def test_what_cannot_be_left_out_is_refused(features, without, said):
    with pytest.raises(ValueError, match=f"without must.*{said}.*--drop-features"):
        TrainConfig(features=features, without=without)


def test_a_policy_that_measures_may_lack_any_feature():
    for name in FEATURE_SETS["full"]:
        left = TrainConfig(features="full", without=(name,)).names
        assert set(FEATURE_SETS["full"]) - set(left) == {name}


def test_a_policy_says_what_it_was_trained_for(trained, traces, traces_plan):
    spec = trained.policy.spec
    assert spec.features == FEATURE_SETS["full"]
    for name in ("model_hash", "steps", "sampler", "branch_mode", "sites"):
        assert getattr(spec, name) == getattr(traces_plan, name)
    assert spec.guidance == traces_plan.guidance_scale
    assert (spec.num_layers, spec.cache_mode) == (8, "int8")
    assert spec.trace_digest == open_traces(str(traces)).digest
    assert 1 <= spec.max_gap < traces_plan.steps


def test_what_is_saved_is_what_was_trained(trained, tmp_path):
    saved = save_trained(trained, tmp_path, {})
    loaded = load_policy(tmp_path)
    rows = torch.randn(5, len(loaded.spec.features))
    assert torch.equal(loaded(rows), trained.policy(rows))
    assert loaded.spec.log_threshold == saved.spec.log_threshold


def test_held_out_noises_are_whole_and_disjoint_from_fitted_ones(trained, traces):
    """A measured error identifies its trajectory; with it all of its noise sample is held out."""
    table = read_trajectories(str(traces)).to_pylist()
    error = torch.tensor([row["latent_rel_l2"] for row in table])
    logs = error.square().clamp_min(1e-12).log()
    held_out = {
        row["trajectory_id"]
        for row, log_error in zip(table, logs.tolist(), strict=True)
        if any(
            math.isclose(log_error, value, rel_tol=1e-6) for value in trained.validation.measured
        )
    }
    noises = {row["noise_id"] for row in table if row["trajectory_id"] in held_out}
    mates = {row["trajectory_id"] for row in table if row["noise_id"] in noises}
    assert held_out == mates
    assert 0 < len(noises) < len({row["noise_id"] for row in table})
    metrics = trained.validation.metrics
    assert metrics["trajectories_held_out"] == len(held_out)
    assert metrics["trajectories_fitted"] == len(table) - len(held_out)


def test_held_out_figures_are_in_range(trained):
    held_out = trained.validation
    assert len(held_out.predicted) == len(held_out.measured)
    assert set(held_out.importance) == set(FEATURE_SETS["full"])
    assert 0 <= held_out.metrics["brier"] <= 1
    assert all(0 <= value <= 1 for pair in held_out.reliability for value in pair)


def test_propensities_of_the_traces_are_tested(traces, trained, monkeypatch):
    """24 trajectories are too few for any stratum, unless the least variance is lowered."""
    assert trained.propensity_test.strata == []
    monkeypatch.setattr("pipeline.train.propensity_test.LEAST_VARIANCE", 0.5)
    strata = check_propensities(str(traces)).strata
    assert {stratum.design for stratum in strata} == {"paced"}
    assert len(strata) > 1
    for stratum in strata:
        assert 0.5 <= stratum.variance <= stratum.draws / 4 <= 24 / 4
        assert abs(stratum.z) < 5


def test_training_twice_is_the_same(trained, traces):
    again = train(TrainConfig(features="full", members=1), open_traces(traces))
    for name, value in trained.policy.state_dict().items():
        assert torch.equal(value, again.policy.state_dict()[name])


def test_loss_falls_and_steps_are_reported(traces):
    reports = []
    train(
        TrainConfig(features="schedule", members=1),
        open_traces(traces),
        lambda step, loss: reports.append((step, loss)),
    )
    assert all(one < other for (one, _), (other, _) in pairwise(reports))
    assert reports[-1][1] < reports[0][1]


def test_sites_that_the_traces_lack_are_refused(traces):
    with pytest.raises(InputError, match=r"\['ff'\].*Collect with those sites"):
        train(TrainConfig(sites=("attn", "ff")), open_traces(traces))


def test_orders_that_the_traces_lack_are_refused(traces):
    config = TrainConfig(forecast_orders=(0, 2), members=1)
    with pytest.raises(
        InputError, match=r"--forecast-orders.*\(0,\). Got \[2\].*Collect with those"
    ):
        train(config, open_traces(traces))


def test_gains_that_the_traces_lack_are_refused(traces):
    config = TrainConfig(feedbacks=(0.5,), members=1)
    with pytest.raises(
        InputError, match=r"--error-feedback.*\(0.0,\). Got \[0.5\].*Collect with those"
    ):
        train(config, open_traces(traces))


@pytest.mark.parametrize("order", [0, 1])
def test_a_policy_that_decides_step_by_step_learns_from_one_order(mixed_traces, order):
    """Trajectories with another forecast order show another damage."""
    chosen = matching_trajectories(open_traces(mixed_traces), (order, 0.0))
    assert 0 < int(chosen.sum()) < len(chosen)
    config = TrainConfig(features="seed", members=1, forecast_orders=(order,))
    trained = train(config, open_traces(mixed_traces))
    assert trained.policy.spec.forecast_order == order
    assert trained.policy.spec.actions == ("compute", *ACTIONS[: order + 1])
    metrics = trained.validation.metrics
    judged = metrics["trajectories_fitted"] + metrics["trajectories_held_out"]
    assert judged == int(chosen.sum())


def test_reused_gates_are_counted_by_trajectory(traces):
    gates = load_reused_gates(str(traces), ("depth", "log_gap"), ("attn",))
    assert gates.features.shape == (len(gates.trajectory), 2)
    assert len(gates.squared_error) == 24
    assert gates.noise.unique().numel() == 8
    assert (gates.features >= 0).all()


def test_a_subset_keeps_the_gates_of_its_trajectories(traces):
    gates = load_reused_gates(str(traces), ("log_gap",), ("attn",))
    chosen = gates.noise % 2 == 0
    part = gates.subset(chosen)
    assert len(part.squared_error) == int(chosen.sum()) == 12
    assert part.noise.unique().tolist() == [0, 1, 2, 3]
    before = torch.bincount(gates.trajectory, minlength=24)[chosen]
    assert torch.equal(torch.bincount(part.trajectory, minlength=12), before)


def test_the_fit_recovers_damage_that_adds_up():
    """Gates with feature 1 have e^2 times the damage of gates with feature 0."""
    from dqar.policy.spec import PolicySpec

    generator = torch.Generator().manual_seed(0)
    kind = (torch.rand(4000, generator=generator) < 0.5).float()
    trajectory = torch.randint(100, (4000,), generator=generator)
    total = torch.zeros(100).index_add(0, trajectory, torch.exp(2.0 * kind - 6.0))
    gates = ReusedGates(
        features=kind[:, None],
        trajectory=trajectory,
        squared_error=total,
        noise=torch.arange(100) // 2,
        weight=torch.ones(4000),
    )
    model = fit_damage(PolicySpec(features=("log_gap",)), gates, FitConfig()).model
    cheap, dear = model.policy(torch.tensor([[0.0], [1.0]])).tolist()
    assert dear - cheap == pytest.approx(2.0, abs=0.5)


def test_gains_are_logged_and_planned_for(mixed_traces):
    trajectories = read_trajectories(str(mixed_traces)).to_pylist()
    gain_of = {row["trajectory_id"]: row["feedback"] for row in trajectories}
    assert set(gain_of.values()) == {0.0, 0.5}
    gates = read_gates(str(mixed_traces), ["trajectory_id", "feedback"]).to_pylist()
    assert all(gate["feedback"] == gain_of[gate["trajectory_id"]] for gate in gates)
    spec = train(TrainConfig(members=1), open_traces(mixed_traces)).policy.spec
    planned = {spec.setting, *(one.setting for one in spec.rivals)}
    assert planned == {(order, gain) for order in (0, 1) for gain in (0.0, 0.5)}


def test_one_step_errors_plan_without_feedback(mixed_traces):
    trained = train(TrainConfig(members=1, label="local"), open_traces(mixed_traces))
    assert trained.policy.spec.feedback == 0.0
    assert trained.policy.spec.rivals == ()
