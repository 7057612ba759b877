"""Policies of an evaluation: loaded, and refused where they do not fit the evaluation."""

from __future__ import annotations

import re

from dqar.config import DQARConfig
from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy
from pipeline.errors import InputError, input_errors
from pipeline.evaluate.config import EvaluateConfig
from pipeline.methods.base import policy_method
from pipeline.models.identity import describe_difference
from pipeline.models.model_info import ModelInfo
from pipeline.models.sampling_choices import sampler_change


def load_policies(
    flags: list[str], info: ModelInfo, tracking_uri: str | None = None
) -> dict[str, ReusePolicy]:
    """Load the policies of ``[NAME=]FOLDER`` flags, by the method names of their rows.

    Args:
        flags: values of --policy.
        info: model of the evaluation.
        tracking_uri: MLflow store of registered policies.

    Raises:
        InputError: if a folder holds no policy, or a policy for another model.
    """
    policies: dict[str, ReusePolicy] = {}
    for flag in flags:
        name, equals, folder = flag.rpartition("=")
        if (equals and not name) or not folder.strip():
            raise InputError(
                f"--policy must be FOLDER or NAME=FOLDER. Got {flag!r:.60}. Name both."
            )
        if not re.fullmatch(r"[\w.-]{0,100}", name):
            raise InputError(
                f"--policy NAME must be of at most 100 letters, digits, dots and dashes, as file "
                f"names contain it. Got {name!r:.60}. Pass another name."
            )
        method = policy_method(name)
        if method in policies:
            raise InputError(
                f"--policy must name each policy once. Got {method} twice. Pass NAME=FOLDER."
            )
        with input_errors():
            policies[method] = load_policy(folder, tracking_uri)
        _refuse_misfit(policies[method], folder, info)
    return policies


def _refuse_misfit(policy: ReusePolicy, folder: str, info: ModelInfo) -> None:
    spec = policy.spec
    if spec.model_hash != info.model_hash:
        raise InputError(
            f"--policy must be trained for --model. Got {folder}, trained for a model with "
            f"{describe_difference(spec.model_hash, info.model_hash)} than {info.name}. Collect "
            "traces and train on this model."
        )
    if spec.num_layers != info.num_layers:
        raise InputError(
            f"--policy must know the model's {info.num_layers} layers. Got {spec.num_layers} in "
            f"{folder}. Collect traces and train on this model."
        )


def refuse_misfits(
    config: EvaluateConfig, policies: dict[str, ReusePolicy], *, allow_greedy: bool
) -> None:
    """Refuse policies that do not fit the evaluation.

    Args:
        allow_greedy: True admits policies without plans, which decide step by step.

    Raises:
        InputError: naming the policy and the setting that does not fit.
    """
    refuse_other_runs(config.steps, config.sampler, policies)
    for name, policy in policies.items():
        spec = policy.spec
        with input_errors():
            followed = config.with_reuse_setting(spec.forecast_order, spec.feedback)
        refuse_policies_apart(followed.dqar_config(), {name: policy})
        if not (spec.plans or allow_greedy):
            raise InputError(
                f"--policy {name} must have plans. Got one that decides step by step. Train with "
                "--features schedule, or give greedy_policies: true in the file of --config."
            )


def refuse_policies_apart(config: DQARConfig, policies: dict[str, ReusePolicy]) -> None:
    """Refuse policies that were trained for other sites or for another cache.

    Raises:
        InputError: with the policy and the setting that does not fit.
    """
    for name, policy in policies.items():
        if missing := set(config.sites) - set(policy.spec.sites):
            raise InputError(
                f"--policy {name} must know the sites {config.sites}. Got one trained on "
                f"{policy.spec.sites}, without {sorted(missing)}. Pass --sites "
                f"{','.join(policy.spec.sites)}."
            )
        with input_errors():
            policy.spec.refuse_misfit(
                sites=config.sites,
                branch_mode=config.branch_mode,
                cached=config.cached,
                forecast_order=config.forecast_order,
                feedback=config.feedback,
            )


def refuse_other_runs(steps: int, sampler: str, policies: dict[str, ReusePolicy]) -> None:
    """Refuse policies whose plans are for another number of steps or another sampler.

    Raises:
        InputError: with the policy, and the steps and sampler of its plans.
    """
    for name, policy in policies.items():
        spec = policy.spec
        if spec.plans and (steps, sampler) != (spec.steps, spec.sampler):
            raise InputError(
                f"--policy {name} must hold plans for --steps {steps} --sampler {sampler}. Got "
                f"plans for {spec.steps} steps of {spec.sampler}"
                f"{_change_of(spec.sampler, sampler)}. Leave --steps and --sampler out, or collect "
                "traces and train with the others."
            )


def _change_of(found: str, wanted: str) -> str:
    """Name the settings of one solver that differ, which two long texts hide."""
    if found == wanted or found.partition(":")[0] != wanted.partition(":")[0]:
        return ""
    return f", {sampler_change(found, wanted)}"
