"""Triton kernels are used only where a check found them equal to the reference."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from dqar.cache import kernels, triton_kernels
from dqar.cache.quantization import CacheFormat

CPU = torch.device("cpu")
FORMS = [CacheFormat(dtype="int8"), CacheFormat(dtype="int4")]
every_form = pytest.mark.parametrize("form", FORMS, ids=["int8", "int4"])


@every_form
@pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("triton") is None, reason="no GPU with Triton"
)
def test_kernels_agree_with_the_reference(form):
    device = torch.device("cuda", torch.cuda.current_device())
    assert triton_kernels.agrees(form, device)
    assert triton_kernels.is_proven(device)


def test_a_cpu_has_none():
    assert not triton_kernels.is_proven(CPU)


def test_what_does_not_compile_is_left_out(monkeypatch):
    monkeypatch.setattr(triton_kernels, "find_spec", lambda name: name)
    with pytest.warns(UserWarning, match="torch's stand in"):
        assert not triton_kernels.is_proven(torch.device("cuda", 99))


@pytest.fixture
def torch_in_place(monkeypatch):
    """Replace the Triton kernels by the torch kernels, so that the check runs without a GPU."""
    monkeypatch.setattr(triton_kernels, "overwrite_codes", kernels._overwrite_codes)
    monkeypatch.setattr(triton_kernels, "fetch_codes", kernels.fetch)


@every_form
def test_the_proof_passes_what_agrees(torch_in_place, form):
    assert triton_kernels.agrees(form, CPU)


@every_form
def test_the_proof_refuses_another_code(torch_in_place, monkeypatch, form):
    def off_by_one(stored, scale, value, bits):
        kernels._overwrite_codes(stored, scale, value, bits)
        stored[5, 0, 0] ^= 1

    monkeypatch.setattr(triton_kernels, "overwrite_codes", off_by_one)
    assert not triton_kernels.agrees(form, CPU)


@every_form
def test_the_proof_refuses_another_scale(torch_in_place, monkeypatch, form):
    def another_scale(stored, scale, value, bits):
        kernels._overwrite_codes(stored, scale, value, bits)
        scale[5] = torch.nextafter(scale[5], 2 * scale[5])

    monkeypatch.setattr(triton_kernels, "overwrite_codes", another_scale)
    assert not triton_kernels.agrees(form, CPU)


@every_form
def test_the_proof_refuses_another_reading(torch_in_place, monkeypatch, form):
    monkeypatch.setattr(
        triton_kernels, "fetch_codes", lambda stored: kernels.fetch(stored) * (1 + 1e-6)
    )
    assert not triton_kernels.agrees(form, CPU)
