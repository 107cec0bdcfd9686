"""That the statements of gap, attention, Theorem 1 and impact see a number that is wrong."""

import dataclasses

import pytest

from valuegrad.credit import theorem_one
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


STATED, RECURSION = "mean GRPO costate of groups of 8", "δ_t = A_tᵀ δ_{t+1}"
SHORTEST, PRODUCT = "at T = 2", "attention-only − BPTT"
ACCUMULATED, PAPER = "… ≤ Σ ‖∂h_t/∂x_1‖", "mean GRPO − BPTT costate"


def theorem_one_rows(case):
    return list(gap_statements.theorem_one_statements(case))


def test_theorem_one_holds_in_every_form_but_the_paper_s(case):
    found = theorem_one_rows(case)
    assert [s.form for s in found if not s.holds] == ["paper"]
    (paper,) = (s for s in found if s.form == "paper")
    assert paper.name.startswith(PAPER)
    assert paper.left > 0 == paper.right
    (product,) = (s for s in found if s.name.startswith(PRODUCT))
    assert product.slack > 10
    assert "no check of the code" in product.note
    (accumulated,) = (s for s in found if s.name.startswith(ACCUMULATED))
    assert accumulated.slack < 10
    assert "no check" not in accumulated.note


def larger(field):
    return lambda found: dataclasses.replace(found, **{field: 1.01 * getattr(found, field)})


def scaled(by):
    return lambda found: by * found


def costates_scaled(found):
    caches, soft, costates = found
    return caches, soft, [1.01 * x for x in costates]


@pytest.mark.parametrize(
    ("module", "name", "change", "rows"),
    [
        (gap_statements, "advantages", scaled(1.01), [STATED]),
        (gap_statements, "_finite_group_slope", scaled(0.99), [STATED]),
        (gap_statements, "relaxed_costates", larger("bptt"), [STATED]),
        (gap_statements, "theorem_one", larger("difference"), [RECURSION]),
        (gap_statements, "difference_by_recursion", scaled(0.99), [RECURSION]),
        (theorem_one, "state_costates", costates_scaled, [RECURSION]),
        (gap_statements, "theorem_one", larger("left"), [SHORTEST]),
        (gap_statements, "theorem_one", larger("accumulated"), [SHORTEST]),
        (theorem_one, "_sampling_path", scaled(0.99), [SHORTEST]),
        (theorem_one, "sampling_jacobian", scaled(1.01), [SHORTEST]),
    ],
)
def test_one_percent_in_what_theorem_one_rests_on_is_seen(
    case, monkeypatch, module, name, change, rows
):
    true = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given, **named: change(true(*given, **named)))
    failing = [s.name for s in theorem_one_rows(case) if s.form == "corrected" and not s.holds]
    assert len(failing) == len(rows)
    assert all(s.startswith(row) for s, row in zip(failing, rows, strict=True))


@pytest.mark.parametrize(("field", "row"), [("right", PRODUCT), ("accumulated", ACCUMULATED)])
def test_a_difference_one_percent_above_a_bound_of_theorem_one_is_seen(
    case, monkeypatch, field, row
):
    true = gap_statements.theorem_one

    def wrong(*given):
        found = true(*given)
        return dataclasses.replace(found, left=1.01 * getattr(found, field))

    monkeypatch.setattr(gap_statements, "theorem_one", wrong)
    (found,) = (s for s in theorem_one_rows(case) if s.name.startswith(row))
    assert not found.holds


def test_theorem_one_as_stated_would_hold_if_the_mean_costate_were_the_value_gradient(
    case, monkeypatch
):
    """The row is no constant: divided by ψ the advantages make it true."""
    (row,) = (s for s in theorem_one_rows(case) if s.form == "paper")
    psi = 1 + row.error
    true = gap_statements.advantages
    monkeypatch.setattr(gap_statements, "advantages", lambda *given: true(*given) / psi)
    (found,) = (s for s in theorem_one_rows(case) if s.form == "paper")
    assert found.holds
    monkeypatch.setattr(gap_statements, "advantages", lambda *given: 1.01 * true(*given) / psi)
    (found,) = (s for s in theorem_one_rows(case) if s.form == "paper")
    assert not found.holds


def test_a_rank_above_its_bound_is_seen(case, monkeypatch):
    true = gap_statements.attention_paths

    def wrong(*given):
        return [dataclasses.replace(p, effective_rank=p.rank_bound + 1.0) for p in true(*given)]

    monkeypatch.setattr(gap_statements, "attention_paths", wrong)
    (found,) = gap_statements.attention_statements(case)
    assert not found.holds
