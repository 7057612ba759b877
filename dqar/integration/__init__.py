"""The only seam to diffusers. Models are recognised by their parts; diffusers is not imported."""

from dqar.integration.calibration import calibrate_balance
from dqar.integration.dit_wrapper import (
    DQARDiTWrapper,
    patch_dit_pipeline,
    unpatch_dit_pipeline,
)
from dqar.integration.samplers import (
    DQARDDIMSampler,
    DQARDPMSolverSampler,
    DQARSampler,
    SamplerConfig,
)

__all__ = [
    "DQARDDIMSampler",
    "DQARDPMSolverSampler",
    "DQARDiTWrapper",
    "DQARSampler",
    "SamplerConfig",
    "calibrate_balance",
    "patch_dit_pipeline",
    "unpatch_dit_pipeline",
]
