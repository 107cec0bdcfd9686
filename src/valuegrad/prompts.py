"""A task as a policy reads it: tokens, answers and stop tokens, tokenised once, with its kind.

The kind is decided here and nowhere else: completions of one token are measured over the
vocabulary, exact rewards of longer ones by teacher forcing (identity F), everything else from
rollouts.

N prompts · B of them · V vocabulary
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from valuegrad.errors import NotFiniteError, UserError
from valuegrad.model.policy import Policy
from valuegrad.model.tokens import Tokens, encode
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example
from valuegrad.tasks.task import MAX_TOKENS, Reward, Task

Kind = Literal["one token", "exact", "sampled"]

# The task that each policy read last: scores, runs and their budgets tokenise it once.
_latest: "WeakKeyDictionary[Policy, tuple[Task, TaskPrompts]]" = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of one split as a policy reads them; made by `tokenise`.

    Attributes:
        kind: what its completions are measured by: ``"one token"``, the whole vocabulary;
            ``"exact"``, teacher forcing; ``"sampled"``, rollouts.
        examples: the prompts as text.
        tokens: token ids of each prompt.
        answers: token ids of each answer, without a stop token; empty where the reward reads texts
            and the answers do not decide the kind.
        stops: ids of the tokens that end a completion; none where it is one token.
        max_tokens: the most tokens of a completion, its stop token included.
        reward: of a completion.
    """

    kind: Kind
    examples: tuple[Example, ...]
    tokens: tuple[Tokens, ...]
    answers: tuple[Tokens, ...]
    stops: Tokens
    max_tokens: int
    reward: Reward
    _tables: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def exact(self) -> bool:
        """Whether the answer alone earns 1 and every other completion 0."""
        return isinstance(self.reward, Exact)

    @property
    def strata(self) -> list[str]:
        """The stratum of each prompt."""
        return [example.stratum for example in self.examples]

    @property
    def first_answers(self) -> Tensor:
        """The first token of each answer."""
        return torch.tensor([answer[0] for answer in self.answers])

    def accepted(self, row: int) -> list[Tokens]:
        """The completions of a prompt that earn 1 where the reward is exact."""
        return [(*self.answers[row], stop) for stop in self.stops] or [self.answers[row]]

    def some(self, rows: Sequence[int]) -> "Prompts":
        """Some of the prompts, in the order of ``rows``."""
        return replace(
            self,
            examples=tuple(self.examples[row] for row in rows),
            tokens=tuple(self.tokens[row] for row in rows),
            answers=tuple(self.answers[row] for row in rows),
        )

    def reward_table(self, policy: Policy, rows: Sequence[int]) -> Float[Tensor, "B V"]:
        """The reward of every token of the vocabulary as the completion, in float64."""
        vocabulary = policy.head.shape[0]
        if self.exact:
            right = torch.tensor([self.answers[row][0] for row in rows], device=policy.device)
            table = policy.head.new_zeros(len(rows), vocabulary, dtype=torch.float64)
            return table.scatter_(1, right[:, None], 1.0)
        for row in rows:
            if row not in self._tables:
                every = [(token,) for token in range(vocabulary)]
                self._tables[row] = self.rewards_of(policy, [row], [every])[0]
        return torch.stack([self._tables[row] for row in rows]).to(policy.device)

    def rewards_of(
        self,
        policy: Policy,
        rows: Sequence[int],
        completions: Sequence[Sequence[Tokens]],
        texts: Sequence[Sequence[str]] | None = None,
    ) -> Float[Tensor, "B G"]:
        """The rewards of groups of completions, stop tokens included, in float64.

        ``rows`` says of each group which prompt it completes. An exact reward compares tokens, for
        another spelling of the same text is another completion; a function reads texts.
        """
        if isinstance(self.reward, Exact):
            right = [set(self.accepted(row)) for row in rows]
            hits = [[c in r for c in group] for r, group in zip(right, completions, strict=True)]
            return torch.tensor(hits).double()
        repeated = [self.examples[r] for r, g in zip(rows, completions, strict=True) for _ in g]
        flat = [tokens for group in completions for tokens in group]
        read = [text for group in texts or () for text in group]
        values = self.reward(repeated, read or [self.text(policy, t) for t in flat], flat)
        return torch.tensor(values, dtype=torch.float64).view(len(rows), -1)

    def check_finite(self, policy: Policy, what: str, values: Float[Tensor, " N"]) -> None:
        """Refuse numbers of the prompts of which one is not finite."""
        if not torch.isfinite(values).all():
            row = int((~torch.isfinite(values)).nonzero()[0])
            prompt = self.examples[row].prompt
            raise NotFiniteError(
                f"{policy.checkpoint.name}: {what} of {float(values[row])} at the prompt "
                f"…{prompt[-40:]!r}, for the logits are not finite"
            )

    def text(self, policy: Policy, tokens: Sequence[int]) -> str:
        """A completion as a reward reads it: without its stop token."""
        kept = tokens[:-1] if tokens[-1] in self.stops else tokens
        # Ids that pad the output head or fill a gap of the vocabulary stand for no text.
        known = [token for token in kept if token in policy.token_ids]
        return str(policy.tokenizer.decode(known, skip_special_tokens=True)) if known else ""


@dataclass(frozen=True, eq=False)
class TaskPrompts:
    """Both splits of a task as a policy reads them; made by `tokenise`.

    Attributes:
        train: what RL draws from, and the probe step's update.
        evaluation: the held-out prompts that are measured.
    """

    train: Prompts
    evaluation: Prompts

    @property
    def kind(self) -> Kind:
        """The kind of both splits."""
        return self.evaluation.kind


def tokenise(policy: Policy, task: Task) -> TaskPrompts:
    """Tokenise a task, once for a policy, and decide what measures it.

    Completions are one token, without a stop token, where every answer is one token, the reward is
    exact or a function of the user's, and the task sets neither a limit nor a stop of its own; or
    where its limit is one token.

    Args:
        policy: whose tokenizer, stop tokens and context apply.
        task: the task.

    Returns:
        The training and the held-out prompts.

    Raises:
        UserError: no prompts; an answer that changes its prompt's tokens, where answers are
            compared; a prompt that leaves no room for a completion in the context; an answer longer
            than a completion may be; a stop text of several tokens; a model without stop tokens.

    Example:
        ``tokenise(load_policy("runs/step100"), arithmetic()).kind``  # "exact"
    """
    known = _latest.get(policy)
    if known is None or known[0] is not task:
        known = _latest[policy] = task, _tokenised(policy, task)
    return known[1]


def _tokenised(policy: Policy, task: Task) -> TaskPrompts:
    if not task.train or not task.evaluation:
        raise UserError("task", "no prompts", "at least one in each split", "add prompts")
    examples = [*task.train, *task.evaluation]
    tokens = encode(policy, [e.prompt for e in examples])
    exact = isinstance(task.reward, Exact)
    own = isinstance(task.reward, Exact) or ":" in task.reward.name
    undecided = task.max_tokens is None and task.stop is None and own
    single, wholes = task.max_tokens == 1, tokens
    if exact or undecided:
        wholes = encode(policy, [e.prompt + e.answer for e in examples])
    if undecided:
        # Answers that merge with their prompts are refused below, by name, whatever their length.
        single = all(len(w) - len(p) <= 1 for p, w in zip(tokens, wholes, strict=True))
    answers: list[Tokens] = [()] * len(tokens)
    if exact or (undecided and single):
        wanted = "exactly one token" if single else "one token or more"
        for example, prompt, whole in zip(examples, tokens, wholes, strict=True):
            count = len(whole) - len(prompt)
            fits = count == 1 if single else count >= 1
            if not prompt or whole[: len(prompt)] != prompt or not fits:
                raise _unfit(policy, example, prompt, whole, wanted)
        answers = [whole[len(p) :] for p, whole in zip(tokens, wholes, strict=True)]
    stops = () if single else stop_tokens(policy, task)
    if exact:
        _check_answers(policy, examples, answers, stops)
    longest = max(map(len, answers)) + bool(stops)
    limit = 1 if single else task.max_tokens or (longest if exact else MAX_TOKENS)
    _check_lengths(policy, examples, tokens, limit, longest if exact else 0)
    kind: Kind = "one token" if single else "exact" if exact else "sampled"
    every = Prompts(kind, tuple(examples), tuple(tokens), tuple(answers), stops, limit, task.reward)
    rows, cut = range(len(examples)), len(task.train)
    return TaskPrompts(every.some(rows[:cut]), every.some(rows[cut:]))


def stop_tokens(policy: Policy, task: Task) -> Tokens:
    """The tokens that end a completion: the model's, the tokenizer's and the task's."""
    found = list(policy.stop_tokens)
    if task.stop:
        ids = _behind(policy, task)
        if len(ids) != 1:
            got, wanted = f"{task.stop!r}, {len(ids)} tokens of this model", "a text of one token"
            fix = r"use a line break ('\n'), or leave it out for the model's own stop token"
            raise UserError("stop", got, wanted, fix)
        found += ids
    if not found:
        got = "a model and tokenizer without a stop token"
        fix = r"pass '\n' as `stop`"
        raise UserError(policy.checkpoint.name, got, "an eos token, or `stop`", fix)
    return tuple(dict.fromkeys(found))


def _behind(policy: Policy, task: Task) -> Tokens:
    """The tokens of a task's stop behind an answer, where no space comes before it, or alone."""
    assert task.stop is not None
    for example in task.evaluation[:4]:
        text = example.prompt + example.answer
        before, whole = encode(policy, [text, text + task.stop])
        if whole[: len(before)] == before:
            return whole[len(before) :]
    return tuple(policy.tokenizer(task.stop, add_special_tokens=False)["input_ids"])


def _check_answers(
    policy: Policy, examples: Sequence[Example], answers: Sequence[Tokens], stops: Tokens
) -> None:
    """Refuse answers that no completion can be: they cannot be spelt, or would end before."""
    for example, answer in zip(examples, answers, strict=True):
        if policy.tokenizer.unk_token_id in answer:
            got = f"{example.answer!r}, which holds what this tokenizer has no token for"
            raise UserError("answer", got, "an answer that the policy can write", "change it")
        if held := set(answer) & set(stops):
            shown = [policy.tokenizer.decode([token]) for token in sorted(held)]
            got = f"{example.answer!r}, which holds the stop {', '.join(map(repr, shown))}"
            fix = "end the answer before it, or choose another `stop`"
            raise UserError("answer", got, "an answer that ends where a completion does", fix)


def _check_lengths(
    policy: Policy, examples: Sequence[Example], tokens: Sequence[Tokens], limit: int, longest: int
) -> None:
    if longest > limit:
        wanted = f"at least {longest}, the longest answer and its stop token"
        raise UserError("max_tokens", str(limit), wanted, "raise it, or leave it out")
    if limit >= policy.context:
        fix = f"pass {max(1, policy.context // 2)} or less as `max_tokens`"
        wanted = f"below {policy.context}, this model's context"
        raise UserError("max_tokens", str(limit), wanted, fix)
    switch, lengths = policy.rope_switch, [len(t) for t in tokens]
    if switch and min(lengths) <= switch < max(lengths) + limit:
        got = f"prompts of {min(lengths)} to {max(lengths)} tokens and {limit} more"
        wanted = f"all up to {switch} tokens, where this model's rotary angles change, or all above"
        fix = "measure the ones and the others as two tasks, or lower `max_tokens`"
        raise UserError("task", got, wanted, fix)
    for example, prompt in zip(examples, tokens, strict=True):
        if not prompt or len(prompt) + limit > policy.context:
            raise UserError(
                f"prompt {example.prompt[:60]!r}…",
                f"{len(prompt)} tokens",
                f"1 to {policy.context - limit}, which leaves room for {limit} more in a context "
                f"of {policy.context}",
                "shorten the prompt, or lower `max_tokens`",
            )


def _unfit(
    policy: Policy, example: Example, prompt: Tokens, whole: Tokens, wanted: str
) -> UserError:
    pairs = zip(prompt, whole, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prompt), len(whole)))
    return UserError(
        f"answer {example.answer!r}",
        f"the tokens {policy.tokenizer.convert_ids_to_tokens(list(whole[same:]))} after the prompt "
        f"{example.prompt[-40:]!r}",
        f"{wanted} that leaves the prompt's own tokens as they are",
        "change the answer, or end the prompt where a token ends",
    )
