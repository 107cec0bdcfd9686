"""`verify` on every architecture: what holds, what the paper's own forms do, and bad requests."""

from collections import Counter

import pytest
import torch
from tests.conftest import ARCHITECTURES

from valuegrad.errors import UserError
from valuegrad.theory.verify import PARTS, verify

SHOWN_FAILING = {"Eq. 15", "Correction C", "Eq. 27", "Eq. 11", "Thm. 1"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_corrected_statement_holds(policy, architecture):
    names = []
    found = verify(policy(architecture), seed=1, progress=names.append)
    assert names == list(PARTS)
    assert [s.name for s in found if s.form == "corrected" and not s.holds] == []
    assert {s.source for s in found if s.form == "paper" and not s.holds} == SHOWN_FAILING
    assert Counter(s.kind for s in found) == {"check": 63, "bound": 15, "paper": 5}


@pytest.mark.parametrize("seed", range(2, 6))
def test_no_draw_of_completion_and_directions_breaks_a_row(policy, seed):
    found = verify(policy("olmo2"), seed=seed)
    assert [s.name for s in found if s.form == "corrected" and not s.holds] == []


def test_the_same_seed_gives_the_same_numbers(policy):
    one, other = (verify(policy("gpt2"), seed=5) for _ in range(2))
    assert one == other
    assert verify(policy("gpt2"), seed=6) != one


def test_bad_prompts(policy):
    with pytest.raises(UserError, match="prompt: got '' of 0 tokens; wanted 2 to 43"):
        verify(policy("olmo2"), prompt="")


def test_lower_precision_is_refused(checkpoint):
    from valuegrad.model.loading import load_policy

    with pytest.raises(UserError, match="dtype: got float32; wanted float64"):
        verify(load_policy(str(checkpoint("olmo2"))))
    assert torch.get_default_dtype() == torch.float32
