"""Prompts with completions and their advantages, as costates are formed of them: checked once.

B sequences · S tokens of a padded array · T tokens of the longest completion
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from valuegrad.errors import UserError
from valuegrad.model.policy import Policy


@dataclass(frozen=True, eq=False)
class Completions:
    """Sequences without padding, their prompts' lengths and advantages; made by `completions`.

    Attributes:
        tokens: prompt and completion of each sequence.
        prompt_lengths: how many of these are the prompt.
        advantages: Â of each completion token, 0 past its end.
        mask: which entries of `advantages` belong to a completion.
    """

    tokens: tuple[tuple[int, ...], ...]
    prompt_lengths: tuple[int, ...]
    advantages: Float[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]


def completions(
    policy: Policy,
    sequences: Sequence[Sequence[int]] | Int[Tensor, "B S"],
    prompt_lengths: int | Sequence[int],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"] | Sequence[float],
    attention_mask: Tensor | None = None,
) -> Completions:
    """Check sequences and advantages against a policy and strip the padding.

    Args:
        policy: whose context and vocabulary apply.
        sequences: lists of token ids, or one array padded on either side.
        prompt_lengths: one number or one a sequence, padding not counted.
        advantages: one a sequence or one a completion token.
        attention_mask: 1 for tokens and 0 for padding of an array.

    Returns:
        The completions.

    Raises:
        UserError: anything that does not fit; the message names the argument and the sequence.

    Example:
        ``completions(policy, [[5, 7, 2], [5, 9]], 1, [1.0, -1.0]).mask``
    """
    rows = _without_padding(sequences, attention_mask)
    if not rows:
        raise UserError("sequences", "none", "at least one", "pass prompt and completion")
    starts = (prompt_lengths,) * len(rows) if isinstance(prompt_lengths, int) else prompt_lengths
    if len(starts) != len(rows):
        got, wanted = f"{len(starts)} of them", f"1 or {len(rows)}"
        raise UserError("prompt_lengths", got, wanted, "one a sequence")
    vocabulary = policy.head.shape[0]
    for i, (tokens, start) in enumerate(zip(rows, starts, strict=True)):
        if len(tokens) > policy.context:
            got, wanted = f"{len(tokens)} tokens", f"at most {policy.context}"
            raise UserError(f"sequences[{i}]", got, wanted, "shorten it to the model's context")
        if not 0 < start < len(tokens):
            got = f"{start} of {len(tokens)} tokens"
            wanted = f"1 to {len(tokens) - 1}, so that prompt and completion have a token each"
            fix = "pass the number of the prompt's tokens"
            raise UserError(f"prompt_lengths[{i}]", got, wanted, fix)
        if not all(0 <= token < vocabulary for token in tokens):
            got, wanted = f"token {max(tokens, key=abs)}", f"0 to {vocabulary - 1}"
            raise UserError(f"sequences[{i}]", got, wanted, "use the policy's own tokenizer")
    counts = torch.tensor([len(t) - s for t, s in zip(rows, starts, strict=True)])
    mask = (torch.arange(int(counts.max())) < counts[:, None]).to(policy.device)
    signal = torch.as_tensor(advantages, dtype=policy.head.dtype, device=policy.device)
    if signal.shape not in (mask.shape, mask.shape[:1]):
        wanted = f"{tuple(mask.shape[:1])}, one a sequence, or {tuple(mask.shape)}, one a token"
        fix = "give every completion an advantage"
        raise UserError("advantages", f"shape {tuple(signal.shape)}", wanted, fix)
    signal = (signal if signal.dim() == 2 else signal[:, None]).expand(mask.shape)
    if not torch.isfinite(signal[mask]).all():
        row = int((~torch.isfinite(signal) & mask).any(1).nonzero()[0])
        got, fix = f"a value that is not finite in row {row}", "look at the rewards behind them"
        raise UserError("advantages", got, "finite numbers", fix)
    return Completions(
        tuple(map(tuple, rows)), tuple(starts), signal.where(mask, 0).contiguous(), mask
    )


def _without_padding(
    sequences: Sequence[Sequence[int]] | Tensor, mask: Tensor | None
) -> list[list[int]]:
    if not isinstance(sequences, Tensor):
        if mask is not None:
            fix = "pass one array, or no mask"
            raise UserError("attention_mask", "given with lists", "None", fix)
        return [list(tokens) for tokens in sequences]
    if mask is None:
        return sequences.tolist()
    if mask.shape != sequences.shape:
        got, wanted = f"shape {tuple(mask.shape)}", f"{tuple(sequences.shape)}"
        raise UserError("attention_mask", got, wanted, "one entry a token")
    return [row[kept.bool()].tolist() for row, kept in zip(sequences, mask, strict=True)]
