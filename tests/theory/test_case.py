"""The prompt and completion that statements are evaluated on."""

import pytest
import torch

from valuegrad.errors import UserError
from valuegrad.theory.case import COMPLETION, make_case


def test_a_seed_draws_completion_and_advantages(policy):
    one, same, other = (make_case(policy("gpt2"), "label = 'B'", seed) for seed in (3, 3, 4))
    assert one.sequence == same.sequence
    assert torch.equal(one.advantages, same.advantages)
    assert not torch.equal(one.advantages, other.advantages)
    assert one.sequence[: len(one.prompt)] == one.prompt
    assert len(one.sequence) == len(one.prompt) + COMPLETION
    assert torch.equal(one.batch().advantages[0], one.advantages)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompt: got '' of 0 tokens; wanted 2 to 43, in a context of 48"),
        ("a" * 99, "prompt: got .* of 99 tokens; wanted 2 to 43.*choose another `prompt`"),
    ],
)
def test_bad_prompts(policy, prompt, message):
    with pytest.raises(UserError, match=message):
        make_case(policy("olmo2"), prompt, 0)
