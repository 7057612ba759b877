"""Integration with diffusers: patched models and pipelines, samplers, compiled plans.

Models are recognised by their attributes; diffusers itself is imported only inside functions.
"""

from dqar.integration.compiled.compilation import Compilation
from dqar.integration.compiled.planned_transformer import PlannedDiT
from dqar.integration.dit_pipeline import patch_dit_pipeline, unpatch_dit_pipeline
from dqar.integration.dit_wrapper import DQARDiTWrapper
from dqar.integration.pipeline_patch import patch_pipeline, unpatch_pipeline
from dqar.integration.salience_calibration import calibrate_balance
from dqar.integration.samplers import (
    DQARDDIMSampler,
    DQARDPMSolverSampler,
    DQARSampler,
    SamplerConfig,
)
from dqar.integration.wrapper import DQARWrapper

__all__ = [
    "Compilation",
    "DQARDDIMSampler",
    "DQARDPMSolverSampler",
    "DQARDiTWrapper",
    "DQARSampler",
    "DQARWrapper",
    "PlannedDiT",
    "SamplerConfig",
    "calibrate_balance",
    "patch_dit_pipeline",
    "patch_pipeline",
    "unpatch_dit_pipeline",
    "unpatch_pipeline",
]
