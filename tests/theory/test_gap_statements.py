"""That the statements of gap, attention, Theorem 1 and impact see a number that is wrong."""

import dataclasses

import pytest

from valuegrad.theory import gap_statements
from valuegrad.theory.case import make_case


@pytest.fixture
def case(policy):
    return make_case(policy("olmo2"), "label = 'B'", 0)


def test_a_wrong_gap_is_seen(case, monkeypatch):
    true = gap_statements.sampling_gaps

    def wrong(*given, **named):
        return [
            dataclasses.replace(gap, gap=1.001 * gap.bound_spectral)
            for gap in true(*given, **named)
        ]

    monkeypatch.setattr(gap_statements, "sampling_gaps", wrong)
    first, *_ = gap_statements.sampling_gap_statements(case)
    assert not first.holds


def test_a_wrong_side_of_theorem_one_is_seen(case, monkeypatch):
    true = gap_statements.theorem_one

    def wrong(*given):
        found = true(*given)
        return dataclasses.replace(found, left=1.001 * found.right)

    monkeypatch.setattr(gap_statements, "theorem_one", wrong)
    (found,) = gap_statements.theorem_one_statements(case)
    assert not found.holds


def test_a_rank_above_its_bound_is_seen(case, monkeypatch):
    true = gap_statements.attention_paths

    def wrong(*given):
        return [dataclasses.replace(p, effective_rank=p.rank_bound + 1.0) for p in true(*given)]

    monkeypatch.setattr(gap_statements, "attention_paths", wrong)
    (found,) = gap_statements.attention_statements(case)
    assert not found.holds
