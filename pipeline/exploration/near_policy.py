"""A trained policy that a further round of collection explores around."""

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
from pipeline.storage.fingerprint import fingerprint
from pipeline.storage.output_folder import POLICY_FILES, fetched

FITTED = ("model_hash", "steps", "sampler", "sites", "guidance_scale")
"""Fields of a plan that must be those of the policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferencePolicy:
    """What a plan takes from a policy; its weights stay behind."""

    uri: str
    """Where it was read from."""
    spec: PolicySpec
    """What it was trained for."""
    digest: str
    """Of its weights, its plans and what they were fitted on: 24 hex digits. Not of its lineage,
    which a repeated training changes."""
    schedules: tuple[StepSchedule, ...]
    """Its plans that compute a share of the steps within
    :data:`pipeline.exploration.gap_distributions.SHARES`."""

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a plan that follow the policy."""
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

    def refuse_misfit(self, fields: dict[str, Any]) -> None:
        """Schedules are explored around where they were planned for.

        Args:
            fields: of a plan.

        Raises:
            InputError: naming what does not fit.
        """
        trained_for = self.fields | {"model_hash": self.spec.model_hash}
        misfits = [name for name in FITTED if not _is_same(fields[name], trained_for[name])]
        if misfits:
            told = [f"{name} {trained_for[name]!r} for {fields[name]!r}" for name in misfits]
            raise InputError(
                f"--explore-around must be trained for what is collected. Got {self.uri}, trained "
                f"for {', '.join(told)}. Leave those flags out, or train on such traces first."
            )


def _is_same(one: Any, other: Any) -> bool:
    return sorted(one) == sorted(other) if isinstance(one, tuple) else one == other


def find_reference_policy(uri: str | None, designs: str) -> ReferencePolicy | None:
    """The policy that designs explore around; None where they explore around none.

    Args:
        uri: a policy folder, or where it lies; None for none.
        designs: as :func:`pipeline.exploration.designs.parse_designs` reads them.

    Raises:
        InputError: if one is named without the other, or the policy has no plans of such shares.
    """
    with input_errors():
        is_near = "near-policy" in parse_designs(designs)
    if is_near and uri is None:
        raise InputError(
            "--exploration near-policy must come with --explore-around. Got none. Pass the "
            "folder of a policy that jobs/train.py wrote."
        )
    if uri is not None and not is_near:
        raise InputError(
            "--explore-around must come with near-policy among the designs of --exploration. Got "
            f"--exploration {designs}. Pass --exploration near-policy, or leave --explore-around "
            "out."
        )
    return None if uri is None else _reference_policy_of(uri)


def _reference_policy_of(uri: str) -> ReferencePolicy:
    with fetched(uri, POLICY_FILES) as folder, input_errors():
        policy = load_policy(folder)
    spec, (low, high) = policy.spec, SHARES
    schedules = tuple(one for one in spec.schedules if low <= len(one) / spec.steps <= high)
    if not schedules:
        raise InputError(
            f"--explore-around must have plans that compute {low} to {high} of the steps. Got "
            f"{len(spec.plans)} plans, none such, in {uri}. Train one with --features schedule."
        )
    return ReferencePolicy(uri=uri, spec=spec, digest=_digest_of(policy), schedules=schedules)


def _digest_of(policy: ReusePolicy) -> str:
    spec = policy.spec
    planned = (spec.plans, spec.forecast_order, spec.feedback)
    return fingerprint(dict(policy.state_dict()), *planned, spec.trace_digest)
