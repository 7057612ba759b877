"""Stored task results are read back bit for bit, and no other file is taken for them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pipeline.evaluate.answer_cache
from dqar.gates.base import AllOf
from dqar.gates.rules import Interval, Learned, MaskGate, Staleness
from dqar.policy.network import ReusePolicy
from dqar.policy.spec import PolicySpec
from dqar.step_schedule import StepSchedule
from pipeline.cluster.hardware import refuse_other_device
from pipeline.evaluate.answer_cache import ResultCache
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.result_rows import measured_of
from pipeline.evaluate.tasks import EvalTask
from pipeline.evaluate.worker import EvaluationWorker
from pipeline.methods.base import OperatingPoint
from pipeline.methods.calibration import CalibrationTask
from pipeline.methods.smoothcache import Curves, CurveTask
from pipeline.storage.fingerprint import fingerprint

CONFIG = EvaluateConfig(
    model="digits", num_samples=4, batch_size=2, steps=5, guidance_scale=2.0, part_samples=2
)
SCHEDULE = StepSchedule(computed=(0, 2))
POINT = OperatingPoint(
    method="learned",
    operating_point="plan@2",
    steps=5,
    gate=MaskGate(SCHEDULE.mask(5)[:, None, None]),
    schedule=SCHEDULE,
    schedule_source="policy",
)
PROBE = CalibrationTask(name="p", gate=Interval(2), num_samples=2)


@pytest.fixture(scope="module")
def answers():
    """Results of a real worker for a calibration task and for the tasks of an operating point."""
    evaluator = EvaluationWorker(CONFIG)
    tasks = [PROBE, *CONFIG.parts_of(POINT)]
    return [(task, evaluator.do(task)) for task in tasks]


@pytest.fixture
def kept(tmp_path):
    return lambda config=CONFIG: ResultCache(tmp_path / "_points", config, "model")


def nobody(tasks):
    """Run no tasks: fail if there are any."""
    assert not tasks
    return iter(())


def test_answers_come_back_to_the_last_bit(answers, kept):
    tasks = [task for task, _ in answers]
    assert list(kept().work(tasks, lambda asked: iter(answers))) == answers
    again = dict(zip(map(id, tasks), kept().work(tasks, nobody), strict=True))
    for task, answer in answers:
        found = again[id(task)][1]
        if isinstance(task, CalibrationTask):
            assert found.snrs == answer.snrs
            for name in ("reuse_ratio", "share", "error", "entropies"):
                assert torch.equal(getattr(found, name), getattr(answer, name))
    parts = [again[id(task)][1] for task in tasks[1:]]
    expected = measured_of(POINT, CONFIG, [answer for _, answer in answers[1:]])
    measured = measured_of(POINT, CONFIG, parts)
    assert measured.row == expected.row
    assert measured.plan == expected.plan
    assert measured.plan is not None
    assert np.array_equal(measured.images, expected.images)


def test_only_what_is_missing_is_asked_for(answers, kept):
    kept().keep(*answers[1])
    asked = []

    def work(tasks):
        asked.extend(tasks)
        return iter([answers[0], answers[2]])

    done = [task for task, _ in kept().work([task for task, _ in answers], work)]
    assert asked == [answers[0][0], answers[2][0]]
    assert len(done) == 3


def test_curves_come_back_to_the_last_bit(kept):
    probe = CurveTask(num_samples=2, largest_gap=3)
    answer = EvaluationWorker(CONFIG).do(probe)
    assert isinstance(answer, Curves)
    assert list(kept().work([probe], lambda asked: iter([(probe, answer)]))) == [(probe, answer)]
    ((_, found),) = kept().work([probe], nobody)
    assert isinstance(found, Curves)
    assert torch.equal(found.error.nan_to_num(-1.0), answer.error.nan_to_num(-1.0))
    assert kept().take(replace(probe, largest_gap=2)) is None


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"num_samples": 6}, {"cache_bits": 4}, {"guidance_scale": 3.0}]
)
def test_another_configuration_finds_nothing(answers, kept, changes):
    task, answer = answers[1]
    kept().keep(task, answer)
    assert kept().take(task) is not None
    assert kept(replace(CONFIG, **changes)).take(task) is None


def test_another_point_or_part_finds_nothing(answers, kept):
    task, answer = answers[1]
    kept().keep(task, answer)
    for changes in ({"steps": 6}, {"forecast_order": 1}, {"gate": Interval(3)}):
        assert kept().take(replace(task, point=replace(POINT, **changes))) is None
    assert kept().take(EvalTask(point=POINT, start=2, stop=4)) is None


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("size", [0, 1, 40])
def test_what_was_cut_short_is_measured_again(answers, kept, suffix, size):
    task, answer = answers[1]
    kept().keep(task, answer)
    path = kept()._path(task).with_suffix(suffix)
    path.write_bytes(path.read_bytes()[:size])
    assert kept().take(task) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(data=st.data(), value=JSON)
def test_a_strange_field_is_no_answer(answers, tmp_path_factory, data, value):
    keeper = ResultCache(tmp_path_factory.mktemp("kept") / "_points", CONFIG)
    task, answer = answers[data.draw(st.integers(0, 2))]
    keeper.keep(task, answer)
    path = keeper._path(task)
    stored = json.loads(path.read_text())
    name = data.draw(st.sampled_from(sorted(stored)))
    before = json.dumps(stored)
    stored[name] = value
    path.write_text(json.dumps(stored))
    assert (keeper.take(task) is None) == (json.dumps(stored) != before)


def test_objects_are_never_unpickled(answers, kept):
    task, answer = answers[1]
    kept().keep(task, answer)
    path = kept()._path(task).with_suffix(".npz")
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    np.savez(path, **arrays | {"image0": np.array([{"a": 1}], dtype=object)}, allow_pickle=True)
    described = path.with_suffix(".json")
    stored = json.loads(described.read_text())
    del stored["digest"]
    stored["digest"] = pipeline.evaluate.answer_cache._digest(stored, path.read_bytes())
    described.write_text(json.dumps(stored))
    assert kept().take(task) is None


def test_kept_answers_are_cleared(answers, kept):
    kept().keep(*answers[0])
    kept().clear()
    assert not kept().folder.exists()
    kept().clear()


def policy(seed=0, **spec):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReusePolicy(PolicySpec(**spec))


def test_fingerprints_tell_gates_and_policies_apart():
    gates = [
        None,
        Interval(2),
        Interval(3),
        Staleness(2),
        AllOf(Interval(2), Staleness(2)),
        AllOf(Staleness(2), Interval(2)),
        MaskGate(torch.zeros(2, 1, 1, dtype=torch.bool)),
        MaskGate(torch.zeros(2, 1, 1, dtype=torch.bool).logical_not()),
        Learned(policy()),
        Learned(policy(1)),
        Learned(policy(max_gap=3)),
        Learned(policy(), log_threshold=torch.tensor([1.0])),
        Learned(policy(), log_threshold=1.0),
    ]
    prints = [fingerprint(replace(POINT, gate=gate)) for gate in gates]
    assert len(set(prints)) == len(gates)
    assert fingerprint(Learned(policy())) == fingerprint(Learned(policy()))


def test_fingerprints_are_of_structure():
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint(["a"], "b") != fingerprint(["a", "b"])
    assert fingerprint(1) != fingerprint(1.0) != fingerprint(True)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(torch.zeros(2, 3)) != fingerprint(torch.zeros(3, 2))
    assert fingerprint(torch.zeros(3, 2).T) == fingerprint(torch.zeros(2, 3))
    with pytest.raises(TypeError, match="must be made of records"):
        fingerprint(lambda: None)


@pytest.mark.parametrize(
    ("name", "wanted", "fits"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100", True),
        ("NVIDIA A100-SXM4-80GB", "A100-80G", True),
        ("NVIDIA A100-SXM4-40GB", "A100-80G", False),
        ("NVIDIA L40S", "L4", False),
        ("NVIDIA L4", "L4", True),
        ("NVIDIA A10G", "A100", False),
        ("Tesla T4", "T4", True),
        ("cpu", "A100", False),
        ("cpu", None, True),
    ],
)
def test_a_device_is_known_by_the_words_of_its_name(name, wanted, fits):
    if fits:
        refuse_other_device(name, wanted)
    else:
        with pytest.raises(ValueError, match=f"--accelerator-type must be.*{name}"):
            refuse_other_device(name, wanted)
