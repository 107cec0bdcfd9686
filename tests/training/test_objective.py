"""Eq. 1 against TRL's own loss, and what must hold for every input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from valuegrad.errors import UserError
from valuegrad.training.objective import grpo_objective

LENGTHS = (7, 1, 4, 7, 2, 5)
MASK = torch.tensor([[1] * n + [0] * (7 - n) for n in LENGTHS])
EVERY = settings(max_examples=60, deadline=None, derandomize=True)


def drawn(seed, spread, dtype=torch.float64):
    """Log-probabilities now, then and of a reference, `spread` nats apart, and advantages."""
    generator = torch.Generator().manual_seed(seed)
    shape = MASK.shape
    logp = -3 * torch.rand(shape, generator=generator, dtype=dtype) - 0.1
    old = logp + spread * torch.randn(shape, generator=generator, dtype=dtype)
    reference = logp + 0.5 * torch.randn(shape, generator=generator, dtype=dtype)
    return logp, old, reference, torch.randn(shape[0], generator=generator, dtype=dtype)


def trl_objective(trainer, monkeypatch, logp, old, reference, advantages, clip, beta):
    """Minus the loss of TRL's own `_compute_loss` at given log-probabilities."""
    monkeypatch.setattr(trainer, "beta", beta)
    monkeypatch.setattr(trainer, "epsilon_low", clip)
    monkeypatch.setattr(trainer, "epsilon_high", clip)
    # Eq. 1 has the plain penalty; TRL can also weight it by the ratio.
    monkeypatch.setattr(trainer.args, "use_bias_correction_kl", False)
    monkeypatch.setattr(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda *_, **__: (logp, torch.zeros_like(logp), None),
    )
    inputs = {
        "prompt_ids": torch.ones(len(logp), 2, dtype=torch.long),
        "prompt_mask": torch.ones(len(logp), 2, dtype=torch.long),
        "completion_ids": torch.ones(logp.shape, dtype=torch.long),
        "completion_mask": MASK,
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
    }
    assert trainer.loss_type == "grpo"
    return -trainer._compute_loss(trainer.model, inputs)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.04, 2.0])
@pytest.mark.parametrize(("clip", "spread"), [(0.2, 0.0), (0.2, 0.1), (0.2, 2.0), (0.05, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_equal_trl(
    trl_trainer, monkeypatch, dtype, clip, spread, beta, per_token
):
    logp, old, reference, advantages = drawn(5, spread, dtype)
    if per_token:
        advantages = advantages[:, None] * torch.linspace(-1, 2, 7, dtype=dtype)
    ratio = (logp - old).exp()[MASK.bool()]
    clipped = ((ratio < 1 - clip) | (ratio > 1 + clip)).double().mean()
    assert clipped > 0.5 if spread >= 1 else clipped < 0.5
    results = []
    for objective in (
        lambda x: grpo_objective(x, old, reference, advantages, MASK, clip, beta),
        lambda x: trl_objective(
            trl_trainer, monkeypatch, x, old, reference, advantages, clip, beta
        ),
    ):
        leaf = logp.clone().requires_grad_()
        value = objective(leaf)
        results.append((value, torch.autograd.grad(value, leaf)[0]))
    (ours, our_gradient), (theirs, their_gradient) = results
    assert our_gradient.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_equals_loops(beta):
    logp, old, reference, advantages = drawn(8, 0.6)
    total = 0.0
    for i, length in enumerate(LENGTHS):
        inner = 0.0
        for t in range(length):
            A, ratio = float(advantages[i]), math.exp(logp[i, t] - old[i, t])
            gap = float(reference[i, t] - logp[i, t])
            inner += min(ratio * A, min(max(ratio, 0.8), 1.2) * A)
            inner -= beta * (math.exp(gap) - gap - 1)
        total += inner / length / len(LENGTHS)
    found = grpo_objective(logp, old, reference, advantages, MASK, 0.2, beta)
    assert float(found) == pytest.approx(total, rel=1e-12)


@EVERY
@given(seed=st.integers(0, 10**6), junk=st.sampled_from([0.0, 50.0, math.inf, -math.inf, math.nan]))
def test_padding_never_matters(seed, junk):
    logp, old, reference, advantages = drawn(seed, 0.5)
    padding = MASK == 0
    results = []
    for content in (-1.0, junk):
        leaf = logp.masked_fill(padding, content).requires_grad_()
        value = grpo_objective(
            leaf,
            old.masked_fill(padding, -content),
            reference.masked_fill(padding, 2 * content),
            advantages,
            MASK,
            0.2,
            0.1,
        )
        results.append((value, torch.autograd.grad(value, leaf)[0]))
    (value, gradient), (other, other_gradient) = results
    assert torch.equal(value, other)
    assert (gradient[padding] == 0).all()
    torch.testing.assert_close(gradient, other_gradient, rtol=0, atol=0)


@EVERY
@given(seed=st.integers(0, 10**6))
def test_without_a_step_taken_it_is_the_mean_advantage(seed):
    logp, _, _, advantages = drawn(seed, 0.0)
    leaf = logp.clone().requires_grad_()
    value = grpo_objective(leaf, logp, logp, advantages, MASK, 0.2, 0.7)
    torch.testing.assert_close(value.detach(), advantages.mean())
    # Its gradient is the policy gradient's: Â/(N T_i) on every token.
    (gradient,) = torch.autograd.grad(value, leaf)
    lengths = MASK.sum(1, keepdim=True)
    torch.testing.assert_close(gradient, advantages[:, None] * MASK / lengths / len(LENGTHS))


@EVERY
@given(seed=st.integers(0, 10**6), clip=st.floats(0.01, 0.9))
def test_clipping_and_penalty_only_lower_it(seed, clip):
    logp, old, reference, advantages = drawn(seed, 1.0)
    free = grpo_objective(logp, old, None, advantages, MASK, 1e9)
    clipped = grpo_objective(logp, old, None, advantages, MASK, clip)
    assert clipped <= free + 1e-12
    assert grpo_objective(logp, old, reference, advantages, MASK, clip, 0.5) < clipped


@EVERY
@given(seed=st.integers(0, 10**6))
def test_tokens_clipped_away_have_no_gradient(seed):
    logp, old, _, advantages = drawn(seed, 1.5)
    leaf = logp.clone().requires_grad_()
    value = grpo_objective(leaf, old, None, advantages, MASK, 0.2)
    (gradient,) = torch.autograd.grad(value, leaf)
    ratio, up = (logp - old).exp(), advantages[:, None] > 0
    gone = torch.where(up, ratio > 1.2, ratio < 0.8)
    assert (gradient[gone] == 0).all()
    assert (gradient[~gone & MASK.bool()] != 0).all()


def test_no_gradient_through_what_is_constant():
    logp, *constants = (x.requires_grad_() for x in drawn(2, 0.3))
    value = grpo_objective(logp, *constants, MASK, 0.2, 0.1)
    assert torch.autograd.grad(value, constants, allow_unused=True) == (None, None, None)


def test_a_given_kl_replaces_the_estimate_and_carries_its_gradient():
    logp, old, _, advantages = drawn(4, 0.1)
    kl = torch.rand(MASK.shape, dtype=torch.float64).requires_grad_()
    value = grpo_objective(logp, old, None, advantages, MASK, 0.2, 0.3, kl=kl)
    expected = MASK.double() / MASK.sum(1, keepdim=True) / len(LENGTHS)
    plain = grpo_objective(logp, old, None, advantages, MASK, 0.2)
    torch.testing.assert_close(value, plain - 0.3 * (kl * expected).sum())
    torch.testing.assert_close(torch.autograd.grad(value, kl)[0], -0.3 * expected)


@pytest.mark.parametrize("numbers", [torch.int64, torch.float32])
def test_a_completion_without_tokens_counts_as_zero(numbers):
    logp, old, reference, advantages = drawn(6, 0.3)
    mask = MASK.to(numbers).clone()
    mask[2] = 0
    kept = [0, 1, 3, 4, 5]
    rest = (logp[kept], old[kept], reference[kept], advantages[kept], mask[kept], 0.2, 0.1)
    found = grpo_objective(logp, old, reference, advantages, mask, 0.2, 0.1)
    torch.testing.assert_close(found, grpo_objective(*rest) * 5 / 6)


@pytest.mark.parametrize(
    ("clip", "beta", "message"),
    [
        (0.0, 0.0, r"clip, beta: got clip=0.0, beta=0.0; wanted clip above 0"),
        (0.2, -0.1, r"clip, beta: got clip=0.2, beta=-0.1"),
        (math.nan, 0.0, r"clip, beta: got clip=nan"),
        (0.2, math.nan, r"beta=nan"),
        (0.2, 0.1, r"logp_ref: got None; wanted the reference's when beta > 0"),
    ],
)
def test_refuses(clip, beta, message):
    logp, old, _, advantages = drawn(1, 0.1)
    with pytest.raises(UserError, match=message):
        grpo_objective(logp, old, None, advantages, MASK, clip, beta)
