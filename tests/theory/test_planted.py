"""Every row of `verify` under an error of 1% in its quantity: it fails, and no row beside it does.

What a statement asks the library for is replaced by the same times 1.01 (or 0.99). A bound cannot
see that unless its slack is less; it is named as one, and fails where its left side is put 1% above
the right.
"""

import dataclasses
from functools import cache
from typing import NamedTuple

import pytest
import torch

from valuegrad.credit import theorem_one
from valuegrad.credit.bounds import bounds
from valuegrad.credit.sampling_gap import LINKS
from valuegrad.impact import teacher_forced, vocabulary
from valuegrad.theory import (
    attention_statements,
    continuous_lens,
    credit_statements,
    gap_statements,
    impact_statements,
    relaxed_statements,
    theorem_one_statements,
    update_statements,
    value_statements,
)
from valuegrad.theory.case import make_case
from valuegrad.theory.impact_statements import NAMES, Signal
from valuegrad.theory.settings import PROMPT
from valuegrad.theory.verify import PARTS

# The parts of `verify` that what is named in a module reaches.
REACHED = {
    credit_statements: ("costates", "adjoint recursion"),
    value_statements: ("value gradients", "norms", "exact answers"),
    relaxed_statements: ("relaxed rollouts",),
    gap_statements: ("sampling gap",),
    attention_statements: ("attention paths",),
    theorem_one_statements: ("Theorem 1",),
    theorem_one: ("Theorem 1",),
    impact_statements: ("impact", "impact of exact answers"),
    teacher_forced: ("impact of exact answers",),
    vocabulary: ("impact", "updates"),
    update_statements: ("updates",),
    continuous_lens: ("continuous lens",),
}


class Plant(NamedTuple):
    """What is made wrong, and the rows that must see it."""

    module: object
    name: str
    wrong: object
    rows: tuple[str, ...]


def scaled(found):
    return 1.01 * found


def less(found):
    return 0.99 * found


def first(found):
    return (1.01 * found[0], *found[1:])


def both(found):
    return tuple(1.01 * x for x in found)


def field(name, by=1.01):
    """One field of a result; of what has several results, of each."""

    def wrong(found):
        if isinstance(found, dict):
            return {key: wrong(one) for key, one in found.items()}
        if isinstance(found, list):
            return [wrong(one) for one in found]
        return dataclasses.replace(found, **{name: _times(getattr(found, name), by)})

    return wrong


def _times(value, by):
    if isinstance(value, list):
        return [_times(x, by) for x in value]
    return tuple(_times(x, by) for x in value) if isinstance(value, tuple) else by * value


def measured(name):
    """A measurement, of the checkpoint and of every prompt, where a prompt has it."""

    def wrong(found):
        return {method: _measured(impact, name) for method, impact in found.items()}

    return wrong


def _measured(impact, name):
    parts = {}
    for part in ("means", "rows"):
        values = getattr(impact, part)
        if hasattr(values, name):
            parts[part] = dataclasses.replace(values, **{name: 1.01 * getattr(values, name)})
    return dataclasses.replace(impact, **parts)


def costates(found):
    caches, soft, each = found
    return caches, soft, [1.01 * x for x in each]


CENTRAL = "costates of one backward pass = central differences, every site"
FINAL = "final costate = Â (onehot − p) W, no credit from later tokens"
ADJOINT = "adjoint recursion over the cache state = autograd"
HANDS = "recursion hands each token its total costate"
VALUES = "value gradients of right tokens = central differences of V, every site"
LARGE = tuple(
    f"mean costate = G / (σ + ξ) in large groups, random rewards, site {site}"
    for site in ("embedding", "final")
)
CLOSED = "Wᵀ (p ⊙ (r − p·r)) = autograd of Σ p r"
NORM, INNER = "mean of unbiased ‖G‖² = ‖G‖²", "mean of unbiased ⟨G, G′⟩ = ⟨G, G′⟩"
ANSWER_V = "V_t of an exact answer = its probability, one decode step at a time"
ANSWER_G = "G_t of an exact answer = central differences of V_t, at three sites"
BPTT = "BPTT costates = central differences of the relaxed return"
ATTENTION = "attention-only costates = the same with the tokens that are read held"
EXACT = "J_exact = J_attn + J_sample ∂h_t/∂h, along 3 directions"
GAP = "gap = ‖∂h_{t+1}/∂h_t‖₂ through the soft token, dense, by autograd"
BOUNDS = {
    "product_norm": "N = (1/τ) ‖∂h_{t+1}/∂e_t‖ ‖E‖ ‖W‖, dense and by Lanczos",
    "bound_spectral": "N ‖diag p − ppᵀ‖₂, its largest eigenvalue by Lanczos",
    "bound_trace": "N (1 − ‖p‖²) = N Σ_i p_i Σ_{j≠i} p_j",
    "bound_maximum": "N 2(1 − p_max) = N 2 Σ of all others",
    "bound_linear": "N min(1/2, 1 − ‖p‖², H), H = log Σ eᶻ − p·z",
    "bound_entropy": "N 1.274 sqrt(H), its constant by search",
    "bound_paper": "N 2 C_V sqrt(H / log V), C_V by search",
    "bound_covariance": "(1/τ) ‖B Cov_p(E)^½‖ ‖Cov_p(W)^½‖, dense",
    "bound_covariance_norms": "(1/τ) ‖B‖ sqrt(λ_max Cov_p(E) · λ_max Cov_p(W)), dense",
    "bound_diameter": "(1/2τ) (1 − ‖p‖²) ‖B‖ diam(E) diam(W), of these",
    "bound_diameter_entropy": "(1/2τ) min(1, H) ‖B‖ diam(E) diam(W), of these",
    "smallest_constant": "the least C of Eq. 21 = gap sqrt(log V / H)",
}
DIAMETERS = "diam(E), diam(W) = largest distance of rows"
ENTROPY = BOUNDS["bound_diameter_entropy"]
FACTORS = (
    BOUNDS["product_norm"],
    *(BOUNDS[f"bound_{name}"] for name in vars(bounds(torch.tensor([0.5, 0.5])))),
)
PATH = "‖∂h_query/∂h_key‖₂ of a block = dense, through the model"
RANK = "its effective rank ‖·‖_F² / ‖·‖₂² likewise"
STATED = "mean GRPO costate of groups of 8 = ψ ∇V, 1 for one token"
RECURSION = "δ_t = A_tᵀ δ_{t+1} − S_tᵀ λ_{t+1} gives that difference"
SHORTEST = "at T = 2 the accumulated bound is the difference's norm"
PRODUCT = "at T = 2 the product form is ‖S_1‖ ‖λ_2‖, S_1 dense by central differences"
SLOPES = "ψ of five methods = sums over all groups, or batches, of 4"
EVERY_SITE = "E λ̂ of all tokens and groups of 4 = ψ(p, G) G, every site"
HEADROOM = "headroom = max_q E_q R − KL(q‖p)/α − E_p R, by search"
POOLED = "pooled headroom = that of the prompts' mean distribution"
TILTED = "headroom of random rewards = what the tilted policy gains less its cost"
SCORE = "P_gap = (Σ − Λ) H_α, and alignment · H_α, of what was enumerated"
SHARE = "S / Σ = 1 − |ψ − 1| for an indicator reward, G = 4, 8, 16 and the limit"
ANSWERS = "Σ, Λ, alignment of an exact answer = sums over first tokens and groups of 4"
UPDATE = "update = mean gradient of Eq. 1 over all tokens and groups of 4"
OWN = "first-order gain on own prompts − on left-out ones = tr Cov(u, g) / n"
ADJOINT_1 = "adjoint recursion = backpropagation through time"
PARAMETERS = "parameter gradient from costates = autograd, policy and dynamics"
MEAN = "E[λ] = G = −P s, by Gauss–Hermite quadrature"
RICCATI = "expected BPTT gradient is zero at Riccati's gains"
LEMMA = tuple(
    f"score function = pathwise, {n} noise" for n in ("Gaussian", "logistic", "Student-t")
)
CONSTANT = "E[Â h ∂log π] = Â E[∂h/∂a] for a constant Â and any signal h"
ADVANTAGE = "E[Â ∂log π] = E[∂r/∂a] / σ for the advantage of the sampled action"
COROLLARY = "expected GRPO gradient = BPTT gradient / σ"
RETURN = "expected BPTT gradient = gradient of the closed-form return"

# Which other rows are about a measurement of impact.
ALSO = {
    "sigma": (SHARE,),
    "lambda_conditional": (SHARE,),
    "lambda_conditional_population": (SHARE,),
}
SCORES = ("p_gap", "p_gap_conditional", "p_alignment")

PLANTS = (
    Plant(credit_statements, "costates_at", field("total"), (CENTRAL, FINAL, HANDS)),
    Plant(credit_statements, "cache_costates", field("cache"), (ADJOINT,)),
    Plant(credit_statements, "cache_costates", field("embedding"), (HANDS,)),
    Plant(value_statements, "value_gradient", scaled, (VALUES,)),
    Plant(value_statements, "scored", field("total"), LARGE),
    Plant(value_statements, "population_advantages", field("slope"), LARGE),
    Plant(value_statements, "enumerated_value_gradient", scaled, (*LARGE, CLOSED)),
    Plant(value_statements, "final_value_gradient", scaled, (CLOSED,)),
    Plant(value_statements, "squared_norm", scaled, (NORM,)),
    Plant(value_statements, "inner_product", scaled, (INNER,)),
    Plant(value_statements, "answer_gradients", field("value"), (ANSWER_V,)),
    Plant(value_statements, "answer_gradients", field("gradient"), (ANSWER_G,)),
    Plant(relaxed_statements, "relaxed_costates", field("bptt"), (BPTT,)),
    Plant(relaxed_statements, "relaxed_costates", field("attention_only"), (ATTENTION,)),
    Plant(relaxed_statements, "sampling_jacobian", scaled, (EXACT,)),
    Plant(gap_statements, "sampling_gaps", field("gap"), (GAP,)),
    Plant(gap_statements, "diameter", scaled, (DIAMETERS,)),
    Plant(gap_statements, "table_diameters", both, (BOUNDS["bound_diameter"], ENTROPY)),
    Plant(gap_statements, "table_norms", first, FACTORS),
    *(Plant(gap_statements, "sampling_gaps", field(name), (row,)) for name, row in BOUNDS.items()),
    Plant(attention_statements, "attention_paths", field("norm"), (PATH,)),
    Plant(attention_statements, "attention_paths", field("effective_rank"), (RANK,)),
    Plant(theorem_one_statements, "advantages", scaled, (STATED,)),
    Plant(theorem_one_statements, "group_advantages", field("slope"), (STATED,)),
    Plant(theorem_one_statements, "theorem_one", field("difference"), (RECURSION,)),
    Plant(theorem_one_statements, "difference_by_recursion", less, (RECURSION,)),
    Plant(theorem_one_statements, "theorem_one", field("left"), (SHORTEST,)),
    Plant(theorem_one_statements, "theorem_one", field("accumulated"), (SHORTEST,)),
    Plant(theorem_one_statements, "theorem_one", field("right"), (PRODUCT,)),
    Plant(theorem_one, "state_costates", costates, (RECURSION, PRODUCT)),
    Plant(theorem_one, "_sampling_path", less, (SHORTEST, PRODUCT)),
    Plant(theorem_one, "sampling_jacobian", scaled, (SHORTEST, PRODUCT)),
    *(
        Plant(vocabulary, "measure", measured(name), (row, *ALSO.get(name, ())))
        for name, (row, _) in NAMES.items()
    ),
    Plant(vocabulary, "measure", measured("slope"), (SLOPES,)),
    Plant(vocabulary, "measure", measured("headroom"), (HEADROOM,)),
    Plant(vocabulary, "measure", measured("headroom_pooled"), (POOLED,)),
    *(
        Plant(vocabulary, "measure", measured(name + end), (SCORE,))
        for name in SCORES
        for end in ("", "_population")
    ),
    Plant(impact_statements, "value_gradient", scaled, (EVERY_SITE,)),
    Plant(impact_statements, "group_advantages", field("slope"), (EVERY_SITE,)),
    Plant(impact_statements, "headroom", scaled, (TILTED,)),
    *(Plant(teacher_forced, "measure", measured(name), (ANSWERS,)) for name in Signal._fields),
    Plant(vocabulary, "update", field("gradients"), (UPDATE, OWN)),
    Plant(vocabulary, "update", field("gradient_norm"), (UPDATE,)),
    Plant(vocabulary, "rewards", scaled, (OWN,)),
    Plant(update_statements, "grpo_objective", scaled, (UPDATE,)),
    Plant(continuous_lens, "control_costates", scaled, (ADJOINT_1, MEAN)),
    Plant(continuous_lens, "parameter_gradient", both, (PARAMETERS, COROLLARY, RETURN)),
    Plant(continuous_lens, "value_matrices", scaled, (MEAN,)),
    Plant(continuous_lens, "with_optimal_gains", field("gains"), (RICCATI,)),
    Plant(continuous_lens, "sides", first, (*LEMMA, CONSTANT, ADVANTAGE)),
    Plant(continuous_lens, "expected_return", scaled, (RETURN,)),
)

CHAIN = (
    "gap ≤ N ‖diag p − ppᵀ‖",
    "… ≤ N (1 − ‖p‖²)",
    "… ≤ N 2(1 − p_max)",
    "… ≤ N 2 C_V sqrt(H / log V)",
    "gap ≤ N min(1/2, 1 − ‖p‖², H)",
    "sharp bound ≤ the paper's",
    "gap ≤ (1/τ) ‖B Cov_p(E)^½‖ ‖Cov_p(W)^½‖",
    "… ≤ (1/τ) ‖B‖ sqrt(λ_max Cov_p(E) · λ_max Cov_p(W))",
    "… ≤ (1/2τ) (1 − ‖p‖²) ‖B‖ diam(E) diam(W)",
    "… ≤ (1/2τ) min(1, H) ‖B‖ diam(E) diam(W)",
)


def above(left, right):
    """One field 1% above another, in every result."""

    def wrong(found):
        return [dataclasses.replace(one, **{left: 1.01 * getattr(one, right)}) for one in found]

    return wrong


def above_of_one(left, right):
    return lambda found: above(left, right)([found])[0]


def mean_of(name, value):
    def wrong(found):
        return {
            method: dataclasses.replace(
                impact, means=dataclasses.replace(impact.means, **{name: value(impact.means)})
            )
            for method, impact in found.items()
        }

    return wrong


# The row, and what puts its left side above its right.
BROKEN = (
    *(
        Plant(gap_statements, "sampling_gaps", above(*link), (row,))
        for row, link in zip(CHAIN, LINKS, strict=True)
    ),
    Plant(
        attention_statements,
        "attention_paths",
        above("effective_rank", "rank_bound"),
        ("effective rank of the attention path ≤ d_head · n_heads",),
    ),
    Plant(
        theorem_one_statements,
        "theorem_one",
        above_of_one("left", "right"),
        ("attention-only − BPTT costate ≤ Σ (Π ‖J‖) ε over the cache state",),
    ),
    Plant(
        theorem_one_statements,
        "theorem_one",
        above_of_one("left", "accumulated"),
        ("… ≤ Σ ‖∂h_t/∂x_1‖ ‖S_tᵀ λ_{t+1}‖, Jacobians accumulated",),
    ),
    Plant(
        vocabulary,
        "measure",
        mean_of("alignment", lambda m: 0.99 * (m.sigma - m.lambda_conditional)),
        ("Σ − Λ ≤ alignment",),
    ),
    Plant(
        vocabulary,
        "measure",
        mean_of("lambda_conditional_population", lambda m: 0.99 * m.sigma),
        ("Σ ≤ Λ in the limit of large groups, so that S = Σ − Λ ≤ 0 there",),
    ),
)


@cache
def as_they_are(policy):
    """Every row without a planted error."""
    return {name: list(part(make_case(policy, PROMPT, 0))) for name, part in PARTS.items()}


def failing(policy, plant, monkeypatch):
    """Which corrected rows fail in the parts that a planted error reaches."""
    true = getattr(plant.module, plant.name)
    monkeypatch.setattr(
        plant.module, plant.name, lambda *given, **named: plant.wrong(true(*given, **named))
    )
    parts = REACHED[plant.module]
    rows = [row for part in parts for row in PARTS[part](make_case(policy, PROMPT, 0))]
    return {row.name for row in rows if row.form == "corrected" and not row.holds}


def called(plant):
    return f"{plant.module.__name__.rsplit('.')[-1]}.{plant.name}-{plant.rows[0][:40]}"


@pytest.mark.parametrize("plant", PLANTS, ids=called)
def test_an_error_of_one_percent_fails_its_rows_and_no_other(policy, monkeypatch, plant):
    assert failing(policy("olmo2"), plant, monkeypatch) == set(plant.rows)


@pytest.mark.parametrize("plant", BROKEN, ids=called)
def test_a_bound_that_is_broken_by_one_percent_fails(policy, monkeypatch, plant):
    assert set(plant.rows) <= failing(policy("olmo2"), plant, monkeypatch)


def test_every_row_is_planted(policy):
    """Checks under 1% in their quantity, bounds broken by it; a bound is no check by its name."""
    rows = [row for part in as_they_are(policy("olmo2")).values() for row in part]
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert {row.name for row in rows if row.check} == {row for p in PLANTS for row in p.rows}
    assert {row.name for row in rows if row.kind == "bound"} == {r for p in BROKEN for r in p.rows}
    assert all(row.check for row in rows if row.form == "corrected" and row.relation == "=")
    assert not any(row.check for row in rows if row.relation == "<=")


def test_every_row_holds_without_a_planted_error(policy):
    rows = [row for part in as_they_are(policy("olmo2")).values() for row in part]
    assert [row.name for row in rows if row.form == "corrected" and not row.holds] == []


def test_every_part_is_reached():
    assert {part for parts in REACHED.values() for part in parts} == set(PARTS)
