"""Theorem 1: both bounds against dense Jacobians of a step, and the paper's own form by groups."""

import math

import pytest
import torch
from tests.conftest import ARCHITECTURES
from tests.credit.test_relaxed import LENGTH, PROMPT, reward

from valuegrad.credit.costate_difference import difference_by_recursion, state_costates
from valuegrad.credit.relaxed import Relaxed, gumbel_noise, relaxed_costates
from valuegrad.credit.theorem_one import theorem_one
from valuegrad.errors import UserError
from valuegrad.methods import advantages
from valuegrad.model.cache import decode_embedding, prefill


def flatten(cache, final):
    return torch.cat([*(x.flatten() for pair in cache for x in pair), final])


def unflatten(state, like):
    shapes = [x.shape for pair in like for x in pair]
    *parts, final = torch.split(state, [shape.numel() for shape in shapes] + [16])
    parts = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    return list(zip(parts[::2], parts[1::2], strict=True)), final


def dense_sides(policy):
    """Both sides of Theorem 1 by the recursion of its proof, with dense Jacobians of a step."""
    table = policy.model.get_input_embeddings().weight.detach()
    with torch.no_grad():
        cache, finals = prefill(policy, PROMPT)
    final, steps, soft = finals[-1], [], []

    def sample(h):
        return (h @ policy.head.detach().mT).softmax(0)

    finals = []
    for t in range(LENGTH):
        soft.append(sample(final))
        finals.append(final)
        if t + 1 == LENGTH:
            break

        def step(state, embedding=None, like=cache):
            before, h = unflatten(state, like)
            embedding = sample(h) @ table if embedding is None else embedding
            reached, (after,) = decode_embedding(policy, before, embedding[None])
            return flatten(reached, after)

        state = flatten(cache, final)
        whole = torch.autograd.functional.jacobian(step, state)
        attention = torch.autograd.functional.jacobian(
            lambda x, e=soft[-1] @ table, step=step: step(x, e), state
        )
        steps.append((attention, whole - attention))
        with torch.no_grad():
            cache, (final,) = decode_embedding(policy, cache, (soft[-1] @ table)[None])
    tokens = torch.stack(soft).requires_grad_()
    (slopes,) = torch.autograd.grad(reward(tokens), tokens)
    immediate = [
        torch.autograd.functional.vjp(sample, h, g)[1] for h, g in zip(finals, slopes, strict=True)
    ]
    full = open_ = torch.cat((flatten(cache, final)[:-16] * 0, immediate[-1]))
    later, costates = [*zip(steps, immediate, strict=False)], [full]
    for (a, s), now in reversed(later):
        padded = torch.cat((now.new_zeros(a.shape[1] - 16), now))
        full, open_ = padded + (a + s).mT @ full, padded + a.mT @ open_
        costates.insert(0, full)
    right, product, reached = 0.0, 1.0, torch.eye(len(full), dtype=torch.float64)
    parts = []
    for (a, s), after in zip(steps, costates[1:], strict=True):
        # What the bound rests on: a step's attention path reads c alone, its sampling path h alone.
        assert not a[:, -16:].any()
        assert not s[:, :-16].any()
        right += product * float(torch.linalg.matrix_norm(s, 2) * after.norm())
        product *= float(torch.linalg.matrix_norm(a, 2))
        assert torch.linalg.matrix_norm(a, 2) > 1
        withheld = s.mT @ after
        parts.append(float(torch.linalg.matrix_norm(reached[-16:], 2) * withheld.norm()))
        reached = a @ reached
    return open_ - full, right, parts


@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_theorem_one_equals_dense_jacobians_over_the_state(policy, architecture):
    chosen = policy(architecture)
    found = theorem_one(chosen, PROMPT, LENGTH, reward)
    difference, right, parts = dense_sides(chosen)
    assert len(parts) == LENGTH - 1 == 2
    torch.testing.assert_close(found.difference, difference, rtol=1e-9, atol=1e-12)
    assert found.left == pytest.approx(float(difference.norm()), rel=1e-9)
    assert found.right == pytest.approx(right, rel=1e-6)
    assert found.accumulated == pytest.approx(sum(parts), rel=1e-6)
    assert found.accumulated_sharp == pytest.approx(math.hypot(*parts), rel=1e-6)
    assert found.accumulated_norms[0] == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_theorem_one_holds(policy, architecture):
    chosen = policy(architecture)
    for temperature, draws in ((1.0, 1), (0.5, 3)):
        found = theorem_one(
            chosen, PROMPT, LENGTH, reward, temperature=temperature, draws=draws, seed=4
        )
        assert 0 < found.left <= found.accumulated_sharp * (1 + 1e-9)
        assert found.accumulated_sharp <= found.accumulated <= found.right


def test_slack_over_the_length(policy):
    """The table of correction H, of one architecture: product form and accumulated Jacobians."""
    found = {T: theorem_one(policy("olmo2"), PROMPT, T, reward) for T in (2, 3, 5, 8, 12)}
    slacks = {T: (f.right / f.left, f.accumulated / f.left) for T, f in found.items()}
    products, accumulated = zip(*slacks.values(), strict=True)
    assert products == pytest.approx((16.4, 55.4, 1.48e4, 5.26e7, 5.96e11), rel=0.01)
    assert accumulated == pytest.approx((1, 2.37, 4.16, 9.75, 12.0), rel=0.01)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("noisy", [False, True])
def test_the_recursion_of_the_proof_gives_the_difference(policy, architecture, noisy):
    chosen = policy(architecture)
    noise = gumbel_noise(chosen, 5, torch.Generator().manual_seed(2)) if noisy else None
    given = Relaxed(chosen, PROMPT, 5, reward, 0.7, noise)
    caches, soft, full = state_costates(given, detached=False)
    *_, attention = state_costates(given, detached=True)
    found = difference_by_recursion(given, caches, soft)
    torch.testing.assert_close(found, attention[0] - full[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_the_paper_s_theorem_one_fails_at_one_step(enumeration, policy, architecture):
    """Every pair of tokens as a GRPO group, reward 1 for one token: mean costate ψ ∇V, not ∇V."""
    (prompt, *_), (p, *_), _, scores = enumeration(architecture)
    rewards = torch.zeros_like(p)
    rewards[p.argsort(descending=True)[1]] = 1
    gradient = (p * rewards) @ scores["final"][0]
    pairs = torch.cartesian_prod(rewards, rewards)
    chance = torch.cartesian_prod(p, p).prod(1)
    by_first = (chance * advantages(pairs, "grpo")[:, 0]).view(len(p), -1).sum(1)
    left = float((by_first @ scores["final"][0] - gradient).norm())
    # k = 1 of G = 2 alone has a spread, √½: ψ = 2 · 1/4 / (√½ + ξ) at every p.
    psi = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert left == pytest.approx((1 - psi) * float(gradient.norm()), rel=1e-9)
    assert left > 0.29 * float(gradient.norm()) > 0
    found = theorem_one(policy(architecture), prompt, 1, lambda soft: soft[0] @ rewards)
    assert found.right == found.accumulated == 0
    bptt = relaxed_costates(policy(architecture), prompt, 1, lambda soft: soft[0] @ rewards).bptt
    torch.testing.assert_close(bptt[0], gradient, rtol=1e-9, atol=1e-12)


def test_one_step_has_nothing_to_transport(policy):
    found = theorem_one(policy("olmo2"), PROMPT, 1, reward)
    assert (found.left, found.right, found.gaps) == (0.0, 0.0, ())
    assert (found.accumulated, found.accumulated_sharp, found.withheld) == (0.0, 0.0, ())
    assert not found.difference.any()


def test_two_steps_leave_the_token_path_of_one(policy):
    """With T = 2 there is one ε and no ‖A‖, and at ``"final"`` the difference is BPTT's own."""
    chosen = policy("llama")
    found = theorem_one(chosen, PROMPT, 2, reward)
    assert (len(found.gaps), found.attention_norms) == (1, ())
    assert found.right == pytest.approx(found.gaps[0], rel=1e-12)
    costates = relaxed_costates(chosen, PROMPT, 2, reward)
    difference = (costates.bptt - costates.attention_only)[0].norm().item()
    assert found.left == pytest.approx(difference, rel=1e-9)
    assert found.accumulated == pytest.approx(difference, rel=1e-9)
    # The paper's form leaves out the token's own keys and values, so it may be smaller.
    assert 0 < found.paper_right < found.right


def test_draws_below_one_are_refused(policy):
    with pytest.raises(UserError, match="draws"):
        theorem_one(policy("olmo2"), PROMPT, 2, reward, draws=0)
