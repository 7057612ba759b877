"""Cards of plans and policies: the ``README.md`` of their repositories on the Hugging Face Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

from dqar.finite_fields import require_finite
from dqar.policy.network import ReusePolicy
from dqar.schedules.static_plan import StaticPlan

MAX_CHARACTERS = 300
"""Longest text of a field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """Facts for a card that a plan's or a policy's own files do not hold."""

    base_model: str = ""
    """Repository of the model, such as ``facebook/DiT-XL-2-256``."""
    guidance: float | None = None
    """Guidance scale of the runs; a policy knows its own."""
    measured_error: float | None = None
    """Relative L2 distance of the final latent to the one without reuse, mean over samples."""
    measured_on: str = ""
    """Samples of that error, such as ``64 samples, seed 21``."""
    license: str = ""
    """Identifier of a license, such as ``mit``."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and not (
                value.isprintable() and len(value) <= MAX_CHARACTERS
            ):
                raise ValueError(
                    f"{field.name} must be one line of at most {MAX_CHARACTERS} characters. Got "
                    f"{value!r:.60}. Shorten it."
                )
        given = [name for name in ("guidance", "measured_error") if getattr(self, name) is not None]
        require_finite(self, *given)


def card_of(shared: StaticPlan | ReusePolicy, repository: str, facts: CardFacts) -> str:
    """Return the Markdown of a card.

    Args:
        shared: plan or policy that the card describes.
        repository: name on the Hub, or path of a folder; the example loads from it.
        facts: further facts.
    """
    is_plan = isinstance(shared, StaticPlan)
    rows = _rows_of_plan(shared) if is_plan else _rows_of_policy(shared)
    return CARD.format(
        header=_header(is_plan, facts),
        kind="plan" if is_plan else "policy",
        model=facts.base_model or "a diffusion transformer",
        rows="\n".join(
            f"| {name} | {_cell(text)} |" for name, text in (rows | _rows(facts)).items()
        ),
        load=(LOAD_PLAN if is_plan else LOAD_POLICY).format(place=json.dumps(repository)),
    )


def _header(is_plan: bool, facts: CardFacts) -> str:
    """Return the metadata of the Hub; a JSON string is one of YAML."""
    entries = {"license": facts.license, "base_model": facts.base_model}
    lines = [f"{name}: {json.dumps(text)}" for name, text in entries.items() if text]
    tags = ["dqar", "diffusion", "cache", "plan" if is_plan else "policy"]
    return "\n".join(["library_name: dqar", *lines, f"tags: {json.dumps(tags)}"])


def _rows_of_plan(plan: StaticPlan) -> dict[str, str]:
    computing = int((~plan.mask).all(dim=1).sum())
    return {
        "sites": ", ".join(plan.sites),
        "gates a step": str(plan.mask.shape[1]),
        "steps": f"{plan.steps}, of which {computing} compute every gate",
        "gates that reuse": f"{plan.reuse_ratio:.1%} over the run",
        "forecast order": str(plan.forecast_order),
        "error feedback": f"{plan.feedback:g}",
        "sampler": plan.sampler or "any",
    }


def _rows_of_policy(policy: ReusePolicy) -> dict[str, str]:
    spec = policy.spec
    rows = {
        "sites": ", ".join(spec.sites),
        "transformer blocks": str(spec.num_layers or "any"),
        "steps": str(spec.steps or "any"),
        "forecast order": str(spec.forecast_order),
        "error feedback": f"{spec.feedback:g}",
        "sampler": spec.sampler or "any",
        "guidance scale": f"{spec.guidance:g}",
        "identity of the model": spec.model_hash or "none",
    }
    if spec.plans:
        default = spec.schedule_of()
        error = spec.plan_errors[[len(plan) for plan in spec.plans].index(len(default))]
        rows["schedules"] = f"{len(spec.plans[0])} to {len(spec.plans[-1])} computed steps"
        rows["default schedule"] = f"{len(default)} computed steps, predicted error {error:.4f}"
    return rows


def _rows(facts: CardFacts) -> dict[str, str]:
    error = "not stated"
    if facts.measured_error is not None:
        on = f" ({facts.measured_on})" if facts.measured_on else ""
        error = f"{facts.measured_error:.4g} relative L2 of the final latent{on}"
    guidance = {} if facts.guidance is None else {"guidance scale": f"{facts.guidance:g}"}
    return {"model": facts.base_model or "not stated", **guidance, "measured error": error}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


LOAD_PLAN = """\
from dqar import DQARCacheConfig, apply_dqar_cache, load_plan

plan = load_plan({place})
cache = apply_dqar_cache(pipe.transformer, DQARCacheConfig(plan=plan))"""
LOAD_POLICY = """\
from dqar import DQARCacheConfig, apply_dqar_cache, load_policy

policy = load_policy({place})
cache = apply_dqar_cache(pipe.transformer, DQARCacheConfig(policy=policy))"""
CARD = """\
---
{header}
---

# Reuse {kind} for {model}

A diffusion transformer computes nearly the same values at neighbouring denoising steps. This {kind}
says which of them DQAR computes, reuses or forecasts, and when.

| | |
|---|---|
{rows}

## Load

```python
{load}
```

Call the pipeline with the steps and the guidance of the table; `cache.summary().note` says what was
reused. A schedule belongs to one model, sampler, number of steps and guidance: measure again for
others. The files are JSON and safetensors; nothing is unpickled.
"""
