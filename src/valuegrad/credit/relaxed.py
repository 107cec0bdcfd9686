"""Relaxed rollouts: the policy reads its own soft tokens, so that a return differentiates (Def. 1).

    y_t = softmax((z_t + g_t)/τ),  e_t = Eᵀ y_t,  h_{t+1} = F(c_t, e_t)

with g Gumbel noise or zero. Backpropagation through time gives the costate λ_t; with the token path
detached what is left is the credit that attention carries.

T steps · D width · V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from valuegrad.errors import UserError, check_positive
from valuegrad.model.cache import advance_embedded, read
from valuegrad.model.policy import Policy, Site, logits
from valuegrad.model.sites import check_site, shifted, without_parameter_gradients

Reward = Callable[[Float[Tensor, "T V"]], Float[Tensor, ""]]


@dataclass(frozen=True, eq=False)
class RelaxedCostates:
    """Costates of one relaxed rollout; made by `relaxed_costates`.

    Attributes:
        bptt: λ_t = ∂R/∂h_t with every path open.
        attention_only: the same with the token path e_t detached.
        soft_tokens: y_t of each step, rows that sum to 1.
        reward: R.
    """

    bptt: Float[Tensor, "T D"]
    attention_only: Float[Tensor, "T D"]
    soft_tokens: Float[Tensor, "T V"]
    reward: float


@dataclass(frozen=True, eq=False)
class Relaxation:
    """How a step turns logits into a soft token.

    Attributes:
        temperature: τ, above 0.
        gumbel: g of each step; none for the policy's own softmax.
        straight_through: hard tokens forward, soft ones backward.
    """

    temperature: float = 1.0
    gumbel: Float[Tensor, "T V"] | None = None
    straight_through: bool = False

    def soft(self, z: Float[Tensor, " V"], step: int) -> Float[Tensor, " V"]:
        """y_t of the logits z_t."""
        noisy = z if self.gumbel is None else z + self.gumbel[step].to(z)
        y = (noisy / self.temperature).softmax(0)
        if not self.straight_through:
            return y
        hard = torch.zeros_like(y).index_fill(0, y.argmax()[None], 1.0)
        return y + (hard - y).detach()


def gumbel_noise(policy: Policy, length: int, generator: torch.Generator) -> Float[Tensor, "T V"]:
    """Standard Gumbel noise for a rollout, with which straight-through tokens are true samples.

    Args:
        policy: the policy.
        length: T.
        generator: on the CPU, so that every device draws the same.

    Returns:
        g of each step, in the policy's dtype and on its device.
    """
    uniform = torch.rand(length, policy.head.shape[0], generator=generator, dtype=torch.float64)
    tiny = torch.finfo(torch.float64).tiny
    return (-(-uniform.clamp_min(tiny).log()).log()).to(policy.head)


def relaxed_costates(
    policy: Policy,
    prompt: Sequence[int],
    length: int,
    reward: Reward,
    *,
    site: Site = "final",
    temperature: float = 1.0,
    gumbel: Float[Tensor, "T V"] | None = None,
    straight_through: bool = False,
) -> RelaxedCostates:
    """BPTT costates of a relaxed rollout, and those that attention alone carries.

    Args:
        policy: the policy.
        prompt: token ids.
        length: steps T.
        reward: R of the soft tokens (T, V), a differentiable scalar.
        site: where the costates are taken.
        temperature: τ, above 0.
        gumbel: noise from `gumbel_noise`; none by default.
        straight_through: feed hard tokens forward, differentiate soft ones.

    Returns:
        Both costates of each step.

    Raises:
        UserError: a temperature not above 0, an empty prompt or no step, more than the context
            holds, an unknown site, noise of another shape, a reward that is not a finite scalar or
            does not depend on the tokens, a model that scales its embeddings.

    Example:
        ``relaxed_costates(policy, [5, 7], 4, lambda y: y[-1, 3]).bptt``
    """
    site = check_site(policy, site)
    relaxation = Relaxation(temperature, gumbel, straight_through)
    table = check_rollout(policy, prompt, length, relaxation)
    open_, closed = (
        _differentiate(policy, prompt, length, reward, site, relaxation, table, detached)
        for detached in (False, True)
    )
    return RelaxedCostates(open_[0], closed[0], open_[1], open_[2])


def check_rollout(
    policy: Policy, prompt: Sequence[int], length: int, relaxation: Relaxation
) -> Float[Tensor, "V D"]:
    """Refuse what cannot be rolled out; otherwise the embedding table that soft tokens mix."""
    gumbel = relaxation.gumbel
    check_positive("temperature", relaxation.temperature, "use 1.0")
    if length < 1:
        raise UserError("length", str(length), "1 or more", "ask for at least one step")
    rows = policy.head.shape[0]
    if not prompt or not all(0 <= token < rows for token in prompt):
        raise UserError(
            "prompt",
            f"{len(prompt)} token ids",
            f"at least one, each from 0 to {rows - 1}",
            "encode it with the policy's tokenizer",
        )
    # The last soft token is rewarded and never read.
    if len(prompt) + length - 1 > policy.context:
        raise UserError(
            "length",
            f"{len(prompt)} prompt tokens and {length} steps",
            f"at most {policy.context + 1} together",
            "shorten one of them",
        )
    if gumbel is not None and tuple(gumbel.shape) != (length, rows):
        raise UserError(
            "gumbel",
            f"shape {tuple(gumbel.shape)}",
            f"({length}, {rows})",
            "draw it with gumbel_noise",
        )
    embedding = policy.model.get_input_embeddings()
    table: Tensor = embedding.weight.detach()[:rows]
    with torch.no_grad():
        read_as = embedding(torch.tensor(list(prompt), device=table.device))
    if not torch.equal(read_as, table[list(prompt)]):
        raise UserError(
            str(policy.checkpoint.path),
            "a model that scales its embeddings when it reads tokens",
            "embeddings that mix linearly",
            "use a model whose embedding layer is a plain table",
        )
    return table


def rewarded(reward: Reward, soft_tokens: Float[Tensor, "T V"]) -> Float[Tensor, ""]:
    """R of soft tokens, refused where it is not a finite scalar that depends on them."""
    value = reward(soft_tokens)
    name = getattr(reward, "__name__", type(reward).__name__)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"{name} returning {type(value).__name__}"
        got += f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
    elif not torch.isfinite(value).all():
        got = f"{name} returning {float(value.detach())}"
    elif not value.requires_grad:
        got = f"{name} returning a value without a gradient"
    else:
        return value.squeeze()
    raise UserError(
        "reward",
        got,
        "a finite scalar tensor that depends on the soft tokens",
        "compute it from the soft tokens with differentiable operations",
    )


def _differentiate(
    policy: Policy,
    prompt: Sequence[int],
    length: int,
    reward: Reward,
    site: Site,
    relaxation: Relaxation,
    table: Tensor,
    detached: bool,
) -> tuple[Tensor, Tensor, float]:
    shift = policy.head.new_zeros(length, policy.head.shape[1], requires_grad=True)
    soft: list[Tensor] = []
    with (
        without_parameter_gradients(policy.model),
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        for t in range(length):
            with shifted(policy, site, -1, shift[t]):
                if t == 0:
                    cache, finals = read(policy, list(prompt))
                    final = finals[-1]
                else:
                    embedding = soft[-1] @ table
                    embedding = embedding.detach() if detached else embedding
                    cache, (final,) = advance_embedded(policy, cache, embedding[None])
            if site == "final":
                final = final + shift[t]
            soft.append(relaxation.soft(logits(policy, final), t))
        tokens = torch.stack(soft)
        value = rewarded(reward, tokens)
        (costates,) = torch.autograd.grad(value, shift)
    return costates, tokens.detach(), float(value.detach())
