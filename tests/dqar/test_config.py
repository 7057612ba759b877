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


@pytest.mark.parametrize(
    ("bits", "cache_dtype"), [(2, "int2"), (4, "int4"), (8, "int8"), (16, "fp16"), (32, "fp32")]
)
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
        ({"quantization_bits": 3}, "quantization_bits must be one of"),
        ({"quantization_mode": "per_token"}, "quantization_mode must be one of"),
        ({"cached": "map"}, "cached must be one of"),
        ({"sites": ("attn", "attn")}, "each once"),
        ({"quantization_bits": 8.0}, "quantization_bits must be one of"),
        ({"cooldown_fraction": 5.0}, "cooldown_fraction must be in"),
        ({"max_gap": -1}, "max_gap must be in"),
        ({"max_reuse_per_block": -1}, "max_reuse_per_block must be in"),
        ({"min_probability": 7.0}, "min_probability must be in"),
        ({"entropy_rows": 0}, "entropy_rows must be in"),
        ({"entropy_threshold": float("nan")}, "entropy_threshold must be in"),
        ({"snr_low": float("nan")}, "snr_low must be in"),
        ({"cross_branch_threshold": -1.0}, "cross_branch_threshold must be in"),
        ({"cached": "kv", "sites": ("ff",)}, "cached='kv' must come with the site attn"),
        ({"cached": "kv", "sites": ("block",)}, "cached='kv' must come with the site attn"),
        ({"sites": ("attn", "block")}, "block must be the only site"),
        ({"schedule_type": "cosine"}, "schedule_type must be one of"),
        (
            {"cross_branch_threshold": 0.1, "branch_mode": "independent"},
            "cross_branch_threshold must come with tied branches",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    # __wrapped__ bypasses the tests' run-time type checker, which callers do not have.
    unchecked = getattr(DQARConfig.__init__, "__wrapped__", DQARConfig.__init__)
    with pytest.raises(ValueError, match=message):
        unchecked(object.__new__(DQARConfig), **changes)


def test_keys_may_stay_in_fp16():
    formats = DQARConfig(quantize_keys=False).cache_formats(num_heads=None)
    assert (formats["keys"].dtype, formats["values"].dtype) == ("fp16", "int8")


def test_scales_per_head_need_the_number_of_heads():
    config = DQARConfig(quantization_mode="per_head")
    assert config.cache_formats(num_heads=4)["values"].num_heads == 4
    with pytest.raises(ValueError, match="num_heads must be known"):
        config.cache_formats(num_heads=None)
