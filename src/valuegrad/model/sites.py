"""Hidden states at sites: reading them, changing them, and cutting the graph there.

B sequences · S tokens · D width
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
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
    """While open, keep the states (B, S, D) at sites of the next forward pass.

    Parameters require no gradients meanwhile and the input of block 0 is a leaf that does, so that
    a backward pass through the graph forms no parameter gradient.
    """
    states: dict[Site, Tensor] = {}

    def keep(site: Site, state: Tensor) -> Tensor:
        states[site] = state.detach().requires_grad_() if site == "embedding" else state
        return states[site]

    with ExitStack() as stack:
        for site in {"embedding", *sites}:
            stack.enter_context(_changed(policy, site, partial(keep, site)))
        stack.enter_context(without_parameter_gradients(policy.model))
        stack.enter_context(torch.enable_grad())
        yield states


@contextmanager
def shared_leaf(policy: Policy, site: Site, position: int) -> Iterator[list[Tensor]]:
    """While open, the state (D,) at one position is one leaf for all rows of a forward pass.

    The rows must share the tokens up to that position. The forward pass puts the leaf into the list
    that this yields.
    """
    leaves: list[Tensor] = []

    def cut(state: Tensor) -> Tensor:
        leaves.append(state[0, position].detach().requires_grad_())
        moved = state.detach().clone()
        moved[:, position] = leaves[0]
        return moved

    no_parameters = without_parameter_gradients(policy.model)
    with no_parameters, torch.enable_grad(), _changed(policy, site, cut):
        yield leaves


@contextmanager
def shifted(
    policy: Policy, site: Site, position: int, shift: Float[Tensor, "*B D"]
) -> Iterator[None]:
    """While open, add a vector to the state at one position of every row, or one to each row's."""

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
    """While open, replace the states at a site."""

    def at_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    def at_output(module: nn.Module, args: Any, output: Any) -> Any:
        if site == "final":
            output.last_hidden_state = change(output.last_hidden_state)
            return output
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    if site == "embedding":
        handle = policy.blocks[0].register_forward_pre_hook(at_input)
    else:
        module = policy.model.base_model if site == "final" else policy.blocks[int(site)]
        handle = module.register_forward_hook(at_output)
    try:
        yield
    finally:
        handle.remove()
