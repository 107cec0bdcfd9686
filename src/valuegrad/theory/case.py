"""What the statements are evaluated on: one prompt and a completion drawn after it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from valuegrad.credit.completions import Completions, completions
from valuegrad.errors import UserError
from valuegrad.model.cache import sampled
from valuegrad.model.policy import Policy
from valuegrad.model.tokens import encode

COMPLETION = 5


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


def make_case(policy: Policy, text: str, seed: int) -> Case:
    """Draw a completion of a prompt from the policy, and random advantages."""
    prompt = encoded(policy, text, 2, policy.context - COMPLETION)
    generator = torch.Generator().manual_seed(seed)
    sequence = prompt + sampled(policy, prompt, COMPLETION, generator)
    advantages = torch.randn(COMPLETION, generator=generator, dtype=torch.float64)
    return Case(policy, text, prompt, sequence, advantages, generator, seed)


def encoded(policy: Policy, prompt: str, least: int, most: int) -> list[int]:
    """A prompt's tokens, refused where there are too few or too many of them."""
    ids = list(encode(policy, [prompt])[0])
    if not least <= len(ids) <= most:
        got = f"{prompt[:40]!r} of {len(ids)} tokens"
        wanted = f"{least} to {most}, in a context of {policy.context}"
        raise UserError("prompt", got, wanted, "choose another `prompt`")
    return ids
