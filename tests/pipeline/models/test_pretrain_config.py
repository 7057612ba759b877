"""Settings of jobs/pretrain.py: refusals of values that the training cannot use."""

import pytest

from pipeline.models.pretrain_config import PretrainConfig


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": 0}, "steps must be from 1 to 1000000"),
        ({"batch_size": 0}, "batch_size must be from 1"),
        ({"head_dim": 0}, "head_dim must be from 1"),
        ({"num_heads": 3, "head_dim": 3}, "must be a multiple of 4"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
        ({"label_dropout": float("nan")}, "label_dropout must be in"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0"),
        ({"learning_rate": 1e308}, "learning_rate must be above 0"),
        ({"head_dim": 2**63}, "head_dim must be from 1 to 1000000"),
        ({"seed": 2**63}, "seed must be from 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be finite"),
        ({"classifier_epochs": -1}, "classifier_epochs must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        PretrainConfig(**fields)
