"""Prompts whose completions have any length, as a policy reads them: tokens, answers, stop tokens.

N prompts
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from valuegrad.errors import UserError
from valuegrad.model.policy import Policy
from valuegrad.one_token_prompts import tokenised
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.tasks.task import MAX_TOKENS, Reward, Task


@dataclass(frozen=True, eq=False)
class CompletionPrompts:
    """Tokenised prompts and what ends and rewards a completion; made by `completion_prompts`.

    Attributes:
        examples: the prompts as text.
        tokens: token ids of each prompt.
        answers: the answer's token ids of each prompt, without a stop token; of rewards other than
            ``exact`` they are not compared with anything and left empty.
        stops: ids of the tokens that end a completion.
        max_tokens: the most tokens of a completion, its stop token included.
        reward: of a completion.
    """

    examples: tuple[Example, ...]
    tokens: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    stops: tuple[int, ...]
    max_tokens: int
    reward: Reward

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def exact(self) -> bool:
        """Whether one completion a prompt earns 1 and every other one 0."""
        return isinstance(self.reward, Exact)

    def accepted(self, row: int) -> list[tuple[int, ...]]:
        """The completions of a prompt that earn 1 where the reward is exact.

        The answer and then a stop token; without stop tokens the answer alone.
        """
        return [(*self.answers[row], stop) for stop in self.stops] or [self.answers[row]]


def completion_prompts(
    policy: Policy, task: Task, examples: Sequence[Example]
) -> CompletionPrompts:
    """Tokenise prompts of a task, and find what ends a completion.

    Args:
        policy: whose tokenizer, stop tokens and context apply.
        task: whose reward and limits apply.
        examples: its training or held-out prompts.

    Returns:
        The tokenised prompts. A task with `one_token` answers has no stop tokens and completions of
        one token.

    Raises:
        UserError: no prompts; a prompt that leaves no room for a completion in the context; with an
            exact reward an answer that changes its prompt's tokens or is longer than a completion
            may be; a stop text of several tokens; a model without stop tokens.
    """
    exact, single = isinstance(task.reward, Exact), one_token(policy, task)
    if exact:
        pairs = tokenised(policy, examples)
        tokens, answers = (tuple(column) for column in zip(*pairs, strict=True))
    else:
        tokens = tuple(map(tuple, policy.tokenizer([e.prompt for e in examples])["input_ids"]))
        answers = ((),) * len(tokens)
    stops = () if single else stop_tokens(policy, task)
    longest = max(map(len, answers)) + bool(stops)
    limit = 1 if single else task.max_tokens or (longest if exact else MAX_TOKENS)
    if exact and longest > limit:
        raise UserError(
            "max_tokens",
            str(limit),
            f"at least {longest}, the longest answer and its stop token",
            "raise it, or leave it out",
        )
    if limit >= policy.context:
        raise UserError(
            "max_tokens",
            str(limit),
            f"below {policy.context}, this model's context",
            f"pass --max-tokens {max(1, policy.context // 2)} or less",
        )
    for example, prompt in zip(examples, tokens, strict=True):
        if not prompt or len(prompt) + limit > policy.context:
            raise UserError(
                f"prompt {example.prompt[:60]!r}…",
                f"{len(prompt)} tokens",
                f"1 to {policy.context - limit}, which leaves room for {limit} more in a context "
                f"of {policy.context}",
                "shorten the prompt, or lower --max-tokens",
            )
    return CompletionPrompts(tuple(examples), tokens, answers, stops, limit, task.reward)


def one_token(policy: Policy, task: Task) -> bool:
    """Whether a task is measured over the vocabulary: completions of one token, no stop token.

    So it is where every answer is one token, the reward is exact or a function of the user's, and
    the task sets no limit and no stop of its own; or where its limit is one token.
    """
    if task.max_tokens is not None or task.stop is not None:
        return task.max_tokens == 1
    if not isinstance(task.reward, Exact) and ":" not in task.reward.name:
        return False
    examples = [*task.train, *task.evaluation]
    prompts = policy.tokenizer([e.prompt for e in examples])["input_ids"]
    wholes = policy.tokenizer([e.prompt + e.answer for e in examples])["input_ids"]
    # Answers that merge with their prompts are refused later, by name, whatever their length.
    return all(len(whole) - len(prompt) <= 1 for prompt, whole in zip(prompts, wholes, strict=True))


def stop_tokens(policy: Policy, task: Task) -> tuple[int, ...]:
    """The tokens that end a completion: the model's, the tokenizer's and the task's.

    Raises:
        UserError: there are none, or the task's stop is not one token.
    """
    found = list(policy.stop_tokens)
    if task.stop:
        ids = policy.tokenizer(task.stop, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise UserError(
                "stop",
                f"{task.stop!r}, {len(ids)} tokens of this model",
                "a text of one token",
                r"use a line break ('\n'), or leave it out for the model's own stop token",
            )
        found += ids
    stops = tuple(dict.fromkeys(found))
    if not stops:
        raise UserError(
            policy.checkpoint.name,
            "a model and tokenizer without a stop token",
            "an eos token, or --stop",
            r"pass --stop '\n'",
        )
    return stops
