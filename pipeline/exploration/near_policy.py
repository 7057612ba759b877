"""Trained policy whose schedules a further collection explores around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy
from dqar.policy.spec import CACHE_BITS, PolicySpec
from dqar.step_schedule import StepSchedule
from pipeline.errors import InputError, input_errors
from pipeline.exploration.designs import parse_designs
from pipeline.exploration.gap_distributions import SHARES
from pipeline.models.identity import describe_change
from pipeline.storage.fingerprint import fingerprint
from pipeline.storage.output_folder import POLICY_FILES, fetched

FITTED = ("model_hash", "steps", "sampler", "sites", "guidance_scale")
"""Fields of a plan that must be equal to the policy's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferencePolicy:
    """Settings and schedules that a plan takes from a policy, without the policy's weights."""

    uri: str
    """Folder or URI that the policy was read from."""
    spec: PolicySpec
    """Specification of the policy, with the settings it was trained for."""
    digest: str
    """Digest of the policy's weights, plans and training traces, 24 hex digits. The MLflow run ids
    are left out, because repeating the training changes them."""
    schedules: tuple[StepSchedule, ...]
    """Plans of the policy that compute a share of the steps within
    :data:`pipeline.exploration.gap_distributions.SHARES`."""

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of a plan with the values that the policy gives them."""
        spec = self.spec
        return {
            "steps": spec.steps,
            "sampler": spec.sampler,
            "sites": spec.sites,
            "guidance_scale": spec.guidance,
            "forecast_orders": (spec.forecast_order,),
            "feedbacks": (spec.feedback,),
            "cache_bits": CACHE_BITS[spec.cache_mode],
            "branch_mode": spec.branch_mode,
            "bases": tuple(schedule.computed for schedule in self.schedules),
            "policy_digest": self.digest,
        }

    def refuse_misfit(self, fields: dict[str, Any], num_layers: int) -> None:
        """Refuse a plan whose settings differ from those that the policy's schedules were planned
        for.

        Args:
            fields: fields of the plan, by name.
            num_layers: transformer blocks of the model.

        Raises:
            InputError: naming the fields that differ.
        """
        trained_for = self.fields | {"model_hash": self.spec.model_hash}
        misfits = [name for name in FITTED if not _is_same(fields[name], trained_for[name])]
        if misfits:
            differing = [describe_change(name, trained_for[name], fields[name]) for name in misfits]
            raise InputError(
                "--explore-around must be trained for what is collected, with the same settings. "
                f"Got {self.uri}, trained for {', '.join(differing)}. Leave the flags of these "
                "settings out, or train a policy on traces of them first."
            )
        if self.spec.num_layers != num_layers:
            raise InputError(
                f"--explore-around must know the model's {num_layers} layers. Got "
                f"{self.spec.num_layers} in {self.uri}. Collect traces and train on this model."
            )


def _is_same(one: Any, other: Any) -> bool:
    return sorted(one) == sorted(other) if isinstance(one, tuple) else one == other


def find_reference_policy(
    uri: str | None, designs: str, tracking_uri: str | None = None
) -> ReferencePolicy | None:
    """Read the policy that the designs explore around; None if no design explores around one.

    Args:
        uri: folder or URI of the policy; None for no policy.
        designs: text that :func:`pipeline.exploration.designs.parse_designs` reads.
        tracking_uri: MLflow store of a registered policy.

    Raises:
        InputError: if a policy is given without the design ``near-policy`` or the reverse, or if
            none of the policy's plans computes a share of the steps within ``SHARES``.
    """
    with input_errors():
        is_near = "near-policy" in parse_designs(designs)
    if is_near and uri is None:
        raise InputError(
            "--exploration near-policy must come with --explore-around. Got no policy. Pass "
            "--explore-around with the folder of a policy that jobs/train.py wrote."
        )
    if uri is not None and not is_near:
        raise InputError(
            "--explore-around must come with near-policy among the designs of --exploration. Got "
            f"--exploration {designs}. Pass --exploration near-policy, or leave --explore-around "
            "out."
        )
    return None if uri is None else _reference_policy_of(uri, tracking_uri)


def _reference_policy_of(uri: str, tracking_uri: str | None) -> ReferencePolicy:
    with fetched(uri, POLICY_FILES, tracking_uri) as folder, input_errors():
        policy = load_policy(folder)
    spec, (low, high) = policy.spec, SHARES
    schedules = tuple(one for one in spec.schedules if low <= len(one) / spec.steps <= high)
    if not schedules:
        raise InputError(
            "--explore-around must have plans that compute a share of the steps from "
            f"{low} to {high}. Got {len(spec.plans)} plans in {uri}, none of them in that range. "
            "Train a policy with --features schedule."
        )
    return ReferencePolicy(uri=uri, spec=spec, digest=_digest_of(policy), schedules=schedules)


def _digest_of(policy: ReusePolicy) -> str:
    spec = policy.spec
    planned = (spec.plans, spec.forecast_order, spec.feedback)
    return fingerprint(dict(policy.state_dict()), *planned, spec.trace_digest)
