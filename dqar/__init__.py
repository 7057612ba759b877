"""DQAR: dynamic and quantisation-aware attention reuse for diffusion transformers."""

from dqar.config import DQARConfig
from dqar.config_file import load_config, save_config
from dqar.control.controller import DQARController
from dqar.hub_files import HubAccess
from dqar.integration.diffusers_cache.apply import apply_dqar_cache, remove_dqar_cache
from dqar.integration.diffusers_cache.config import DQARCacheConfig
from dqar.integration.dit_pipeline import patch_dit_pipeline, unpatch_dit_pipeline
from dqar.integration.dit_wrapper import DQARDiTWrapper
from dqar.integration.pipeline_patch import patch_pipeline, unpatch_pipeline
from dqar.policy.network import ReusePolicy
from dqar.policy.serialization import load_policy, save_policy
from dqar.policy.spec import PolicySpec
from dqar.schedules.export import export_plan
from dqar.schedules.serialization import load_plan, save_plan
from dqar.schedules.static_plan import StaticPlan
from dqar.sharing.model_card import CardFacts
from dqar.sharing.pretrained import from_pretrained, push_to_hub, save_pretrained

__all__ = [
    "CardFacts",
    "DQARCacheConfig",
    "DQARConfig",
    "DQARController",
    "DQARDiTWrapper",
    "HubAccess",
    "PolicySpec",
    "ReusePolicy",
    "StaticPlan",
    "apply_dqar_cache",
    "export_plan",
    "from_pretrained",
    "load_config",
    "load_plan",
    "load_policy",
    "patch_dit_pipeline",
    "patch_pipeline",
    "push_to_hub",
    "remove_dqar_cache",
    "save_config",
    "save_plan",
    "save_policy",
    "save_pretrained",
    "unpatch_dit_pipeline",
    "unpatch_pipeline",
]
