"""Flags of jobs/sample.py. Imports neither torch nor dqar."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.flags.bounds import (
    GUIDANCE,
    INT64,
    SEEDS,
    Range,
    flag_of,
    require_distinct,
    require_some,
    require_within,
)
from pipeline.models.sampling_choices import Dtype, Sampler, require_sampler
from pipeline.tracking_flags import TrackingFlags

RANGES = {
    "class_labels": Range(least=0, most=INT64, usual="1,2,3"),
    "num_samples": Range(least=1, most=2**16, usual=4),
    "steps": Range(least=1, most=100_000, usual=50),
    "guidance_scale": GUIDANCE,
    "seed": SEEDS,
}
"""Values that the flags may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleFlags:
    """Sample images with DQAR, and reference samples with the same noise and labels without reuse.

    By default the DQAR paper's cascade of conditions (entropy, SNR, layer schedule, limits on age
    and number of reuses) decides about reuse, with the values of configs/default.yaml. --config
    gives the cascade other values. --policy lets a trained policy decide alone. --config with
    --policy adds the policy to the cascade as its last condition. --plan follows a stored plan.

    In the DQAR paper's scripts/run_inference.py, --steps is --num-steps and --out is --output-dir.
    Reuse is on here unless --no-reuse is given, and on there if --enable-dqar is given.
    """

    model: str
    """Model to sample: digits (shipped), a diffusers folder, or a Hub id."""
    out: str
    """Folder for images/, samples.png and sample.json."""
    class_labels: tuple[int, ...] | None = None
    """Class of each image, such as 1,2,3; default: random classes."""
    num_samples: int | None = None
    """Number of images, all in one batch; default: one for each of --class-labels, else 4."""
    steps: int | None = None
    """Sampling steps; default: the steps of --policy or --plan, else 50."""
    guidance_scale: float | None = None
    """Scale of classifier-free guidance, 1 or less for none; default: the policy's scale, else the
    scale that the model recommends."""
    sampler: Sampler | None = None
    """Sampler: ddim, dpm (DPM-Solver++), unipc, deis, or saved (the scheduler of the model's
    folder), with settings such as dpm:solver_order=3,use_karras_sigmas=true; default: the
    sampler of --policy or --plan, else ddim."""
    config: str | None = None
    """YAML file with thresholds, cache and layer schedule of the cascade; default: the values of
    configs/default.yaml."""
    policy: str | None = None
    """Folder of a trained policy that decides about reuse; default: no policy."""
    plan: str | None = None
    """JSON file of a plan that fixes every reuse decision, such as one that jobs/evaluate.py
    writes; default: no plan."""
    no_reuse: bool = False
    """Sample without any reuse: the images of the unchanged model."""
    no_reference: bool = False
    """Draw no reference samples (same noise and labels without reuse) and report no error against
    them."""
    sites: tuple[str, ...] | None = None
    """Parts of the model whose values are reused: attn, or attn,ff, or block for whole blocks, or
    stack for all blocks at once; default: those of --config, --policy or --plan, or attn."""
    seed: int = 0
    """Random seed of the noise and of the random classes."""
    dtype: Dtype = "fp32"
    """Data type that the model computes in."""
    tracking: TrackingFlags = field(default_factory=TrackingFlags)

    def __post_init__(self) -> None:
        require_within(self, RANGES)
        require_some(self, "sites", "class_labels")
        require_distinct(self, "sites")
        require_sampler(self.sampler)
        self._refuse_together("class_labels", "num_samples")
        self._refuse_together("plan", "policy", "config", "sites")
        self._refuse_together("no_reuse", "policy", "plan", "no_reference")

    def _refuse_together(self, name: str, *others: str) -> None:
        """Refuse flags that one given flag would leave without effect."""
        unset = (None, False)
        found = [flag_of(other) for other in others if getattr(self, other) not in unset]
        if getattr(self, name) not in unset and found:
            raise ValueError(
                f"{flag_of(name)} must come without {_list_of([*map(flag_of, others)])}. Got "
                f"{_list_of(found)}. Leave out the one or the other."
            )


def _list_of(names: list[str]) -> str:
    """``--a, --b and --c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
