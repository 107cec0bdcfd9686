"""The statements of the continuous lens, and that a wrong one is seen."""

import pytest

from valuegrad.theory import continuous_lens
from valuegrad.theory.continuous_lens import control_statements


@pytest.mark.parametrize("seed", range(4))
def test_every_corrected_statement_holds_and_the_papers_fails(seed):
    found = control_statements(seed)
    assert [s.name for s in found if not s.holds] == [s.name for s in found if s.form == "paper"]
    assert {s.source for s in found} >= {
        "Prop. 1",
        "Eq. 7",
        "Eq. 9",
        "Lemma 1",
        "Correction D",
        "Eq. 11",
        "Corollary 1",
    }


def test_a_wrong_costate_is_seen(monkeypatch):
    true = continuous_lens.control_costates
    monkeypatch.setattr(continuous_lens, "control_costates", lambda *given: 1.001 * true(*given))
    wrong = {s.source for s in control_statements() if s.form == "corrected" and not s.holds}
    assert wrong == {"Prop. 1", "Eq. 9"}


def test_a_wrong_side_of_the_lemma_is_seen(monkeypatch):
    true = continuous_lens.sides

    def shifted(*given):
        by_score, pathwise = true(*given)
        return by_score, pathwise + 1e-6

    monkeypatch.setattr(continuous_lens, "sides", shifted)
    wrong = {s.source for s in control_statements() if s.form == "corrected" and not s.holds}
    assert wrong == {"Lemma 1", "Correction D"}
