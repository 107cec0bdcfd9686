"""What the statements are evaluated on: one prompt and a completion drawn after it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from valuegrad.credit.completions import Completions, completions
from valuegrad.errors import UserError
from valuegrad.model.cache import prefill, sampled
from valuegrad.model.policy import Policy, Site, logits
from valuegrad.model.tokens import encode
from valuegrad.prompts import Kind, Prompts
from valuegrad.rewards.exact import Exact
from valuegrad.rewards.example import Example

COMPLETION = 5
RANKS = (0, 2, 20)  # of the tokens that count as right in turn, the likeliest first


@dataclass(frozen=True, eq=False)
class Case:
    """A prompt, its completion with random advantages, and the generator of what else is random."""

    policy: Policy
    text: str
    prompt: list[int]
    sequence: list[int]
    advantages: Tensor
    generator: torch.Generator
    seed: int

    def batch(self) -> Completions:
        """The completion as what costates are formed of."""
        return completions(self.policy, [self.sequence], len(self.prompt), self.advantages[None])

    @property
    def middle(self) -> Site:
        """A site from which attention carries credit on: half way up, below the last block."""
        return self.policy.sites[len(self.policy.sites) // 2 - 1]

    @torch.no_grad()
    def likely(self, sequence: list[int] | None = None) -> list[int]:
        """The tokens in order of their probability after the prompt, or after a sequence."""
        _, finals = prefill(self.policy, sequence or self.prompt)
        return logits(self.policy, finals[-1]).argsort(descending=True).tolist()

    def one_token_answers(self) -> Prompts:
        """The prompt with one token as the right answer, once for each of `RANKS`."""
        likely = self.likely()
        answers = [(likely[min(rank, len(likely) - 1)],) for rank in RANKS]
        return exact_prompts(self.text, [tuple(self.prompt)] * len(answers), answers)


def make_case(policy: Policy, text: str, seed: int) -> Case:
    """Draw a completion of a prompt from the policy, and random advantages."""
    prompt = encoded(policy, text, 2, policy.context - COMPLETION)
    generator = torch.Generator().manual_seed(seed)
    sequence = prompt + sampled(policy, prompt, COMPLETION, generator)
    advantages = torch.randn(COMPLETION, generator=generator, dtype=torch.float64)
    return Case(policy, text, prompt, sequence, advantages, generator, seed)


def exact_prompts(
    text: str,
    tokens: Sequence[tuple[int, ...]],
    answers: Sequence[tuple[int, ...]],
    stops: tuple[int, ...] = (),
) -> Prompts:
    """Prompts and right answers as a task has them; answers of one token have no stops."""
    single = max(map(len, answers)) == 1
    longest = max(map(len, answers)) + bool(stops)
    examples = (Example(text, ""),) * len(tokens)
    kind: Kind = "one token" if single else "exact"
    return Prompts(kind, examples, tuple(tokens), tuple(answers), stops, longest, Exact())


def encoded(policy: Policy, prompt: str, least: int, most: int) -> list[int]:
    """A prompt's tokens, refused where there are too few or too many of them."""
    ids = list(encode(policy, [prompt])[0])
    if not least <= len(ids) <= most:
        got = f"{prompt[:40]!r} of {len(ids)} tokens"
        wanted = f"{least} to {most}, in a context of {policy.context}"
        raise UserError("prompt", got, wanted, "choose another `prompt`")
    return ids
