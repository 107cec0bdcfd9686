"""Prompts whose answers are one token, as a policy reads them: token ids and rewards of all tokens.

N prompts · B of them · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from valuegrad.errors import UserError
from valuegrad.model.policy import Policy
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.tasks.task import Reward


@dataclass(frozen=True, eq=False)
class OneTokenPrompts:
    """Tokenised prompts with the reward of every next token; made by `one_token_prompts`.

    Attributes:
        examples: the prompts as text.
        tokens: token ids of each prompt.
        answers: the answer's token id of each prompt.
        reward: what a token earns.
        policy: whose tokens these are.
    """

    examples: tuple[Example, ...]
    tokens: tuple[tuple[int, ...], ...]
    answers: tuple[int, ...]
    reward: Reward
    policy: Policy
    _tables: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def binary(self) -> bool:
        """Whether every reward is known to be 0 or 1."""
        return self.reward.binary

    def reward_table(self, rows: Sequence[int]) -> Float[Tensor, "B V"]:
        """The reward of every token of the vocabulary as the answer, in float64.

        Args:
            rows: which prompts.

        Returns:
            Rewards in reward units.

        Raises:
            UserError: the reward function returns something unusable.
        """
        vocabulary, device = self.policy.head.shape[0], self.policy.device
        if isinstance(self.reward, Exact):
            table = torch.zeros(len(rows), vocabulary, dtype=torch.float64, device=device)
            right = torch.tensor([self.answers[row] for row in rows], device=device)
            return table.scatter_(1, right[:, None], 1.0)
        for row in rows:
            if row not in self._tables:
                texts = [_text(self.policy, token) for token in range(vocabulary)]
                ids = [[token] for token in range(vocabulary)]
                values = self.reward([self.examples[row]] * vocabulary, texts, ids)
                self._tables[row] = torch.tensor(values, dtype=torch.float64)
        return torch.stack([self._tables[row] for row in rows]).to(device)

    def reward_of(self, rows: Sequence[int], actions: Int[Tensor, "B G"]) -> Float[Tensor, "B G"]:
        """The rewards of sampled tokens, in float32.

        Args:
            rows: which prompts.
            actions: token ids, one row a prompt.

        Returns:
            Rewards of the same shape.

        Raises:
            UserError: the reward function returns something unusable.
        """
        if isinstance(self.reward, Exact):
            right = torch.tensor([self.answers[row] for row in rows], device=actions.device)
            return (actions == right[:, None]).float()
        size = actions.shape[1]
        repeated = [self.examples[row] for row in rows for _ in range(size)]
        tokens = actions.flatten().tolist()
        texts = [_text(self.policy, token) for token in tokens]
        values = torch.tensor(self.reward(repeated, texts, [[t] for t in tokens]))
        values = values.to(actions.device)
        return values.float().view_as(actions)


def one_token_prompts(
    policy: Policy, examples: Sequence[Example], reward: Reward
) -> OneTokenPrompts:
    """Tokenise prompts and check that each answer is one token after its prompt.

    Args:
        policy: whose tokenizer and context apply.
        examples: the prompts.
        reward: of a completion.

    Returns:
        The tokenised prompts.

    Raises:
        UserError: an answer of several tokens, or one that merges with the prompt's last token
            (both name the tokens); a prompt that fills the context; no prompts.
    """
    pairs = tokenised(policy, examples)
    for example, (prompt, answer) in zip(examples, pairs, strict=True):
        if len(prompt) + 1 > policy.context:
            raise UserError(
                f"prompt {example.prompt[:60]!r}…",
                f"{len(prompt)} tokens",
                f"at most {policy.context - 1} in a context of {policy.context}",
                "shorten the prompt",
            )
        if len(answer) != 1:
            raise _unfit(policy, example, prompt, (*prompt, *answer), "exactly one token")
    tokens, answers = zip(*pairs, strict=True)
    return OneTokenPrompts(
        tuple(examples), tokens, tuple(token for (token,) in answers), reward, policy
    )


def tokenised(
    policy: Policy, examples: Sequence[Example]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Token ids of prompts and of the answers after them.

    Args:
        policy: whose tokenizer applies.
        examples: the prompts.

    Returns:
        Prompt and answer of each example.

    Raises:
        UserError: no prompts, an answer of no tokens, or one that merges with its prompt's last
            token.
    """
    if not examples:
        raise UserError("task", "no prompts", "at least one", "add prompts")
    prompts = policy.tokenizer([e.prompt for e in examples])["input_ids"]
    wholes = policy.tokenizer([e.prompt + e.answer for e in examples])["input_ids"]
    for example, prompt, whole in zip(examples, prompts, wholes, strict=True):
        if not prompt or whole[: len(prompt)] != prompt or len(whole) == len(prompt):
            raise _unfit(policy, example, prompt, whole, "one token or more")
    return [
        (tuple(prompt), tuple(whole[len(prompt) :]))
        for prompt, whole in zip(prompts, wholes, strict=True)
    ]


def batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Rows sorted by length and cut so that a padded batch holds about ``tokens`` tokens.

    Args:
        lengths: tokens of each row.
        tokens: the most tokens of a padded batch; a longer row makes a batch of its own.

    Returns:
        Row numbers, every row once.

    Example:
        >>> batches([3, 1, 2], tokens=4)
        [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    result: list[list[int]] = []
    for row in order:
        if result and (len(result[-1]) + 1) * lengths[row] <= tokens:
            result[-1].append(row)
        else:
            result.append([row])
    return result


def _unfit(
    policy: Policy, example: Example, prompt: Sequence[int], whole: Sequence[int], wanted: str
) -> UserError:
    pieces = policy.tokenizer.convert_ids_to_tokens(whole[_shared(prompt, whole) :])
    return UserError(
        f"answer {example.answer!r}",
        f"the tokens {pieces} after the prompt {example.prompt[-40:]!r}",
        f"{wanted} that leaves the prompt's own tokens as they are",
        "change the answer, or end the prompt where a token ends",
    )


def _shared(prompt: Sequence[int], whole: Sequence[int]) -> int:
    pairs = zip(prompt, whole, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prompt), len(whole)))


def _text(policy: Policy, token: int) -> str:
    # Rows that only pad the output head to a round size stand for no text.
    if token >= len(policy.tokenizer):
        return ""
    return str(policy.tokenizer.decode([token], skip_special_tokens=True))
