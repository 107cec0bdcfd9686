"""`verify` on every architecture, and that a statement which is wrong is seen to fail."""

import dataclasses

import pytest
import torch
from tests.conftest import ARCHITECTURES

from valuegrad.errors import UserError
from valuegrad.theory import credit_statements, gap_statements
from valuegrad.theory.case import make_case
from valuegrad.theory.verify import PARTS, verify

SHOWN_FAILING = {"Eq. 15", "Correction C", "Eq. 26", "Eq. 11"}


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


def test_a_wrong_costate_is_seen(policy, monkeypatch):
    """The oracle does not share the code that it checks."""
    true = credit_statements.costates_at

    def wrong(*given, **named):
        found = true(*given, **named)
        return {
            site: dataclasses.replace(costate, total=1.001 * costate.total)
            for site, costate in found.items()
        }

    monkeypatch.setattr(credit_statements, "costates_at", wrong)
    case = make_case(policy("olmo2"), "label = 'B'", 0)
    first, *_ = credit_statements.costate_statements(case)
    assert not first.holds
    *_, handed = credit_statements.recursion_statements(case)
    assert not handed.holds


def test_a_wrong_gap_is_seen(policy, monkeypatch):
    true = gap_statements.sampling_gaps

    def wrong(*given, **named):
        return [
            dataclasses.replace(gap, gap=1.001 * gap.bound_spectral)
            for gap in true(*given, **named)
        ]

    monkeypatch.setattr(gap_statements, "sampling_gaps", wrong)
    case = make_case(policy("olmo2"), "label = 'B'", 0)
    first, *_ = gap_statements.sampling_gap_statements(case)
    assert not first.holds


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("", "prompt: got 0 tokens; wanted 2 to 43"), ("a" * 99, "prompt: got .* tokens; wanted 2")],
)
def test_bad_prompts(policy, prompt, message):
    with pytest.raises(UserError, match=message):
        verify(policy("olmo2"), prompt=prompt)


def test_lower_precision_is_refused(checkpoint):
    from valuegrad.model.policy import load_policy

    with pytest.raises(UserError, match="dtype: got float32; wanted float64"):
        verify(load_policy(str(checkpoint("olmo2"))))
    assert torch.get_default_dtype() == torch.float32
