"""Sites: states are read and moved where theory says, and the model is as before afterwards."""

import pytest
import torch
from tests import oracles
from tests.conftest import ARCHITECTURES, SITES

from valuegrad.errors import UserError
from valuegrad.model.batches import right_padded
from valuegrad.model.policy import logits
from valuegrad.model.sites import (
    check_site,
    recorded,
    shared_leaf,
    shifted,
    site_to_final,
    without_parameter_gradients,
)

PROMPT = [5, 9, 33, 7]


def hidden_states(policy, ids):
    """What a forward pass holds at every site, by transformers' own account."""
    output = policy.model(torch.tensor(ids), use_cache=False, output_hidden_states=True)
    # The last of them has passed the final norm.
    return dict(zip(("embedding", 0, "final"), output.hidden_states, strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recorded_states_are_the_models_own(policy, architecture):
    chosen = policy(architecture)
    with torch.no_grad():
        expected = hidden_states(chosen, [PROMPT])
    with recorded(chosen, SITES) as states:
        output = chosen.model.base_model(torch.tensor([PROMPT]), use_cache=False)
        assert not any(p.requires_grad for p in chosen.model.parameters())
    for site in ("embedding", 0):
        assert torch.equal(states[site], expected[site])
    assert torch.equal(output.last_hidden_state, expected["final"])
    assert torch.equal(states["final"], expected["final"])
    assert set(states) == set(SITES)
    # A graph from each of them, and none to a parameter.
    grads = torch.autograd.grad(output.last_hidden_state.sum(), list(states.values()))
    assert all(g.norm() > 0 for g in grads)
    assert all(p.requires_grad and p.grad is None for p in chosen.model.parameters())
    untouched = hidden_states(chosen, [PROMPT])["final"]
    assert torch.equal(untouched, expected["final"])


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_shift_moves_one_position_of_every_row(policy, architecture, site):
    chosen = policy(architecture)
    shift = torch.randn(16, generator=torch.Generator().manual_seed(1)).double()
    ids = right_padded(chosen, [PROMPT, PROMPT[::-1]])
    with torch.no_grad():
        before = chosen.model.base_model(ids, use_cache=False).last_hidden_state
        with shifted(chosen, site, 2, shift):
            inside = chosen.model.base_model(ids, use_cache=False).last_hidden_state
        with oracles.shifted(chosen.model, {site: shift}, 2):
            expected = chosen.model.base_model(ids, use_cache=False).last_hidden_state
        after = chosen.model.base_model(ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(inside, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(after, before)
    # Earlier positions see nothing of it.
    assert torch.equal(inside[:, :2], before[:, :2])
    assert not torch.equal(inside[:, 2:], before[:, 2:])


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ["olmo2", "gpt2"])
def test_rows_share_one_leaf(policy, architecture, site):
    """The gradient of the leaf is the sum over rows of what each alone has."""
    chosen, rows = policy(architecture), ([*PROMPT, 41], [*PROMPT, 200])
    ids = torch.tensor(rows)
    with shared_leaf(chosen, site, 3) as leaves:
        states = chosen.model.base_model(ids, use_cache=False).last_hidden_state
        (leaf,) = leaves
        (found,) = torch.autograd.grad(states.square().sum(), leaf)
    expected = torch.zeros(16, dtype=torch.float64)
    for row in rows:
        shift = torch.zeros(16, dtype=torch.float64, requires_grad=True)
        with oracles.shifted(chosen.model, {site: shift}, 3):
            alone = chosen.model.base_model(torch.tensor([row]), use_cache=False)
        expected += torch.autograd.grad(alone.last_hidden_state.square().sum(), shift)[0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("site", ["embedding", 0, 1])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("length", [1, 4])
def test_the_graph_from_a_site_to_final_costs_the_last_token_only(
    policy, architecture, site, length
):
    chosen = policy(architecture)
    rows = [PROMPT[:length], [17, 3, 8, 260][:length]]
    leaf, final = site_to_final(chosen, rows, site)
    with recorded(chosen, [site]) as states:
        whole = chosen.model.base_model(torch.tensor(rows), use_cache=False).last_hidden_state
    torch.testing.assert_close(leaf, states[site][:, -1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(final, whole[:, -1], rtol=1e-10, atol=1e-12)
    weight = torch.linspace(-1, 1, 16, dtype=torch.float64)
    (found,) = torch.autograd.grad(final @ weight, leaf, torch.ones(2).double())
    (expected,) = torch.autograd.grad((whole[:, -1] @ weight).sum(), states[site])
    torch.testing.assert_close(found, expected[:, -1], rtol=1e-9, atol=1e-12)


def test_hooks_are_gone_and_flags_are_back_after_a_failure(policy):
    chosen = policy("gpt2")
    chosen.blocks[0].requires_grad_(False)
    flags = [p.requires_grad for p in chosen.model.parameters()]
    hooks = dict(chosen.blocks[0]._forward_hooks), dict(chosen.blocks[0]._forward_pre_hooks)
    try:
        for opened in (
            lambda: recorded(chosen, SITES),
            lambda: shared_leaf(chosen, 0, 1),
            lambda: shifted(chosen, 0, 1, torch.ones(16).double()),
            lambda: without_parameter_gradients(chosen.model),
        ):
            with pytest.raises(KeyboardInterrupt), opened():
                raise KeyboardInterrupt
            assert [p.requires_grad for p in chosen.model.parameters()] == flags
            assert (chosen.blocks[0]._forward_hooks, chosen.blocks[0]._forward_pre_hooks) == hooks
    finally:
        chosen.blocks[0].requires_grad_(True)


def test_gradients_to_the_head_are_where_they_are_enabled(policy):
    chosen = policy("llama")
    states = torch.zeros(1, 16, dtype=torch.float64)
    assert logits(chosen, states).requires_grad
    with without_parameter_gradients(chosen.model):
        assert not logits(chosen, states).requires_grad


def test_site_names(policy):
    chosen = policy("gpt2")
    assert [check_site(chosen, site) for site in (*SITES, "0", "1")] == [*SITES, 0, 1]


@pytest.mark.parametrize("site", [2, -1, "norm", "2", ""])
def test_refuses_an_unknown_site(policy, site):
    with pytest.raises(UserError, match=r"site: got .*; wanted one of embedding, 0, 1, final"):
        check_site(policy("gpt2"), site)
