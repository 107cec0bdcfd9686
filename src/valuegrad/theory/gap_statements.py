"""The statements of gap and impact: Eqs. 20, 24, 26, Props. 2, 3, Thm. 1, correction E."""

from collections.abc import Iterator

import torch
from torch import Tensor

from valuegrad.credit.attention_paths import attention_paths, weight_correlation
from valuegrad.credit.sampling_gap import LINKS, sampling_gaps
from valuegrad.credit.theorem_one import theorem_one
from valuegrad.impact.vocabulary import measure
from valuegrad.model.cache import prefill
from valuegrad.model.policy import logits
from valuegrad.prompts import Prompts
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.theory.case import COMPLETION, Case
from valuegrad.theory.statement import Statement, equality, inequality


def sampling_gap_statements(case: Case) -> Iterator[Statement]:
    """Every link of the chain of bounds, at its tightest point."""
    start = len(case.prompt) - 1
    positions = range(start, start + COMPLETION)
    one, half = (sampling_gaps(case.policy, case.sequence, positions, tau) for tau in (1.0, 0.5))
    names = (
        ("gap ≤ N ‖diag p − ppᵀ‖", "Eq. 20"),
        ("… ≤ N (1 − ‖p‖²)", "Prop. 2"),
        ("… ≤ N 2(1 − p_max)", "Prop. 2"),
        ("… ≤ N 2 C_V sqrt(H / log V)", "Prop. 2"),
        ("gap ≤ N min(1/2, 1 − ‖p‖², H)", "Theory §4"),
        ("sharp bound ≤ the paper's", "Theory §4"),
    )
    for (name, source), link in zip(names, LINKS, strict=True):
        sides = [tuple(getattr(gap, side) for side in link) for gap in (*one, *half)]
        tightest = max(sides, key=lambda pair: pair[0] / (pair[1] or 1.0))
        yield inequality(name, source, *tightest, note=f"the tightest of {len(sides)} points")


def attention_statements(case: Case) -> Iterator[Statement]:
    """Prop. 3, with the effective rank that it leaves open."""
    query = len(case.sequence) - 1
    keys = sorted({query * i // 8 for i in range(8)})
    paths = attention_paths(case.policy, case.sequence, query, keys)
    widest = max(paths, key=lambda path: path.effective_rank)
    layers = range(len(case.policy.blocks))
    each = [weight_correlation([path for path in paths if path.layer == i]) for i in layers]
    name = "effective rank of the attention path ≤ d_head · n_heads"
    note = f"the width is {widest.width}; rank correlation of its norm with the attention "
    note += f"weight {min(each):.2f} to {max(each):.2f} by layer"
    sides = widest.effective_rank, float(widest.rank_bound)
    yield inequality(name, "Prop. 3", *sides, note=note)


def theorem_one_statements(case: Case) -> Iterator[Statement]:
    """Both sides of Theorem 1 for a random reward of a relaxed rollout."""
    direction = torch.randn(case.policy.head.shape[0], generator=case.generator).double()

    def reward(soft: Tensor) -> Tensor:
        return (soft @ direction.to(soft)).square().mean()

    found = theorem_one(case.policy, case.prompt[-3:], 3, reward)
    name = "attention-only − BPTT costate ≤ Σ (Π ‖J‖) ε over the cache state"
    yield inequality(name, "Thm. 1", found.left, found.right)


def impact_statements(case: Case) -> Iterator[Statement]:
    """The sign of the paper's score, and the alignment that needs no bound."""
    policy = case.policy
    with torch.no_grad():
        _, finals = prefill(policy, case.prompt)
        likely = logits(policy, finals[-1]).argsort(descending=True)
    answers = tuple((int(likely[rank]),) for rank in (0, 2, min(20, len(likely) - 1)))
    examples = (Example(case.text, ""),) * len(answers)
    tokens = (tuple(case.prompt),) * len(answers)
    prompts = Prompts("one token", examples, tokens, answers, (), 1, Exact())
    (impact,) = measure(policy, prompts, methods=["grpo"]).values()
    sigma, error = impact.means.sigma, impact.means.lambda_conditional
    name = "Σ ≤ Λ for an indicator reward, so that S = Σ − Λ ≤ 0"
    yield inequality(name, "Correction E", sigma, error)
    name = "Λ ≤ Σ, so that S = Σ − Λ measures usable signal"
    note = "E[λ̂|h] = G/σ with σ ≤ 1/2 is G at another scale; the alignment needs no bound"
    yield inequality(name, "Eq. 26", error, sigma, form="paper", note=note)
    expected = (impact.rows.sigma / (impact.rows.reward_variance.sqrt() + 1e-4)).mean()
    yield equality("alignment = E ‖G‖² / (σ + ξ)", "Eq. 24", impact.means.alignment, expected)
