"""Relaxed rollouts: the policy reads its own soft tokens, so that a return differentiates (Def. 1).

y_t = softmax((z_t + g_t)/τ), e_t = Eᵀ y_t, h_{t+1} = F(c_t, e_t), with g Gumbel noise or zero.
Backpropagation through time gives the costate λ_t; with the token path detached what is left is the
credit that attention carries.

T steps · D width · V vocabulary
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from valuegrad.errors import UserError, check_positive
from valuegrad.model.cache import Cache, decode_embedding, prefill
from valuegrad.model.policy import Policy, Site, logits
from valuegrad.model.sites import check_site, shifted, without_parameter_gradients

Reward = Callable[[Float[Tensor, "T V"]], Float[Tensor, ""]]


@dataclass(frozen=True, eq=False)
class RelaxedCostates:
    """Costates of one relaxed rollout; made by `relaxed_costates`.

    Attributes:
        bptt: λ_t = ∂R/∂h_t with every path open, reward units per unit of the state.
        attention_only: the same with the token path e_t detached.
        soft_tokens: y_t of each step, rows that sum to 1.
        reward: R.
    """

    bptt: Float[Tensor, "T D"]
    attention_only: Float[Tensor, "T D"]
    soft_tokens: Float[Tensor, "T V"]
    reward: float


def gumbel_noise(policy: Policy, length: int, generator: torch.Generator) -> Float[Tensor, "T V"]:
    """Standard Gumbel noise g of a rollout, with which straight-through tokens are true samples.

    Args:
        policy: the policy.
        length: T.
        generator: on the CPU, so that every device draws the same.

    Returns:
        g of each step (T, V), in the policy's dtype and on its device.

    Example:
        ``gumbel_noise(policy, 4, torch.Generator().manual_seed(0))``
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
    """BPTT costates of a relaxed rollout (Def. 1), and those that attention alone carries.

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
    given = Relaxed(policy, prompt, length, reward, temperature, gumbel, straight_through)

    def costates(detached: bool) -> tuple[Tensor, Tensor, Tensor]:
        shift = policy.head.new_zeros(length, policy.head.shape[1], requires_grad=True)
        tokens, value = roll_out(
            given, detached=detached, during=lambda t: shifted(policy, site, -1, shift[t])
        )
        return torch.autograd.grad(value, shift)[0], tokens, value

    (bptt, tokens, value), (attention_only, *_) = costates(False), costates(True)
    return RelaxedCostates(bptt, attention_only, tokens.detach(), float(value.detach()))


@dataclass(frozen=True, eq=False)
class Relaxed:
    """What a relaxed rollout is made of, under the names of `relaxed_costates`."""

    policy: Policy
    prompt: Sequence[int]
    length: int
    reward: Reward
    temperature: float = 1.0
    gumbel: Float[Tensor, "T V"] | None = None
    straight_through: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be rolled out."""
        policy, length = self.policy, self.length
        check_positive("temperature", self.temperature, "use 1.0")
        if length < 1:
            raise UserError("length", str(length), "1 or more", "ask for at least one step")
        table = policy.embedding
        rows = len(table)
        if not self.prompt or not all(0 <= token < rows for token in self.prompt):
            got = f"{len(self.prompt)} token ids"
            wanted = f"at least one, each from 0 to {rows - 1}"
            raise UserError("prompt", got, wanted, "encode it with the policy's tokenizer")
        # The last soft token is rewarded and never read.
        if len(self.prompt) + length - 1 > policy.context:
            got = f"{len(self.prompt)} prompt tokens and {length} steps"
            wanted = f"at most {policy.context + 1} together"
            raise UserError("length", got, wanted, "shorten one of them")
        if self.gumbel is not None and tuple(self.gumbel.shape) != (length, rows):
            got = f"shape {tuple(self.gumbel.shape)}"
            raise UserError("gumbel", got, f"({length}, {rows})", "draw it with gumbel_noise")
        ids = torch.tensor(self.prompt, device=table.device)
        if not torch.equal(policy.model.get_input_embeddings()(ids), table[ids]):
            got = "a model that scales its embeddings when it reads tokens"
            fix = "use a model whose embedding layer is a plain table"
            raise UserError("policy", got, "embeddings that mix linearly", fix)


@torch.enable_grad()
@sdpa_kernel(SDPBackend.MATH)
def roll_out(
    given: Relaxed,
    *,
    detached: bool,
    during: Callable[[int], AbstractContextManager[None]] = lambda t: nullcontext(),
    after: Callable[[Cache, Tensor], tuple[Cache, Tensor]] = lambda cache, h: (cache, h),
) -> tuple[Float[Tensor, "T V"], Float[Tensor, ""]]:
    """Soft tokens and their reward, as a graph; `detached` cuts the path through e_t.

    `during` is open while step t runs, and `after` may replace the state (c_t, h_t) that it made.
    """
    policy, table, soft = given.policy, given.policy.embedding, list[Tensor]()
    with without_parameter_gradients(policy.model):
        for t in range(given.length):
            with during(t):
                if t == 0:
                    cache, finals = prefill(policy, given.prompt)
                else:
                    e = (soft[-1].detach() if detached else soft[-1]) @ table
                    cache, finals = decode_embedding(policy, cache, e[None])
            cache, final = after(cache, finals[-1])
            z = logits(policy, final)
            noisy = z if given.gumbel is None else z + given.gumbel[t].to(z)
            y = (noisy / given.temperature).softmax(0)
            if given.straight_through:
                y = y + (torch.zeros_like(y).index_fill(0, y.argmax()[None], 1.0) - y).detach()
            soft.append(y)
        tokens = torch.stack(soft)
        return tokens, _rewarded(given.reward, tokens)


def _rewarded(reward: Reward, soft_tokens: Float[Tensor, "T V"]) -> Float[Tensor, ""]:
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
    wanted = "a finite scalar tensor that depends on the soft tokens"
    raise UserError("reward", got, wanted, "compute it from them with differentiable operations")
