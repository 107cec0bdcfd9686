"""That the statements of costates and value gradients see a number that is wrong."""

import dataclasses

import pytest

from valuegrad.theory import credit_statements
from valuegrad.theory.case import make_case


@pytest.fixture
def case(policy):
    return make_case(policy("olmo2"), "label = 'B'", 0)


def test_a_wrong_costate_is_seen(case, monkeypatch):
    """The oracle does not share the code that it checks."""
    true = credit_statements.costates_at

    def wrong(*given, **named):
        found = true(*given, **named)
        return {
            site: dataclasses.replace(costate, total=1.001 * costate.total)
            for site, costate in found.items()
        }

    monkeypatch.setattr(credit_statements, "costates_at", wrong)
    first, *_ = credit_statements.costate_statements(case)
    assert not first.holds
    *_, handed = credit_statements.recursion_statements(case)
    assert not handed.holds


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("enumerated_value_gradient", "Eq. 12"),
        ("final_value_gradient", "Theory §2"),
        ("squared_norm", "Correction C"),
    ],
)
def test_a_wrong_value_gradient_is_seen(case, monkeypatch, name, source):
    true = getattr(credit_statements, name)
    monkeypatch.setattr(credit_statements, name, lambda *given: 1.5 * true(*given))
    found = list(credit_statements.value_gradient_statements(case))
    assert source in {s.source for s in found if s.form == "corrected" and not s.holds}
