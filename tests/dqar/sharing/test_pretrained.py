"""Plans and policies in folders and on a Hub of this machine, with their cards."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
import yaml

import dqar
from dqar import CardFacts, HubAccess, PolicySpec, ReusePolicy, StaticPlan
from dqar.hub_files import MAX_BYTES, fetch
from dqar.records import FEATURE_SETS
from dqar.registry import local_folder
from tests.dqar.sharing.local_hub import TOKEN, serving

FACTS = CardFacts(
    base_model="facebook/DiT-XL-2-256",
    guidance=4.0,
    measured_error=0.0031,
    measured_on="64 samples, seed 21",
    license="mit",
)


def plan_of() -> StaticPlan:
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[[0, 3]] = False
    return StaticPlan.of_mask(mask, sites=("attn", "ff"), forecast_order=1, sampler="DDIMScheduler")


def policy_of() -> ReusePolicy:
    spec = PolicySpec(
        features=FEATURE_SETS["schedule"],
        granularity="step",
        num_layers=2,
        steps=6,
        guidance=4.0,
        plans=((0, 3), tuple(range(6))),
        plan_errors=(0.005, 0.0),
    )
    return ReusePolicy(spec).eval().requires_grad_(False)


def equal(one, other) -> bool:
    if isinstance(one, StaticPlan):
        return one == other
    weights = other.state_dict()
    return one.spec == other.spec and all(
        torch.equal(value, weights[name]) for name, value in one.state_dict().items()
    )


both = pytest.mark.parametrize("make", [plan_of, policy_of], ids=["plan", "policy"])


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture
def access(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return HubAccess(token=TOKEN, endpoint=hub.endpoint, cache_dir=tmp_path / "cache")


@both
def test_a_folder_gives_back_what_was_saved(make, tmp_path):
    shared = make()
    dqar.save_pretrained(shared, tmp_path / "made" / "folder", FACTS)
    assert equal(dqar.from_pretrained(tmp_path / "made" / "folder"), shared)


def test_readers_of_one_kind_take_the_folder(tmp_path):
    dqar.save_pretrained(plan_of(), tmp_path / "plan")
    dqar.save_pretrained(policy_of(), tmp_path / "policy")
    assert dqar.load_plan(tmp_path / "plan") == plan_of()
    assert dqar.load_policy(tmp_path / "policy").spec == policy_of().spec
    assert dqar.load_plan(tmp_path / "policy").steps == 6
    with pytest.raises(ValueError, match=r"policy\.json must be a policy's JSON"):
        dqar.load_policy(tmp_path / "plan")


@both
def test_the_hub_gives_back_what_was_pushed(make, hub, access, tmp_path):
    shared, name = make(), f"me/{make.__name__}"
    url = dqar.push_to_hub(shared, name, FACTS, access=access)
    assert url.startswith(f"{hub.endpoint}/{name}/commit/")
    assert equal(dqar.from_pretrained(name, access), shared)
    assert equal(dqar.from_pretrained(f"hf://{name}@main", access), shared)
    assert equal(dqar.from_pretrained(f"{name}@{url.rpartition('/')[2]}", access), shared)
    offline = HubAccess(cache_dir=access.cache_dir, local_files_only=True)
    before = len(hub.requests)
    assert equal(dqar.from_pretrained(name, offline), shared)
    assert len(hub.requests) == before
    unreachable = HubAccess(endpoint="http://127.0.0.1:9", cache_dir=access.cache_dir)
    assert equal(dqar.from_pretrained(name, unreachable), shared)


def test_pushing_again_makes_a_commit(hub, access):
    first = dqar.push_to_hub(plan_of(), "me/again", access=access)
    other = StaticPlan.of_mask(torch.zeros(3, 2, dtype=torch.bool), sites=("block",))
    dqar.push_to_hub(other, "me/again", access=access)
    assert dqar.from_pretrained("me/again", access) == other
    assert dqar.from_pretrained(f"me/again@{first.rpartition('/')[2]}", access) == plan_of()


def test_plans_and_policies_are_read_by_uri(hub, access, monkeypatch):
    dqar.push_to_hub(policy_of(), "me/by-uri", access=access)
    monkeypatch.setattr("dqar.registry.fetch", lambda place: fetch(place, access))
    assert dqar.load_policy("hf://me/by-uri").spec == policy_of().spec
    assert dqar.load_plan("hf://me/by-uri").steps == 6
    with local_folder("hf://me/by-uri") as folder:
        assert (folder / "README.md").is_file()


def test_only_known_files_are_fetched(hub, access):
    with_more = {"reuse_plan.json": b"{}", "evil.pkl": b"pickle", "pytorch_model.bin": b"pickle"}
    hub.commit("me/more", with_more)
    folder = fetch("me/more", access)
    assert [path.name for path in folder.iterdir()] == ["reuse_plan.json"]


HOSTILE = {
    "no plan": ({"model.bin": b""}, {}, "without reuse_plan.json and without policy.json"),
    "too large": (
        {"reuse_plan.json": b"{}"},
        {"reuse_plan.json": MAX_BYTES + 1},
        "more than 67108864",
    ),
    "no JSON": ({"reuse_plan.json": b"\x80\x04"}, {}, r"reuse_plan\.json must be a plan's JSON"),
    "no plan in it": (
        {"reuse_plan.json": b'{"schema_version": 1}'},
        {},
        "does not describe a plan",
    ),
}


@pytest.mark.parametrize(("files", "sizes", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_plan_is_refused_in_one_line(hub, access, files, sizes, message, monkeypatch):
    name = f"me/hostile-{len(hub.commits)}"
    hub.commit(name, files)
    monkeypatch.setattr(hub, "sizes", sizes)
    with pytest.raises(ValueError, match=message) as refusal:
        dqar.from_pretrained(name, access)
    assert "\n" not in str(refusal.value)
    assert not any("resolve" in one and name in one for one in hub.requests) or not sizes


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nobody/nothing", r"nobody/nothing must be a repository .* Check the name, the revision"),
        ("hf://me/more@v9", r"hf://me/more@v9 must be a repository"),
        ("no-owner", r"must be hf://OWNER/NAME or hf://OWNER/NAME@REVISION\. Got 'no-owner'"),
        ("hf://a/b/c", "must be hf://OWNER/NAME"),
        ("../up/there", "must be hf://OWNER/NAME"),
    ],
)
def test_places_that_are_none_are_refused_in_one_line(access, place, message):
    with pytest.raises(ValueError, match=message) as refusal:
        dqar.from_pretrained(place, access)
    assert "\n" not in str(refusal.value)


def test_a_refused_token_is_not_shown(access):
    wrong = replace(access, token="hf_wrong")
    with pytest.raises(
        ValueError, match=r"me/plan must be a repository that takes your files"
    ) as e:
        dqar.push_to_hub(plan_of(), "me/plan", access=wrong)
    assert "hf_wrong" not in str(e.value)
    assert "\n" not in str(e.value)


@both
def test_the_card_says_what_it_is_and_how_to_load_it(make, tmp_path):
    dqar.save_pretrained(make(), tmp_path, FACTS, repository="me/plan")
    _, header, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "dqar",
        "license": "mit",
        "base_model": "facebook/DiT-XL-2-256",
        "tags": ["dqar", "diffusion", "cache", make.__name__.removesuffix("_of")],
    }
    for shown in (
        "| sites | attn",
        "| steps | 6",
        "| guidance scale | 4 |",
        "sampler",
        "64 samples",
    ):
        assert shown in text
    assert "0.0031 relative L2" in text


@both
def test_the_example_of_the_card_runs(make, tmp_path, pipe, images_of):
    shared, layers = make(), pipe.transformer.config.num_layers
    if isinstance(shared, StaticPlan):
        mask = shared.mask[:, :1].repeat(1, 2 * layers)
        shared = StaticPlan.of_mask(mask, sites=shared.sites)
    else:
        shared = shared.with_spec(num_layers=layers)
    dqar.save_pretrained(shared, tmp_path, FACTS)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    names = {"pipe": pipe}
    exec(code, names)
    images_of(pipe)
    assert names["cache"].summary().reuse_ratio > 0


def test_facts_of_more_than_a_line_are_refused():
    for value in ("two\nlines", "x" * 301):
        with pytest.raises(ValueError, match="base_model must be one line"):
            CardFacts(base_model=value)
    with pytest.raises(ValueError, match="measured_error"):
        CardFacts(measured_error=float("nan"))


def test_facts_cannot_write_metadata(tmp_path):
    facts = CardFacts(base_model='x", y: [1] # |', license="a: b")
    dqar.save_pretrained(plan_of(), tmp_path, facts)
    header = (tmp_path / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(header)["base_model"] == facts.base_model
    assert json.dumps(yaml.safe_load(header)["license"]) == '"a: b"'
