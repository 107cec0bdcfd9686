"""What the statements are evaluated on: one prompt and a completion drawn after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from valuegrad.credit.completions import Completions, completions
from valuegrad.errors import UserError
from valuegrad.model.cache import sampled
from valuegrad.model.policy import Policy

COMPLETION = 5


@dataclass(frozen=True, eq=False)
class Case:
    """What the statements are evaluated on."""

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
    """Draw a completion of a prompt from the policy, and random advantages.

    Args:
        policy: the policy.
        text: the prompt.
        seed: of all that is random.

    Returns:
        The case.

    Raises:
        UserError: a prompt of fewer than 2 tokens, or too long for the context.
    """
    prompt = list(policy.tokenizer(text)["input_ids"])
    most = policy.context - COMPLETION
    if not 2 <= len(prompt) <= most:
        raise UserError(
            "prompt", f"{len(prompt)} tokens", f"2 to {most}", "choose another --prompt"
        )
    generator = torch.Generator().manual_seed(seed)
    sequence = prompt + sampled(policy, prompt, COMPLETION, generator)
    advantages = torch.randn(COMPLETION, generator=generator, dtype=torch.float64)
    return Case(policy, text, prompt, sequence, advantages, generator, seed)
