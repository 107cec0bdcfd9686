"""The statements of Theorem 1 (Eq. 23) as stated, and of what its proof proves (correction H)."""

from collections.abc import Iterator

import torch
from scipy.stats import binom
from torch import Tensor

from valuegrad.credit.costate_difference import difference_by_recursion, state_costates
from valuegrad.credit.relaxed import Relaxed, Reward, relaxed_costates
from valuegrad.credit.theorem_one import theorem_one
from valuegrad.finite_groups import group_advantages
from valuegrad.methods import advantages
from valuegrad.model.cache import decode_embedding, prefill
from valuegrad.model.policy import Policy, logits
from valuegrad.theory.case import Case
from valuegrad.theory.differences import jacobian
from valuegrad.theory.statement import EXACT, Statement, equality, inequality

# Tokens in a GRPO group; ψ is 1 for no size of it at every p.
GROUP = 8
# Iteration promises 1e-4 of a norm.
NORM = 1e-3


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
    yield inequality(name, "Thm. 1", found.left, found.right)
    name = "… ≤ Σ ‖∂h_t/∂x_1‖ ‖S_tᵀ λ_{t+1}‖, Jacobians accumulated"
    yield inequality(name, "Correction H", found.left, found.accumulated)
    name = "δ_t = A_tᵀ δ_{t+1} − S_tᵀ λ_{t+1} gives that difference"
    by_steps = difference_by_recursion(given, *state_costates(given, detached=True)[:2])
    yield equality(name, "Correction H", found.difference, by_steps)
    shorter = theorem_one(policy, prompt, 2, reward)
    name = "at T = 2 the accumulated bound is the difference's norm"
    yield equality(name, "Correction H", shorter.left, shorter.accumulated)
    name = "at T = 2 the product form is ‖S_1‖ ‖λ_2‖, S_1 dense by central differences"
    right = _product_by_differences(policy, prompt, reward)
    yield equality(name, "Thm. 1", shorter.right, right, NORM)


def _product_by_differences(policy: Policy, prompt: list[int], reward: Reward) -> float:
    """‖S_1‖ ‖λ_2‖: what a step adds to the state by h_1, and the last state's costate."""
    with torch.no_grad():
        cache, finals = prefill(policy, prompt)

    def added(states: Tensor) -> Tensor:
        e = logits(policy, states).softmax(1) @ policy.embedding
        reached, final = decode_embedding(policy, cache, e)
        new = [x[:, :, -1].flatten(1) for pair in reached for x in pair]
        return torch.cat([*new, final], 1)

    after = relaxed_costates(policy, prompt, 2, reward).bptt[1]
    return float(torch.linalg.matrix_norm(jacobian(added, finals[-1]), 2) * after.norm())


def _theorem_one_as_stated(policy: Policy, prompt: list[int]) -> Iterator[Statement]:
    """T = 1, reward 1 for one token: the right side of Eq. 23 is empty, the left is not 0."""
    with torch.no_grad():
        _, finals = prefill(policy, prompt)
        p = logits(policy, finals[-1]).softmax(0)
    accepted = int(p.argsort(descending=True)[1])
    bptt = relaxed_costates(policy, prompt, 1, lambda soft: soft[0, accepted]).bptt[0]
    bound = theorem_one(policy, prompt, 1, lambda soft: soft[0, accepted]).right
    mean = _mean_costate(p, policy.head, accepted)
    right = torch.stack([1 - p[accepted], p[accepted]])[None]
    psi = float(group_advantages(torch.tensor([0.0, 1.0]).to(p), right, "grpo", GROUP).slope)
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
