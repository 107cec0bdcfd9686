"""The paper's own forms fail for the reason that is given: where that is taken away they hold."""

import dataclasses

import pytest
import torch

from valuegrad.theory import (
    continuous_lens,
    credit_statements,
    impact_statements,
    theorem_one_statements,
    value_statements,
)
from valuegrad.theory.case import make_case


@pytest.fixture
def case(policy):
    return make_case(policy("olmo2"), "label = 'B'", 0)


def paper(rows):
    (row,) = (row for row in rows if row.form == "paper")
    return row


def test_eq_15_holds_where_no_later_token_earns_anything(case):
    assert not paper(credit_statements.costate_statements(case)).holds
    alone = torch.zeros_like(case.advantages)
    alone[0] = case.advantages[0]
    case = dataclasses.replace(case, advantages=alone)
    assert paper(credit_statements.costate_statements(case)).holds
    alone[1] = 0.01 * case.advantages[0]
    assert not paper(credit_statements.costate_statements(case)).holds


def test_eq_15_misses_what_attention_transports(case, monkeypatch):
    true, seen = credit_statements.one_step_costates, []

    def kept(*given):
        seen.extend(true(*given))
        return seen

    monkeypatch.setattr(credit_statements, "one_step_costates", kept)
    row = paper(credit_statements.costate_statements(case))
    own, total = seen
    largest = max(float(own.norm()), float(total.norm()))
    assert row.error == pytest.approx(float((total - own).norm()) / largest)
    # It is credit: 0 at the last token, after which nothing is earned.
    assert torch.allclose(own[-1], total[-1], rtol=1e-10)


def test_the_plug_in_norm_is_too_large_by_the_variance_of_the_mean(case, monkeypatch):
    """That of a covariance of n samples is a/n + b/(n(n − 1)): n(n − 1) times it is linear in n."""
    excess = []
    for n in (4, 5, 6):
        monkeypatch.setattr(value_statements, "GROUP", n)
        case.generator.manual_seed(0)
        row = paper(value_statements.norm_statements(case))
        excess.append(row.left - row.right)
    assert excess[0] > excess[1] > excess[2] > 0
    a, b, c = (n * (n - 1) * x for n, x in zip((4, 5, 6), excess, strict=True))
    assert a - 2 * b + c == pytest.approx(0, abs=1e-12 * b)


def test_theorem_one_as_stated_holds_where_the_mean_costate_is_the_value_gradient(
    case, monkeypatch
):
    row = paper(theorem_one_statements.theorem_one_statements(case))
    assert row.left > 0 == row.right
    psi, true = 1 + row.error, theorem_one_statements.advantages
    for by, holds in ((1 / psi, True), (1.01 / psi, False)):
        monkeypatch.setattr(
            theorem_one_statements, "advantages", lambda *given, by=by: by * true(*given)
        )
        assert paper(theorem_one_statements.theorem_one_statements(case)).holds == holds


def test_the_score_measures_signal_where_the_slope_is_one(case, monkeypatch):
    """The sign is that of the scale: for rloo the mean costate is G itself, and Λ is 0."""
    assert not paper(impact_statements.impact_statements(case)).holds
    measure = impact_statements.vocabulary.measure

    def rloo(policy, prompts, **named):
        found = measure(policy, prompts, **{**named, "methods": ["rloo"]})
        return {"grpo": found["rloo"]}

    monkeypatch.setattr(impact_statements.vocabulary, "measure", rloo)
    monkeypatch.setattr(impact_statements, "_slopes", lambda *given: None)
    rows = [row for row in impact_statements.impact_statements(case) if row]
    row = paper(rows)
    assert row.holds
    assert row.left == pytest.approx(0, abs=1e-12)


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
def test_eq_11_lacks_the_derivative_of_the_advantage(monkeypatch):
    assert not paper(continuous_lens.control_statements()).holds
    true, step = continuous_lens.sides, 1e-3

    def with_product_rule(noise, mean, signal, slope):
        """The derivative of the whole signal, whatever slope is given."""

        def whole(a):
            moved = [signal(a + k * step) for k in (-2, -1, 1, 2)]
            return (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * step)

        return true(noise, mean, signal, whole)

    monkeypatch.setattr(continuous_lens, "sides", with_product_rule)
    assert paper(continuous_lens.control_statements()).holds
