"""Empirical costates: three routes agree, the split, and what must not change them."""

import math

import pytest
import torch
from tests import oracles
from tests.conftest import ARCHITECTURES, SITES
from torch.nn.attention import SDPBackend, sdpa_kernel

from valuegrad.credit import costates as costates_module
from valuegrad.credit.completions import completions
from valuegrad.credit.costates import costates, costates_at
from valuegrad.errors import UserError

SEQUENCES = ([5, 9, 33, 7, 41, 260], [3, 8, 17, 200], [90, 5, 6, 7, 8, 9, 10, 11, 12], [4, 5])
PROMPTS = (2, 3, 4, 1)
ADVANTAGES = torch.linspace(-1.5, 2.0, 20, dtype=torch.float64).view(4, 5)


def objective(model, row, site=None, position=None, shift=None, first=0):
    """Σ_{k≥first} Â_k log π(o_k|s_k) of one sequence, with one hidden vector moved."""
    tokens, start = SEQUENCES[row], PROMPTS[row]
    shifts = {} if site is None else {site: shift}
    with oracles.shifted(model, shifts, position):
        log_p = model(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(1)
    steps = range(first, len(tokens) - start)
    return sum(ADVANTAGES[row, k] * log_p[start - 1 + k, tokens[start + k]] for k in steps)


@pytest.fixture(scope="module")
def found(policy):
    def build(architecture):
        chosen = policy(architecture)
        batch = completions(chosen, SEQUENCES, PROMPTS, ADVANTAGES)
        return costates_at(chosen, batch, SITES)

    return build


def positions():
    return [(row, t) for row in range(4) for t in range(len(SEQUENCES[row]) - PROMPTS[row])]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_total_equals_autograd_forward_mode_and_central_differences(policy, found, architecture):
    model, width = policy(architecture).model, 16
    generator = torch.Generator().manual_seed(2)
    for site, result in found(architecture).items():
        for row, t in positions():
            position = PROMPTS[row] - 1 + t

            def moved(shift, row=row, site=site, position=position):
                return objective(model, row, site, position, shift)

            zero = torch.zeros(width, dtype=torch.float64, requires_grad=True)
            (gradient,) = torch.autograd.grad(moved(zero), zero)
            assert (result.total[row, t] - gradient).norm() <= 1e-10 * gradient.norm()
            if row != 0:
                continue
            direction = torch.randn(width, dtype=torch.float64, generator=generator)
            expected = float(result.total[row, t] @ direction)
            with sdpa_kernel(SDPBackend.MATH):
                _, forward = torch.func.jvp(moved, (zero.detach(),), (direction,))
            with torch.no_grad():
                near = moved(1e-4 * direction) - moved(-1e-4 * direction)
                far = moved(2e-4 * direction) - moved(-2e-4 * direction)
            scale = float(gradient.norm() * direction.norm())
            assert forward.item() == pytest.approx(expected, abs=1e-6 * scale)
            central = float(8 * near - far) / 12e-4
            assert central == pytest.approx(expected, abs=1e-6 * scale)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_immediate_is_the_gradient_of_the_own_term_and_transported_of_the_later(
    policy, found, architecture
):
    model = policy(architecture).model
    for site, result in found(architecture).items():
        for row, t in positions():
            shift = torch.zeros(16, dtype=torch.float64, requires_grad=True)
            position = PROMPTS[row] - 1 + t
            whole = objective(model, row, site, position, shift)
            later = objective(model, row, site, position, shift, first=t + 1)
            (own,) = torch.autograd.grad(whole - later, shift, retain_graph=True)
            # Nothing comes after the last token, and no block reads other positions after site 1.
            if t + 1 < len(SEQUENCES[row]) - PROMPTS[row] and site in ("embedding", 0):
                (rest,) = torch.autograd.grad(later, shift)
                assert rest.norm() > 1e-5 * own.norm()
            else:
                rest = torch.zeros(16, dtype=torch.float64)
            scale = own.norm() + rest.norm()
            assert (result.immediate[row, t] - own).norm() <= 1e-10 * scale
            assert (result.transported[row, t] - rest).norm() <= 1e-10 * scale


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_final_is_its_closed_form(policy, found, architecture):
    chosen, result = policy(architecture), found(architecture)["final"]
    for row, t in positions():
        seen = SEQUENCES[row][: PROMPTS[row] + t]
        p = oracles.distribution(chosen.model, seen)
        action = SEQUENCES[row][PROMPTS[row] + t]
        onehot = torch.zeros_like(p)
        onehot[action] = 1
        expected = ADVANTAGES[row, t] * (onehot - p) @ chosen.head
        assert (result.total[row, t] - expected).norm() <= 1e-10 * expected.norm()
        assert float(result.logp[row, t]) == pytest.approx(float(p[action].log()), abs=1e-10)
        assert float(result.transport_share[row, t]) == 0


def padded(side):
    width = max(map(len, SEQUENCES))
    ids = torch.full((4, width), 7)
    mask = torch.zeros(4, width, dtype=torch.long)
    for i, tokens in enumerate(SEQUENCES):
        at = slice(width - len(tokens), width) if side == "left" else slice(0, len(tokens))
        ids[i, at], mask[i, at] = torch.tensor(tokens), 1
    return ids, mask


@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_padding_batching_and_order_change_nothing(policy, found, architecture, monkeypatch):
    chosen, expected = policy(architecture), found(architecture)
    monkeypatch.setattr(costates_module, "HEAD_ELEMENTS", 600)
    for site in (0, "final"):
        for side in ("left", "right"):
            ids, mask = padded(side)
            result = costates(chosen, ids, PROMPTS, ADVANTAGES, site, attention_mask=mask)
            same(result, expected[site])
        result = costates(chosen, SEQUENCES, PROMPTS, ADVANTAGES, site, batch_tokens=1)
        same(result, expected[site])
        backwards = costates(chosen, SEQUENCES[::-1], PROMPTS[::-1], ADVANTAGES.flip(0), site)
        assert torch.allclose(backwards.total.flip(0), expected[site].total, rtol=0, atol=1e-12)


def same(result, expected):
    assert torch.allclose(result.total, expected.total, rtol=0, atol=1e-12)
    assert torch.allclose(result.immediate, expected.immediate, rtol=0, atol=1e-12)
    assert torch.equal(result.mask, expected.mask)


def test_one_advantage_a_sequence_stands_for_all_its_tokens(policy):
    chosen = policy("llama")
    one = costates(chosen, SEQUENCES, PROMPTS, [1.0, 2.0, -0.5, 0.0], 1)
    each = torch.tensor([1.0, 2.0, -0.5, 0.0], dtype=torch.float64)[:, None].expand(4, 5)
    assert torch.equal(one.total, costates(chosen, SEQUENCES, PROMPTS, each, 1).total)
    assert not one.total[3].any()
    assert math.isnan(float(one.transport_share[3, 0]))


def test_parameters_and_attention_are_left_as_they_were(policy):
    chosen = policy("olmo2", "float32")
    before = chosen.model.config._attn_implementation
    costates(chosen, SEQUENCES, PROMPTS, [1.0] * 4, 0)
    assert chosen.model.config._attn_implementation == before
    assert all(p.requires_grad and p.grad is None for p in chosen.model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": 2}, "site: got 2; wanted one of embedding, 0, 1, final"),
        ({"sequences": [[1] * 49]}, r"sequences\[0\].*49 tokens.*at most 48"),
        ({"sequences": []}, "sequences.*none"),
        ({"sequences": [[1, 2, 400]]}, "token 400"),
        ({"prompt_lengths": 3}, r"prompt_lengths\[0\].*3 of 3 tokens.*1 to 2"),
        ({"prompt_lengths": 0}, r"prompt_lengths\[0\].*0 of 3"),
        ({"prompt_lengths": [1, 1]}, "prompt_lengths.*2 of them"),
        ({"advantages": [1.0, 2.0]}, r"advantages.*shape \(2,\)"),
        ({"advantages": [math.nan]}, "advantages.*not finite in row 0"),
        ({"attention_mask": torch.ones(1, 3)}, "attention_mask.*given with lists"),
    ],
)
def test_bad_input(policy, unchecked, change, message):
    given = {"sequences": [[1, 2, 3]], "prompt_lengths": 1, "advantages": [1.0], "site": 0}
    with pytest.raises(UserError, match=message):
        costates(policy("olmo2"), **(given | change))
