"""The statements of gap and impact: Eqs. 20, 24, 26, Props. 2, 3, Thm. 1, corrections E, H."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

from valuegrad.credit.attention_paths import attention_paths, weight_correlation
from valuegrad.credit.costate_difference import difference_by_recursion, state_costates
from valuegrad.credit.relaxed import Relaxed, relaxed_costates
from valuegrad.credit.sampling_gap import LINKS, sampling_gaps
from valuegrad.credit.theorem_one import theorem_one
from valuegrad.impact.vocabulary import measure
from valuegrad.methods import XI, advantages
from valuegrad.model.cache import prefill
from valuegrad.model.policy import Policy, logits
from valuegrad.prompts import Prompts
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.theory.case import COMPLETION, Case
from valuegrad.theory.statement import EXACT, Statement, equality, inequality

# Tokens in a GRPO group; ψ is 1 for no size of it at every p.
GROUP = 8


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
    """Theorem 1 as stated, and what its proof proves, for relaxed rollouts (correction H)."""
    direction = torch.randn(case.policy.head.shape[0], generator=case.generator).double()

    def reward(soft: Tensor) -> Tensor:
        return (soft @ direction.to(soft)).square().mean()

    policy, prompt = case.policy, case.prompt[-3:]
    yield from _theorem_one_as_stated(policy, prompt)
    given = Relaxed(policy, prompt, 3, reward)
    found = theorem_one(policy, prompt, 3, reward)
    name = "attention-only − BPTT costate ≤ Σ (Π ‖J‖) ε over the cache state"
    yield inequality(name, "Thm. 1", found.left, found.right, note=_slack(found.right, found.left))
    name = "… ≤ Σ ‖∂h_t/∂x_1‖ ‖S_tᵀ λ_{t+1}‖, Jacobians accumulated"
    note = _slack(found.accumulated, found.left)
    yield inequality(name, "Correction H", found.left, found.accumulated, note=note)
    name = "δ_t = A_tᵀ δ_{t+1} − S_tᵀ λ_{t+1} gives that difference"
    by_steps = difference_by_recursion(given, *state_costates(given, detached=True)[:2])
    yield equality(name, "Correction H", found.difference, by_steps)
    shorter = theorem_one(policy, prompt, 2, reward)
    name = "at T = 2 the accumulated bound is the difference's norm"
    yield equality(name, "Correction H", shorter.left, shorter.accumulated)


def _slack(bound: float, side: float) -> str:
    """What a bound's slack says of the code."""
    slack = bound / side if side else math.inf
    blind = "; above 10 it is no check of the code, which the recursion's row is"
    return f"slack {slack:.3g}" + (blind if slack > 10 else "")


def _theorem_one_as_stated(policy: Policy, prompt: list[int]) -> Iterator[Statement]:
    """T = 1, reward 1 for one token: the right side of Eq. 23 is empty, the left is not 0."""
    with torch.no_grad():
        _, finals = prefill(policy, prompt)
        p = logits(policy, finals[-1]).softmax(0)
    accepted = int(p.argsort(descending=True)[1])
    bptt = relaxed_costates(policy, prompt, 1, lambda soft: soft[0, accepted]).bptt[0]
    bound = theorem_one(policy, prompt, 1, lambda soft: soft[0, accepted]).right
    mean = _mean_costate(p, policy.head, accepted)
    psi = _finite_group_slope(float(p[accepted]))
    name = f"mean GRPO costate of groups of {GROUP} = ψ ∇V, 1 for one token"
    yield equality(name, "Correction H", mean, psi * bptt)
    name = "mean GRPO − BPTT costate ≤ Σ (Π ‖J‖) ε at T = 1, an empty sum"
    note = f"the left side is |ψ − 1| ‖∇V‖ with ψ = {psi:.3f}; error relative to ‖∇V‖"
    side = float((mean - bptt).norm())
    error = (side - bound) / float(bptt.norm())
    yield Statement(name, "Thm. 1", side, bound, error, EXACT, "<=", "paper", note)


def _mean_costate(p: Tensor, head: Tensor, accepted: int) -> Tensor:
    """E λ̂ at ``"final"`` of a token of a GRPO group, over every number of accepted ones in it."""
    counts, scores = torch.arange(GROUP + 1), head - p @ head
    rewards = (torch.arange(GROUP) < counts[:, None]).double()
    given, rate = advantages(rewards, "grpo"), float(p[accepted])
    chance = torch.as_tensor(binom.pmf(counts.numpy(), GROUP, rate))
    right, wrong = (chance @ (given * part).mean(1) for part in (rewards, 1 - rewards))
    others = p.index_fill(0, torch.tensor([accepted], device=p.device), 0.0) / (1 - rate)
    return right * scores[accepted] + wrong * (others @ scores)


def _finite_group_slope(p: float) -> float:
    """ψ(p, G) = E[k (G − k) / (G² (s_k + ξ))] / (p (1 − p)), k ~ Bin(G, p), s_k with Bessel."""
    k = np.arange(1, GROUP)
    spread = k * (GROUP - k)
    sides = spread / (GROUP**2 * (np.sqrt(spread / (GROUP * (GROUP - 1))) + XI))
    return float(binom.pmf(k, GROUP, p) @ sides) / (p * (1 - p))


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
