"""Hidden states at sites: reading them, and cutting the graph there.

Sites are theory's: ``"embedding"`` (input of block 0), ``0 … L−1`` (residual stream after that
block), ``"final"`` (what the output head reads).

B sequences · S tokens · D width
"""

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
    """A site as the policy knows it, numbers given as text included; any other is refused."""
    text = str(site)
    known = int(text) if text.isdigit() else text
    if known not in policy.sites:
        listed = ", ".join(map(str, policy.sites))
        raise UserError("site", repr(site), f"one of {listed}", "choose one of those")
    return known


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
def recorded(policy: Policy, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
    """While open, keep the states (B, S, D) at sites below ``"final"`` of the next forward pass.

    Parameters require no gradients meanwhile and the input of block 0 is a leaf that does, so that
    a backward pass through the graph forms no parameter gradient.
    """
    states: dict[Site, Tensor] = {}

    def leaf(state: Tensor) -> Tensor:
        states["embedding"] = state.detach().requires_grad_()
        return states["embedding"]

    def keep(site: Site) -> Callable[[Tensor], Tensor]:
        def kept(state: Tensor) -> Tensor:
            states[site] = state
            return state

        return kept

    handles = [_hook(policy, "embedding", leaf)]
    handles += [_hook(policy, s, keep(s)) for s in sites if s not in ("embedding", "final")]
    try:
        with without_parameter_gradients(policy.model), torch.enable_grad():
            yield states
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def shared_leaf(policy: Policy, site: Site, position: int) -> Iterator[list[Tensor]]:
    """While open, the state (D,) at one position is one leaf for all rows of a forward pass.

    The rows must share the tokens up to that position. The forward pass puts the leaf into the list
    that this yields; at ``"final"`` nothing is cut.
    """
    leaves: list[Tensor] = []

    def cut(state: Tensor) -> Tensor:
        leaves.append(state[0, position].detach().requires_grad_())
        moved = state.detach().clone()
        moved[:, position] = leaves[0]
        return moved

    with (
        without_parameter_gradients(policy.model),
        torch.enable_grad(),
        _changed(policy, site, cut),
    ):
        yield leaves


@contextmanager
def shifted(
    policy: Policy, site: Site, position: int, shift: Float[Tensor, " D"]
) -> Iterator[None]:
    """While open, add a vector to the state at one position of every row.

    At ``"final"`` nothing is added, for the caller has that state in hand.
    """

    def add(state: Tensor) -> Tensor:
        moved = state.clone()
        moved[:, position] = moved[:, position] + shift
        return moved

    with _changed(policy, site, add):
        yield


def site_to_final(
    policy: Policy, prompts: Sequence[Sequence[int]], site: Site
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
    """The graph from a site to ``"final"`` at the last token of prompts of one length.

    Returns the state at the site, a leaf, and the final state made from it. Earlier positions come
    from the cache, for a change at the last one cannot reach them: a backward pass costs one token
    a prompt.
    """
    ids = torch.tensor(prompts, device=policy.device)
    base, cache = policy.model.base_model, DynamicCache(config=policy.model.config)
    leaves: list[Tensor] = []

    def cut(state: Tensor) -> Tensor:
        leaves.append(state[:, -1].detach().requires_grad_())
        return leaves[0][:, None]

    if ids.shape[1] > 1:
        with torch.no_grad():
            base(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
    with torch.enable_grad(), _changed(policy, site, cut):
        output = base(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
        return leaves[0], output.last_hidden_state[:, -1]


@contextmanager
def _changed(policy: Policy, site: Site, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    handle = None if site == "final" else _hook(policy, site, change)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _hook(policy: Policy, site: Site, change: Callable[[Tensor], Tensor]) -> Any:
    """Replace the states at a site below ``"final"`` until the handle is removed."""

    def at_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    def at_output(module: nn.Module, args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    if site == "embedding":
        return policy.blocks[0].register_forward_pre_hook(at_input)
    return policy.blocks[int(site)].register_forward_hook(at_output)
