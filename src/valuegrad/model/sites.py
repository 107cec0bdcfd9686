"""Hidden states at sites: reading them, and cutting the graph there.

Sites are theory's: ``"embedding"`` (input of block 0), ``0 … L−1`` (residual stream after that
block), ``"final"`` (what the output head reads).

B sequences · S tokens · D width
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache

from valuegrad.errors import UserError
from valuegrad.model.policy import Policy, Site


def check_site(policy: Policy, site: Site) -> Site:
    """A site as the policy knows it, numbers given as text included.

    Args:
        policy: the policy.
        site: what the user asked for.

    Returns:
        The site.

    Raises:
        UserError: the policy has no such site; the message lists those it has.
    """
    text = str(site)
    known = int(text) if text.isdigit() else text
    if known not in policy.sites:
        listed = ", ".join(map(str, policy.sites))
        raise UserError("site", repr(site), f"one of {listed}", "choose one of those")
    return known


@contextmanager
def recorded(policy: Policy, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
    """While open, keep the hidden states at sites below ``"final"`` of the next forward pass.

    The parameters require no gradients meanwhile and the input of block 0 is made a leaf that does,
    so a backward pass through the graph forms no parameter gradient.

    Args:
        policy: the policy.
        sites: which of its sites; ``"final"`` is what the forward pass returns.

    Yields:
        The states (B, S, D) by site, filled by the forward pass.
    """
    states: dict[Site, Tensor] = {}

    def at_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        leaf = args[0].detach().requires_grad_()
        states["embedding"] = leaf
        return (leaf, *args[1:])

    def after(site: Site) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            states[site] = output[0] if isinstance(output, tuple) else output

        return keep

    handles = [policy.blocks[0].register_forward_pre_hook(at_input)]
    handles += [
        policy.blocks[int(site)].register_forward_hook(after(site))
        for site in sites
        if site not in ("embedding", "final")
    ]
    try:
        with without_parameter_gradients(policy.model), torch.enable_grad():
            yield states
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def without_parameter_gradients(model: nn.Module) -> Iterator[None]:
    """While open, no parameter of a model requires gradients."""
    learning = [p for p in model.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_()


@contextmanager
def shared_leaf(policy: Policy, site: Site, position: int) -> Iterator[list[Tensor]]:
    """While open, the hidden vector at one position is one leaf for all rows of a forward pass.

    The rows must share the tokens up to that position, so that they share the vector.

    Args:
        policy: the policy.
        site: where; at ``"final"`` nothing is cut.
        position: of the token.

    Yields:
        A list that the forward pass puts the leaf (D,) into.
    """
    leaves: list[Tensor] = []

    def cut(state: Tensor) -> Tensor:
        leaves.append(state[0, position].detach().requires_grad_())
        moved = state.detach().clone()
        moved[:, position] = leaves[0]
        return moved

    with without_parameter_gradients(policy.model), torch.enable_grad():
        if site == "final":
            yield leaves
            return
        handle = _hook(policy, site, cut)
        try:
            yield leaves
        finally:
            handle.remove()


@contextmanager
def shifted(
    policy: Policy, site: Site, position: int, shift: Float[Tensor, " D"]
) -> Iterator[None]:
    """While open, add a vector to the hidden vector at one position of every row.

    Args:
        policy: the policy.
        site: where; at ``"final"`` nothing is added, the caller has that vector in hand.
        position: of the token.
        shift: what is added.
    """

    def add(state: Tensor) -> Tensor:
        moved = state.clone()
        moved[:, position] = moved[:, position] + shift
        return moved

    if site == "final":
        yield
        return
    handle = _hook(policy, site, add)
    try:
        yield
    finally:
        handle.remove()


def site_to_final(
    policy: Policy, prompts: Sequence[Sequence[int]], site: Site
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    """The graph from a site to ``"final"`` at the last token of prompts of one length.

    Only the last position is in the graph: the earlier ones, which a change at this one cannot
    reach, are read from the cache. A backward pass through it costs one token a prompt.

    Args:
        policy: the policy.
        prompts: token ids, all of one length.
        site: ``"embedding"`` or a block's number.

    Returns:
        The state at the site, a leaf that requires gradients, and the final state made from it.
    """
    ids = torch.tensor(prompts, device=policy.device)
    base, cache = policy.model.base_model, DynamicCache(config=policy.model.config)
    if ids.shape[1] > 1:
        with torch.no_grad():
            base(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
    with torch.enable_grad(), _leaf_at(policy, site) as leaves:
        output = base(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
        final = output.last_hidden_state[:, -1]
    return leaves[0], final


@contextmanager
def _leaf_at(policy: Policy, site: Site) -> Iterator[list[Tensor]]:
    leaves: list[Tensor] = []

    def cut(state: Tensor) -> Tensor:
        leaves.append(state[:, -1].detach().requires_grad_())
        return leaves[0][:, None]

    handle = _hook(policy, site, cut)
    try:
        yield leaves
    finally:
        handle.remove()


def _hook(policy: Policy, site: Site, change: Callable[[Tensor], Tensor]) -> Any:
    """Replace the hidden states at a site below ``"final"`` until the handle is removed."""

    def at_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    def at_output(module: nn.Module, args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    if site == "embedding":
        return policy.blocks[0].register_forward_pre_hook(at_input)
    return policy.blocks[int(site)].register_forward_hook(at_output)
