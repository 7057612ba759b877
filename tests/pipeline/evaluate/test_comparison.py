"""Experiment of an evaluation's comparison, in a real sqlite store."""

import json
import shutil

import pytest

from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from pipeline.evaluate.comparison import (
    AT_SAVING,
    NOTE,
    OVER_FLOPS,
    description,
    is_for,
    publish_comparison,
    publish_policies,
)
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.terminal_report import closing_lines, errors_table
from pipeline.methods.base import COARSE, Comparison
from pipeline.report.decision import decide
from pipeline.tracking import Tracker
from pipeline.tracking.pages import charts_page, latest_comparison
from pipeline.tracking.saved_view import VIEW_TAG

CONFIG = EvaluateConfig(model="digits", steps=50, guidance_scale=2.0, sites=("attn", "ff"))
ERRORS = {"learned": 0.003, "threshold": 0.02, "interval": 0.01, "baseline": 0.0}


def rows():
    return [
        {
            "method": method,
            "operating_point": f"flops={flops:g}",
            "flops_ratio": 1.0 if method == "baseline" else flops,
            "reuse_ratio": 0.5,
            "latent_rel_l2": error * flops,
            "latent_rel_l2_ci95": [0.9 * error * flops, 1.1 * error * flops],
            "latent_rel_l2_samples": [0.9 * error * flops, 1.1 * error * flops],
            "schedule_source": "policy" if method == "learned" else None,
            "forecast_order": 0,
            "feedback": 0.0,
            **CONFIG.columns(),
            "sampler": "ddim",
            "steps": 50,
            "device": "cpu",
        }
        for method, error in ERRORS.items()
        for flops in (1.5, 2.0, 3.2)
    ]


@pytest.fixture
def tracker(store_uri, tmp_path):
    return Tracker(store_uri, "dqar", out=str(tmp_path / "results"), claim="settings")


def published(tracker):
    """Publish the comparison; return the evaluation's run and the experiment's id."""
    parent = tracker.open_pipeline({}, "pipeline")
    with tracker.run("evaluate digits", stage="evaluate", parent=parent) as session:
        experiment = publish_comparison(tracker, session, CONFIG, rows(), decide(rows(), "out"))
    return session, experiment


def test_every_method_is_a_line_over_the_flops(tracker):
    session, key = published(tracker)
    found = tracker.client.search_runs([tracker.id_of(key)])
    runs = {run.info.run_name: run for run in found}
    assert set(runs) == {"learned", "threshold", "interval"}
    for name, run in runs.items():
        assert "mlflow.parentRunId" not in run.data.tags
        assert run.data.tags["evaluation"] == session.run_id
        line = tracker.client.get_metric_history(run.info.run_id, OVER_FLOPS)
        # 1000 / 3.2 = 312.5 rounds to the even 312.
        expected = [(312, 3.2), (500, 2.0), (667, 1.5)]
        assert sorted((one.step, one.value) for one in line) == [
            (step, pytest.approx(ERRORS[name] * flops)) for step, flops in expected
        ]
        at_2 = run.data.metrics[AT_SAVING.format(2.0)]
        assert at_2 == pytest.approx(2.0 * ERRORS[name])


def test_the_description_links_to_the_report_and_names_what_to_ship(tracker, tmp_path):
    session, key = published(tracker)
    tags = tracker.client.get_experiment(tracker.id_of(key)).tags
    note = tags[NOTE]
    stages = f"#/experiments/{tracker.experiment_id}/runs/{session.run_id}/artifacts/results"
    assert note.startswith(f"[Report]({stages}/report.html)")
    assert "Ship learned at 2" in note.splitlines()[0]
    assert session.key not in note
    assert "jobs/sample.py" in note
    charts = json.loads(tags[VIEW_TAG])["compareRunCharts"]
    assert (charts[0]["metricKey"], charts[0]["scaleType"]) == (OVER_FLOPS, "log")
    text = closing_lines(tracker, key, decide(rows(), "out"), str(tmp_path))
    assert f"/#/experiments/{tracker.id_of(key)}/runs?workflowType=machine_learning" in text
    assert "viewStateShareKey=comparison" in text
    page = charts_page(tracker.id_of(key), has_view=True)
    assert latest_comparison(tracker.uri) == page


@pytest.mark.slow
def test_without_a_policy_the_description_links_to_what_is_reused_alone(tracker):
    parent = tracker.open_pipeline({}, "pipeline")
    spaced = [row | {"method": "spaced"} for row in rows() if row["method"] == "learned"]
    with tracker.run("evaluate digits", stage="evaluate", parent=parent) as session:
        text = description(tracker, session, spaced, decide(spaced, "F"))
    assert "[what is reused]" in text
    assert "[policy]" not in text


def test_a_comparison_that_was_kept_while_mlflow_was_away_is_logged_later(tracker, tmp_path):
    parent = tracker.open_pipeline({}, "pipeline")
    database = tmp_path / "mlflow.db"
    with tracker.run("evaluate digits", stage="evaluate", parent=parent) as session:
        shutil.move(database, tmp_path / "away.db")
        database.mkdir()
        publish_comparison(tracker, session, CONFIG, rows(), decide(rows(), "out"))
        database.rmdir()
        shutil.move(tmp_path / "away.db", database)
    tracker.settle()
    name = f"dqar comparison: digits, ddim-50, guidance 2, attn,ff, {session.run_id[:8]}"
    found = tracker.client.get_experiment_by_name(name)
    assert found is not None
    assert len(tracker.client.search_runs([found.experiment_id])) == 3
    assert session.key not in found.tags[NOTE]


def test_the_table_of_a_terminal_is_narrow_and_in_the_order_of_the_errors():
    lines = errors_table(rows()).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[1] for line in lines[2:]] == ["learned", "interval", "threshold"]
    assert "0.0060 ± 0.0006" in lines[2]
    near = [row for row in rows() if row["method"] != "interval" or row["flops_ratio"] < 1.9]
    assert "| max 1.50x: 0.0150 " in errors_table(near)


def test_policies_without_a_registered_version_are_passed_over(tracker):
    policy = ReusePolicy(PolicySpec(lineage={"train": "0" * 32}))
    comparison = Comparison(methods=("learned",), policies={"learned": policy}, grid=COARSE)
    session, key = published(tracker)
    publish_policies(tracker, session, CONFIG, comparison, rows(), key)
    tracker.settle()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, True), ({"guidance": 4.0}, False), ({"sites": ("attn",)}, False)],
)
def test_only_policies_for_the_settings_of_an_evaluation_are_promoted(changes, expected):
    spec = PolicySpec(**{"guidance": 2.0, "sites": ("ff", "attn"), **changes})
    assert is_for(spec, CONFIG) is expected
