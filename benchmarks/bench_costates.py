"""Claim: costates at every site cost about a forward and a backward pass without parameters.

All-site total costates against the model's own forward pass of the same completions, logits at
their positions only: at most 2.5 times the time, with the immediate/transported split at most 5.
Against a backward pass that also forms parameter gradients: at least 1.3 times faster, and less
peak memory. About 100M random parameters, 50,304 tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from machine import machine, paired_ratio, ratio
from memory import peak_memory
from models import random_policy
from valuegrad.credit.completions import Completions, completions
from valuegrad.credit.costates import costates_at
from valuegrad.model.loading import load_policy
from valuegrad.model.policy import Policy

BATCH, PROMPT, COMPLETION = 8, 64, 192


def batch_of(policy: Policy) -> Completions:
    """Random prompts and completions, with advantages of either sign."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(policy.head.shape[0], (BATCH, PROMPT + COMPLETION), generator=generator)
    return completions(policy, ids, PROMPT, torch.randn(BATCH, generator=generator))


def forward(policy: Policy, batch: Completions) -> torch.Tensor:
    """Transformers' own forward pass, with logits where a completion token is scored."""
    ids = torch.tensor(batch.tokens)
    with torch.no_grad():
        return policy.model(ids, use_cache=False, logits_to_keep=COMPLETION + 1).logits


def with_parameters(policy: Policy, batch: Completions) -> list[torch.Tensor]:
    """The same costates the usual way: a training step's backward pass, hidden states kept."""
    ids = torch.tensor(batch.tokens)
    policy.model.zero_grad(set_to_none=True)
    found = policy.model(
        ids, use_cache=False, output_hidden_states=True, logits_to_keep=COMPLETION + 1
    )
    for state in found.hidden_states:
        state.retain_grad()
    log_p = found.logits[:, :-1].log_softmax(2).gather(2, ids[:, PROMPT:, None])[..., 0]
    (log_p * batch.advantages[:, :COMPLETION]).sum().backward()
    return [state.grad for state in found.hidden_states]


def costates(policy: Policy, batch: Completions, split: bool = False) -> object:
    """Costates at every site of the model."""
    return costates_at(policy, batch, policy.sites, split=split)


def prepared(folder: str, work: Callable[[Policy, Completions], object]) -> Callable[[], object]:
    """The work on a policy loaded in this process."""
    policy = load_policy(folder)
    batch = batch_of(policy)
    # Once in small, for what Python and its libraries load when they are first used.
    ids = torch.zeros(1, PROMPT + COMPLETION, dtype=torch.long)
    work(policy, completions(policy, ids, PROMPT, torch.ones(1)))
    policy.model.zero_grad(set_to_none=True)
    return lambda: work(policy, batch)


def main() -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        policy = random_policy(Path(folder))
        batch = batch_of(policy)
        print(
            f"{BATCH} completions of {COMPLETION} tokens after {PROMPT}, {len(policy.sites)} sites"
        )
        usual = with_parameters(policy, batch)
        found = costates_at(policy, batch, policy.sites, split=False)
        last = found[policy.sites[-3]].total
        expected = usual[-2][:, PROMPT - 1 : -1]
        error = float((last - expected).norm() / expected.norm())
        print(f"relative difference of the two ways below the last block: {error:.0e}")
        policy.model.zero_grad(set_to_none=True)

        def reference() -> torch.Tensor:
            return forward(policy, batch)

        found_ratio = paired_ratio(lambda: costates(policy, batch), reference)
        print(f"totals at every site / forward: {ratio(found_ratio)}, at most 2.5")
        found_ratio = paired_ratio(lambda: costates(policy, batch, split=True), reference)
        print(f"with the split / forward: {ratio(found_ratio)}, at most 5")
        found_ratio = paired_ratio(
            lambda: with_parameters(policy, batch), lambda: costates(policy, batch)
        )
        print(f"with parameter gradients / totals: {ratio(found_ratio)}, at least 1.3")
        here, there = (
            peak_memory(prepared, folder, w) / 2**20 for w in (costates, with_parameters)
        )
        print(f"peak memory: {here:.0f} MiB, with parameter gradients {there:.0f} MiB")


if __name__ == "__main__":
    main()
