"""The only seam to diffusers. Models are recognised by their parts; diffusers is not imported."""

from dqar.integration.dit_wrapper import (
    DQARDiTWrapper,
    patch_dit_pipeline,
    unpatch_dit_pipeline,
)
from dqar.integration.samplers import DQARDDIMSampler, SamplerConfig

__all__ = [
    "DQARDDIMSampler",
    "DQARDiTWrapper",
    "SamplerConfig",
    "patch_dit_pipeline",
    "unpatch_dit_pipeline",
]
