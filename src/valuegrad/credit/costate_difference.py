"""What detaching the token path changes in a costate: δ_t = λ̂_t − λ_t (Thm. 1, correction H).

Over the state that crosses a step, x_t = (c_t, h_t), by autograd through a whole relaxed rollout,
and a step at a time by δ_t = A_tᵀ δ_{t+1} − S_tᵀ λ_{t+1}, δ_T = 0. A_t, the step with its token e_t
fixed, reads c_t alone; S_t = (∂x_{t+1}/∂e_t) Eᵀ (1/τ)(diag y − yyᵀ) W reads h_t alone.

T steps · D width · V vocabulary · X size of x_t, keys and values first
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from valuegrad.credit.cache_recursion import flat_cache, paired
from valuegrad.credit.relaxed import Relaxed, roll_out
from valuegrad.model.cache import Cache, decode_embedding
from valuegrad.model.sites import without_parameter_gradients


def state_costates(
    given: Relaxed, *, detached: bool
) -> tuple[list[Cache], Float[Tensor, "T V"], list[Float[Tensor, " X"]]]:
    """The caches c_t, the soft tokens, and ∂R/∂x_t of each step, by autograd.

    Args:
        given: the rollout.
        detached: whether the token path is cut; open, the costates are those of BPTT.

    Returns:
        Caches, soft tokens and costates, these in reward units per unit of the state.

    Raises:
        UserError: a reward that `relaxed_costates` refuses.

    Example:
        ``*_, costates = state_costates(Relaxed(policy, [5, 7], 3, reward), detached=True)``
    """
    caches: list[Cache] = []
    leaves: list[list[Tensor]] = []

    def after(cache: Cache, h: Tensor) -> tuple[Cache, Tensor]:
        # A zero is added to each coordinate of x_t, so that h_t's own use of c_t stays out.
        caches.append([(k.detach(), v.detach()) for k, v in cache])
        state = [*flat_cache(cache), h]
        leaves.append([torch.zeros_like(x, requires_grad=True) for x in state])
        *moved, h = (x + zero for x, zero in zip(state, leaves[-1], strict=True))
        return paired(moved), h

    soft, value = roll_out(given, detached=detached, after=after)
    zeros = [x for added in leaves for x in added]
    found = iter(torch.autograd.grad(value, zeros, allow_unused=True, materialize_grads=True))
    costates = [torch.cat([next(found).flatten() for _ in added]) for added in leaves]
    return caches, soft.detach(), costates


@torch.enable_grad()
@sdpa_kernel(SDPBackend.MATH)
def difference_by_recursion(
    given: Relaxed, caches: list[Cache], soft: Float[Tensor, "T V"]
) -> Float[Tensor, " X"]:
    """δ_1 by the recursion, its λ_t too: no derivative crosses more than one step.

    Args:
        given: the rollout.
        caches: c_t of each step, from `state_costates`.
        soft: its soft tokens.

    Returns:
        λ̂_1 − λ_1, in reward units per unit of the state; zero for one step.

    Example:
        ``difference_by_recursion(given, *state_costates(given, detached=True)[:2])``
    """
    policy = given.policy
    tokens = soft.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(given.reward(tokens), tokens)

    def to_state(t: int, slope: Tensor) -> Tensor:
        """(1/τ) Wᵀ (diag y − yyᵀ): from a slope in the soft token to one in h_t."""
        return soft[t] * (slope - soft[t] @ slope) / given.temperature @ policy.head

    untouched = torch.cat([x.flatten() for x in flat_cache(caches[-1])]) * 0
    full = torch.cat([untouched, to_state(-1, slopes[-1])])
    difference = torch.zeros_like(full)
    for t in reversed(range(len(soft) - 1)):
        old = [x.clone().requires_grad_() for x in flat_cache(caches[t])]
        e = (soft[t] @ policy.embedding).requires_grad_()
        with without_parameter_gradients(policy.model):
            reached, final = decode_embedding(policy, paired(old), e[None])
        after = torch.cat([*(x.flatten() for x in flat_cache(reached)), final[0]])
        *back, by_token = torch.autograd.grad(after, [*old, e], full, retain_graph=True)
        carried = torch.autograd.grad(after, old, difference)
        withheld = to_state(t, policy.embedding @ by_token)
        full = torch.cat([*(x.flatten() for x in back), to_state(t, slopes[t]) + withheld])
        difference = torch.cat([*(x.flatten() for x in carried), -withheld])
    return difference
