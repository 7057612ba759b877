from __future__ import annotations

import pytest

from dqar.config import DQARConfig


def test_defaults_are_the_readme_seeds():
    config = DQARConfig()
    assert (config.entropy_threshold, config.snr_low, config.snr_high) == (2.0, 0.1, 10.0)
    assert (config.cache_dtype, config.schedule_type) == ("int8", "step")
    assert (config.max_gap, config.warmup_fraction) == (6, 0.2)


def test_slides_are_the_talks():
    config = DQARConfig.slides()
    assert (config.entropy_threshold, config.snr_low, config.snr_high) == (2.5, 0.1, 100.0)


def test_never_is_disabled():
    assert not DQARConfig.never().enabled


@pytest.mark.parametrize(("bits", "cache_dtype"), [(8, "int8"), (16, "fp16"), (32, "fp32")])
def test_bits_name_a_format(bits, cache_dtype):
    assert DQARConfig(quantization_bits=bits).cache_dtype == cache_dtype


def test_schedule_can_be_switched_off():
    assert DQARConfig(use_layer_scheduling=False).layer_schedule().schedule_type == "all"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": ()}, "sites must name at least one"),
        ({"sites": ("attn", "norm")}, "sites must be one of"),
        ({"snr_low": 2.0, "snr_high": 1.0}, "snr_low must not exceed snr_high"),
        ({"warmup_fraction": 1.5}, "warmup_fraction must be in"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DQARConfig(**changes)
