"""`verify` on every architecture: what holds, what the paper's own forms do, and bad requests."""

import pytest
import torch
from tests.conftest import ARCHITECTURES

from valuegrad.errors import UserError
from valuegrad.theory.verify import PARTS, verify

SHOWN_FAILING = {"Eq. 15", "Correction C", "Eq. 26", "Eq. 11", "Thm. 1"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_corrected_statement_holds(policy, architecture):
    names = []
    found = verify(policy(architecture), seed=1, progress=names.append)
    assert names == list(PARTS)
    assert [s.name for s in found if s.form == "corrected" and not s.holds] == []
    assert {s.source for s in found if s.form == "paper" and not s.holds} == SHOWN_FAILING
    assert {s.source for s in found} >= {
        *("Eq. 14", "Correction A", "Eq. 15, corrected", "Eq. 12", "Correction C", "Eq. 20"),
        *("Prop. 1", "Prop. 2", "Prop. 3", "Thm. 1", "Correction E", "Eq. 24", "Lemma 1"),
        *("Eq. 7", "Eq. 9", "Correction D", "Corollary 1"),
    }


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
