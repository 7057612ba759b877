"""FLOPs of the transformer, and of the arithmetic that a method adds or saves.

A multiply-add counts as two FLOPs.
"""

from __future__ import annotations

import math

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dqar.gate_table import GateTable
from dqar.gates.base import Gate
from dqar.gates.rules import Learned
from dqar.policy.network import ReusePolicy
from dqar.records import ACTIONS
from pipeline.evaluate.accumulator import MetricAccumulator
from pipeline.evaluate.config import EvaluateConfig
from pipeline.models.loading import LoadedModel
from pipeline.models.model_info import ModelInfo

MEASURING = ("attn", "block", "stack")
"""Sites with an attention whose entropy is measured, that of every block for ``stack``."""


def transformer_flops(model: LoadedModel) -> float:
    """Return the FLOPs of one forward pass of one row, by torch's count of matrix products."""
    device, dtype = model.transformer.device, model.transformer.dtype
    latent = torch.zeros(1, *model.info.latent_shape, device=device, dtype=dtype)
    label = torch.zeros(1, dtype=torch.long, device=device)
    # The counter does not count the fused CPU kernel; the MATH backend is two matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.transformer(latent, timestep=label, class_labels=label)
    return float(counter.get_total_flops())


def policy_flops(policy: ReusePolicy) -> float:
    """Return the FLOPs of the policy's prediction for one reuse decision."""
    weights = sum(value.numel() for value in policy.parameters() if value.ndim == 2)
    return 2.0 * weights


def entropy_flops(num_rows: int, num_tokens: int, width: int) -> float:
    """Return the FLOPs of one sampled entropy, those of the scores of the sampled query rows.

    Args:
        num_rows: query rows that are sampled, of one sample.
        num_tokens: tokens of the attention.
        width: channels over all heads.
    """
    return 2.0 * min(num_rows, num_tokens) * num_tokens * width


def saved_flops(
    config: EvaluateConfig, info: ModelInfo, metrics: MetricAccumulator, branches: int
) -> float:
    """Return the FLOPs of the sites that were not computed.

    A decision that computes one guidance branch for both saves one branch.
    """
    saved = 0.0
    for site in config.sites:
        rows = metrics.reused_by_site[site] * branches + metrics.shared_by_site[site]
        is_kv = site == "attn" and config.cached == "kv"
        saved += rows * (info.kv_flops if is_kv else info.site_flops[site])
    return saved


def gate_flops(
    gate: Gate, config: EvaluateConfig, info: ModelInfo, metrics: MetricAccumulator, branches: int
) -> float:
    """Return the FLOPs of a method's own arithmetic.

    These are the sampled entropies, the policy, the forecasts and the error feedback.
    """
    own = forecast_flops(config, info, metrics, branches)
    own += feedback_flops(config, info, metrics, branches)
    if "entropy" in gate.needs:
        rows = config.dqar_config().entropy_rows
        a_row = entropy_flops(rows, info.num_tokens, info.width)
        own += a_row * sum(
            _computed_rows(site, config, metrics, branches)
            * (info.num_layers if site == "stack" else 1)
            for site in MEASURING
        )
    if isinstance(gate, Learned):
        own += metrics.gates * policy_flops(gate.policy)
    return own


def forecast_flops(
    config: EvaluateConfig, info: ModelInfo, metrics: MetricAccumulator, branches: int
) -> float:
    """Return the FLOPs of forecasts and of the finite differences that they use.

    Each forecast order costs two FLOPs per element: a product and a sum where a reuse shows the
    forecast, a difference and a product where a site computes.
    """
    own = 0.0
    for site in config.sites:
        shown = sum(ACTIONS.index(name) * n for name, n in metrics.actions_by_site[site].items())
        computed = metrics.gates / len(config.sites) - metrics.reused_by_site[site]
        parts = 2 if site == "attn" and config.cached == "kv" else 1
        a_difference = 2.0 * parts * info.num_tokens * info.width * branches
        own += a_difference * (shown + config.forecast_order * computed)
    return own


def feedback_flops(
    config: EvaluateConfig, info: ModelInfo, metrics: MetricAccumulator, branches: int
) -> float:
    """Return the FLOPs of the error feedback: six per element of the model's output and step.

    One is the sum at each step. Five belong to the correction; they are counted at every step,
    though only some steps correct, so that the count is an upper bound.
    """
    if not config.feedback:
        return 0.0
    steps = metrics.gates / GateTable.regular(config.sites, info.num_layers).num_gates
    elements = info.out_channels * math.prod(info.latent_shape[1:])
    return 6.0 * elements * branches * steps


def _computed_rows(
    site: str, config: EvaluateConfig, metrics: MetricAccumulator, branches: int
) -> float:
    if site not in config.sites:
        return 0.0
    computed = metrics.gates / len(config.sites) - metrics.reused_by_site[site]
    return computed * branches - metrics.shared_by_site[site]
