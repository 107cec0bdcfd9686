"""Both sides of Theorem 1 against the recursion of its proof with dense Jacobians of a step."""

import pytest
import torch
from tests.conftest import ARCHITECTURES
from tests.credit.test_relaxed import LENGTH, PROMPT, reward

from valuegrad.credit.relaxed import relaxed_costates
from valuegrad.credit.theorem_one import theorem_one
from valuegrad.errors import UserError
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
    right, product = 0.0, 1.0
    for (a, s), after in zip(steps, costates[1:], strict=True):
        right += product * float(torch.linalg.matrix_norm(s, 2) * after.norm())
        product *= float(torch.linalg.matrix_norm(a, 2))
    return float((open_ - full).norm()), right


@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_theorem_one_equals_dense_jacobians_over_the_state(policy, architecture):
    chosen = policy(architecture)
    found = theorem_one(chosen, PROMPT, LENGTH, reward)
    left, right = dense_sides(chosen)
    assert found.left == pytest.approx(left, rel=1e-9)
    assert found.right == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_theorem_one_holds(policy, architecture):
    chosen = policy(architecture)
    for temperature, draws in ((1.0, 1), (0.5, 3)):
        found = theorem_one(
            chosen, PROMPT, LENGTH, reward, temperature=temperature, draws=draws, seed=4
        )
        assert 0 < found.left <= found.right


def test_one_step_has_nothing_to_transport(policy):
    found = theorem_one(policy("olmo2"), PROMPT, 1, reward)
    assert (found.left, found.right, found.gaps) == (0.0, 0.0, ())


def test_two_steps_leave_the_token_path_of_one(policy):
    """With T = 2 there is one ε and no ‖A‖, and at ``"final"`` the difference is BPTT's own."""
    chosen = policy("llama")
    found = theorem_one(chosen, PROMPT, 2, reward)
    assert (len(found.gaps), found.attention_norms) == (1, ())
    assert found.right == pytest.approx(found.gaps[0], rel=1e-12)
    costates = relaxed_costates(chosen, PROMPT, 2, reward)
    difference = (costates.bptt - costates.attention_only)[0].norm().item()
    assert found.left == pytest.approx(difference, rel=1e-9)
    # The paper's form leaves out the token's own keys and values, so it may be smaller.
    assert 0 < found.paper_right < found.right


def test_draws_below_one_are_refused(policy):
    with pytest.raises(UserError, match="draws"):
        theorem_one(policy("olmo2"), PROMPT, 2, reward, draws=0)
