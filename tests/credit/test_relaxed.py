"""Relaxed rollouts against naive ones that read the whole sequence again at every step."""

import contextlib

import pytest
import torch
from tests import oracles
from tests.conftest import ARCHITECTURES, SITES

from valuegrad.credit.relaxed import gumbel_noise, relaxed_costates
from valuegrad.errors import UserError

PROMPT, LENGTH = [3, 1, 4], 3
STEP = 1e-4


def reward(soft):
    weight = torch.linspace(-1, 2, soft.numel(), dtype=soft.dtype).view(soft.shape)
    return (weight * soft).sum() + (soft[0] * soft[-1]).sum() ** 2


def rollout(policy, site, shift, *, tau=1.0, gumbel=None, frozen=None):
    """R by reading the whole sequence again at every step, with vectors added at the site.

    `frozen` are embeddings that the steps read in the place of their own soft tokens.
    """
    model = policy.model
    table = model.get_input_embeddings().weight.detach()[: policy.head.shape[0]]
    read, soft = table[torch.tensor(PROMPT)], []
    for t in range(LENGTH):
        with contextlib.ExitStack() as stack, torch.no_grad():
            for k in range(t + 1):
                at = len(PROMPT) - 1 + k
                stack.enter_context(oracles.shifted(model, {site: shift[k]}, at))
            final = model.base_model(inputs_embeds=read[None], use_cache=False).last_hidden_state
        z = final[0, -1] @ policy.head.detach().mT
        z = z if gumbel is None else z + gumbel[t]
        soft.append((z / tau).softmax(0))
        e = soft[-1] @ table if frozen is None else frozen[t]
        read = torch.cat((read, e[None]))
    return float(reward(torch.stack(soft))), read[len(PROMPT) :]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("site", SITES)
def test_both_costates_equal_central_differences(policy, architecture, site):
    chosen = policy(architecture)
    gumbel = gumbel_noise(chosen, LENGTH, torch.Generator().manual_seed(1))
    found = relaxed_costates(
        chosen, PROMPT, LENGTH, reward, site=site, temperature=0.8, gumbel=gumbel
    )
    zero = torch.zeros(LENGTH, 16, dtype=torch.float64)
    value, embeddings = rollout(chosen, site, zero, tau=0.8, gumbel=gumbel)
    assert found.reward == pytest.approx(value, rel=1e-12)
    for t in range(LENGTH):
        direction = torch.randn(16, dtype=torch.float64)
        for costates, frozen in ((found.bptt, None), (found.attention_only, embeddings)):
            moved = []
            for k in (-2, -1, 1, 2):
                shift = zero.clone()
                shift[t] = k * STEP * direction
                moved.append(rollout(chosen, site, shift, tau=0.8, gumbel=gumbel, frozen=frozen)[0])
            slope = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * STEP)
            assert float(costates[t] @ direction) == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_the_last_step_has_no_token_path(policy):
    found = relaxed_costates(policy("olmo2"), PROMPT, LENGTH, reward, site=0)
    torch.testing.assert_close(found.bptt[-1], found.attention_only[-1], rtol=1e-12, atol=0)
    assert (found.bptt[0] - found.attention_only[0]).norm() > 0.01 * found.bptt[0].norm()


def test_attention_alone_carries_nothing_at_final(policy):
    """Credit of later rewards reaches a final vector through its token only."""

    def last(soft):
        return soft[-1, 3]

    found = relaxed_costates(policy("gpt2"), PROMPT, LENGTH, last)
    assert not found.attention_only[:-1].any()
    assert found.bptt[:-1].norm(dim=1).min() > 0


def test_straight_through_reads_hard_tokens_and_differentiates_soft_ones(policy):
    chosen = policy("llama")
    gumbel = gumbel_noise(chosen, LENGTH, torch.Generator().manual_seed(3))
    found = relaxed_costates(
        chosen, PROMPT, LENGTH, reward, site=0, gumbel=gumbel, straight_through=True
    )
    torch.testing.assert_close(found.soft_tokens, found.soft_tokens.round(), rtol=0, atol=1e-12)
    tokens = found.soft_tokens.argmax(1).tolist()
    ids = torch.tensor([PROMPT + tokens[:-1]])
    with torch.no_grad():
        z = chosen.model(ids, use_cache=False).logits[0, len(PROMPT) - 1 :]
    assert (z + gumbel).argmax(1).tolist() == tokens
    assert found.bptt.norm(dim=1).min() > 0


def test_gumbel_noise_has_its_mean_and_variance(policy):
    noise = gumbel_noise(policy("olmo2"), 400, torch.Generator().manual_seed(0)).flatten()
    assert float(noise.mean()) == pytest.approx(0.57722, abs=0.02)
    assert float(noise.var()) == pytest.approx(torch.pi**2 / 6, rel=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"length": 0}, "length"),
        ({"length": 60}, "at most 49 together"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"site": 9}, "site"),
        ({"gumbel": torch.zeros(2, 2)}, "gumbel"),
        ({"reward": lambda y: y.sum() * float("nan")}, "nan"),
        ({"reward": lambda y: y[0]}, "of shape"),
        ({"reward": lambda y: 1.0}, "returning float"),
        ({"reward": lambda y: y.detach().sum()}, "without a gradient"),
    ],
)
def test_bad_input_is_named(policy, change, message):
    given = {"prompt": PROMPT, "length": LENGTH, "reward": reward} | change
    with pytest.raises(UserError, match=message):
        relaxed_costates(policy("olmo2"), **given)


def test_embeddings_that_are_scaled_when_read_are_refused(policy):
    chosen = policy("olmo2")
    layer = chosen.model.get_input_embeddings()
    handle = layer.register_forward_hook(lambda module, args, output: 2 * output)
    try:
        with pytest.raises(UserError, match="scales its embeddings"):
            relaxed_costates(chosen, PROMPT, LENGTH, reward)
    finally:
        handle.remove()
