"""The number of branches of a batch, and the tokens of its prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dqar.integration.guidance.model_call import ModelCall
from dqar.integration.guidance.prompt_length import prompt_lengths
from dqar.integration.guidance.stacking import count_branches


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("branches", [1, 2, 3])
@pytest.mark.parametrize("as_list", [False, True])
def test_rows_that_repeat_are_branches(samples, branches, as_list):
    latent = torch.randn(samples, 4, 8).repeat(branches, 1, 1)
    assert count_branches([*latent] if as_list else latent) == branches


def test_latents_of_other_sizes_are_no_branches():
    first, second = torch.randn(4, 8), torch.randn(4, 6)
    assert count_branches([first, second]) == 1
    assert count_branches([first, second, first.clone(), second.clone()]) == 2


@pytest.mark.parametrize(("expected", "branches"), [(None, 4), (1, 4), (2, 2), (4, 1), (3, 4)])
def test_samples_of_equal_noise_are_told_from_branches_by_their_number(expected, branches):
    assert count_branches(torch.ones(4, 3), expected) == branches


def lengths_of(call: ModelCall, *branches: str) -> Any:
    found = prompt_lengths(call, 2, branches)
    return found if isinstance(found, int) else found.tolist()


def call_of(rows: int = 4, **arguments) -> ModelCall:
    return ModelCall(latent=torch.zeros(rows, 2), timestep=1.0, arguments=arguments)


MASK = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    ("branches", "lengths"),
    [(("uncond", "cond"), [3, 2]), (("cond", "uncond"), [1, 2]), ((), [3, 2])],
)
def test_the_conditional_branch_has_the_prompt(branches, lengths):
    call = call_of(encoder_attention_mask=MASK, encoder_hidden_states=torch.zeros(4, 3, 8))
    assert lengths_of(call, *branches) == lengths


def test_embeddings_without_a_mask_count_their_padding():
    assert lengths_of(call_of(encoder_hidden_states=torch.zeros(4, 7, 8))) == [7, 7]
    caps = [torch.zeros(n, 8) for n in (3, 5, 4, 2)]
    assert lengths_of(call_of(cap_feats=caps), "cond", "uncond") == [3, 5]


@pytest.mark.parametrize("arguments", [{}, {"class_labels": torch.zeros(4)}])
def test_a_class_label_is_sixteen_tokens(arguments):
    assert lengths_of(call_of(**arguments)) == 16
