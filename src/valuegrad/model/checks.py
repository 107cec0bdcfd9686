"""What the closed forms assume of a model, tried on it: causal, and one plain linear output head.

S tokens · D width · V vocabulary
"""

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.errors import UserError
from valuegrad.model.policy import Policy, logits

_LARGE = 64.0  # the logit at which soft caps and scales show
_LARGEST_STATE = 1e3  # well within float16
_TOKENS = 8


@torch.no_grad()
def check_assumptions(policy: Policy) -> None:
    """Refuse a model whose numbers would be wrong in silence.

    It has to be causal, and form its logits as W h + b at every size.
    """
    ids = (torch.arange(_TOKENS, device=policy.device) * 7 % policy.head.shape[0])[None]
    states = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    if not torch.isfinite(states).all():
        dtype = str(states.dtype).removeprefix("torch.")
        got, fix = f"states that are not finite in {dtype}", "use float32 as `dtype`"
        raise UserError(policy.checkpoint.name, got, "finite states", fix)
    _check_causal(policy, ids, states)
    _check_head(policy, ids, states)


def _check_causal(policy: Policy, ids: Tensor, states: Float[Tensor, "1 S D"]) -> None:
    """Padding stands behind and no mask hides it: later tokens must not reach earlier ones."""
    half = _TOKENS // 2
    others = ids.clone()
    others[:, half:] = (others[:, half:] + 1) % policy.head.shape[0]
    changed = policy.model.base_model(input_ids=others, use_cache=False).last_hidden_state
    difference = (changed - states)[:, :half].abs().max() / states.abs().max()
    # Experts round otherwise in another company; all else is the same to the bit.
    experts = any("expert" in name for name, _ in policy.model.named_modules())
    full = states.dtype in (torch.float32, torch.float64)
    if not difference <= (_rounding(states.dtype) if experts or full else 0):
        got = (
            f"a {type(policy.model).__name__} whose states depend on later tokens "
            f"(by {float(difference):.2g} of the largest)"
        )
        fix = "use a decoder-only model, with is_decoder set in config.json where it has that"
        raise UserError(policy.checkpoint.name, got, "a causal model", fix)


def _check_head(policy: Policy, ids: Tensor, states: Float[Tensor, "1 S D"]) -> None:
    """Compare the model's logits with its output head's: at its states, and where they are large.

    A scale between the states and the head shows at any size, a soft cap behind it at large ones.
    """
    size, largest = (float(x.abs().max()) for x in (logits(policy, states), states))
    large = states * min(max(_LARGE / size, 1.0), _LARGEST_STATE / largest) if size else states
    module = policy.model.get_output_embeddings()
    for given in (states, large):
        found = logits(policy, given)
        instead = None if given is states else (given,)
        hook = module.register_forward_pre_hook(lambda module, args, instead=instead: instead)
        try:
            expected = policy.model(input_ids=ids, use_cache=False).logits
        finally:
            hook.remove()
        scale = max(float(found.abs().max()), torch.finfo(found.dtype).tiny)
        same = expected.shape == found.shape
        if not same or not (expected - found).abs().max() <= scale * _rounding(states.dtype):
            got = f"a {type(policy.model).__name__} whose logits are not its output head's"
            wanted = "a model with a separable output head (logits = W h)"
            fix = "use a model without logit scaling or soft-capping"
            raise UserError(policy.checkpoint.name, got, wanted, fix)


def _rounding(dtype: torch.dtype) -> float:
    """What may be rounding, as a share: a few bits, and more of them where there are many."""
    eps = torch.finfo(dtype).eps
    return eps * (2 if eps > 1e-4 else 256)
