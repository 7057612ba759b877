"""Settings of jobs/pretrain.py: refusals of values that the training cannot use."""

import pytest

from pipeline.models.pretrain_config import PretrainConfig


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": 0}, "--steps must be from 1 to 10000000"),
        ({"batch_size": 0}, "--batch-size must be from 1"),
        ({"head_dim": 0}, "--head-dim must be from 1"),
        ({"num_heads": 3, "head_dim": 3}, "must be a multiple of 4"),
        ({"ema_decay": 1.0}, "--ema-decay must be from 0 to"),
        ({"label_dropout": float("nan")}, "--label-dropout must be from 0 to"),
        ({"learning_rate": float("inf")}, "--learning-rate must be above 0"),
        ({"learning_rate": 1e308}, "--learning-rate must be above 0"),
        ({"head_dim": 2**63}, "--head-dim must be from 1 to 1000"),
        ({"seed": 2**63}, "--seed must be from 0"),
        ({"guidance_scale": float("nan")}, "--guidance-scale must be from"),
        ({"classifier_epochs": -1}, "--classifier-epochs must be from 0"),
    ],
)
def test_settings_out_of_range_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        PretrainConfig(**fields)
