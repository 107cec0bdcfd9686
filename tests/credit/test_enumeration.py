"""Value gradients of completions: every one enumerated, by three routes, and sampled."""

import itertools

import pytest
import torch
from tests import oracles
from tests.conftest import ARCHITECTURES, SITES
from torch.nn.attention import SDPBackend, sdpa_kernel

from valuegrad.credit.costates import costates
from valuegrad.credit.enumeration import (
    enumerate_completions,
    enumerated_value_gradient,
    sampled_value_gradient,
)
from valuegrad.credit.scores import scored
from valuegrad.errors import UserError

VOCABULARY, LENGTH, PROMPT = 6, 3, [3, 1, 4]
CASES = [(architecture, site) for architecture in ARCHITECTURES for site in SITES]


def reward_table():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(VOCABULARY**LENGTH, generator=generator, dtype=torch.float64)


def at_step(t):
    """The state before token t, what is still to come, and the rewards of that."""
    seen = [2, 5][: t - 1]
    rewards = reward_table().view(VOCABULARY, VOCABULARY, VOCABULARY)[tuple(seen)].flatten()
    return PROMPT + seen, LENGTH - t + 1, rewards


def value(model, prefix, length, rewards, site, shift):
    """V(h + shift), the sum over all completions written out."""
    every = list(itertools.product(range(VOCABULARY), repeat=length))
    ids = torch.tensor([[*prefix, *completion] for completion in every])
    with oracles.shifted(model, {site: shift}, len(prefix) - 1):
        log_p = model(ids, use_cache=False).logits.log_softmax(2)
    logp = 0.0
    for i in range(len(prefix) - 1, len(prefix) - 1 + length):
        logp = logp + log_p[:, i].gather(1, ids[:, i + 1, None])[:, 0]
    return (logp.exp() * rewards).sum()


@pytest.mark.parametrize("t", [1, 2, 3])
@pytest.mark.parametrize(("architecture", "site"), CASES)
def test_enumeration_equals_the_mean_costate_and_differences(tiny_policy, architecture, site, t):
    policy = tiny_policy(architecture)
    prefix, length, rewards = at_step(t)
    found = enumerate_completions(policy, prefix, length, site)
    p = found.probability.detach()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    enumerated = enumerated_value_gradient(found, rewards)
    # Identity B: the mean of R times the score is G, and so is σ times the mean costate.
    sequences = [prefix + completion for completion in found.tokens.tolist()]
    mean = (p * rewards).sum()
    sigma = (p * (rewards - mean).square()).sum().sqrt()
    for signal, scale in ((rewards, 1.0), ((rewards - mean) / sigma, sigma)):
        credit = costates(policy, sequences, len(prefix), signal, site)
        expected = scale * (p[:, None] * credit.total[:, 0]).sum(0)
        assert (enumerated - expected).norm() <= 1e-10 * enumerated.norm()
    if t == 1 and architecture in ("olmo2", "gpt2"):
        # A third route that shares no code, by forward mode and by differences.
        direction = torch.randn(16, generator=torch.Generator().manual_seed(1)).double()

        def moved(shift):
            return value(policy.model, prefix, length, rewards, site, shift)

        along, scale = float(enumerated @ direction), float(enumerated.norm() * direction.norm())
        with sdpa_kernel(SDPBackend.MATH):
            _, forward = torch.func.jvp(moved, (torch.zeros_like(direction),), (direction,))
        assert forward.item() == pytest.approx(along, abs=1e-10 * scale)
        with torch.no_grad():
            near = moved(1e-4 * direction) - moved(-1e-4 * direction)
            far = moved(2e-4 * direction) - moved(-2e-4 * direction)
        assert float(8 * near - far) / 12e-4 == pytest.approx(along, abs=1e-6 * scale)


def test_the_sampled_gradient_is_unbiased(tiny_policy):
    policy, rewards = tiny_policy("llama"), reward_table()
    found = enumerate_completions(policy, PROMPT, LENGTH, 0)
    sequences = [PROMPT + completion for completion in found.tokens.tolist()]
    scores = scored(policy, sequences, len(PROMPT), 0).total[:, 0]
    p = found.probability.detach()
    which = torch.multinomial(
        p, 32_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    estimates = torch.stack(
        [sampled_value_gradient(scores[w], rewards[w]) for w in which.view(4000, 8)]
    )
    gradient = enumerated_value_gradient(found, rewards)
    z = (estimates.mean(0) - gradient) / (estimates.std(0) / 4000**0.5)
    assert float(z.abs().max()) < 4


def test_equal_rewards_give_zero():
    s = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert not sampled_value_gradient(s, torch.ones(8)).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: sampled_value_gradient(torch.ones(1, 2), torch.ones(1)), "1 rollouts"),
        (lambda p: enumerate_completions(p, [], 1), "prefix.*no tokens"),
        (lambda p: enumerate_completions(p, [1], 9), "length.*9 at a vocabulary of 6"),
        (lambda p: enumerate_completions(p, [1] * 47, 3), "prefix.*47 tokens and 3"),
        (lambda p: enumerate_completions(p, [1], 1, "top"), "site.*'top'.*embedding, 0, 1, final"),
    ],
)
def test_bad_input(tiny_policy, unchecked, call, message):
    with pytest.raises(UserError, match=message):
        call(tiny_policy("llama"))
