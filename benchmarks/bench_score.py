"""Claim: scoring costs little more than reading the prompts once.

`measure` at the final site, all five methods together, against a bare transformers forward of the
same prompts with logits at the last position only: at most 1.2 times the time. The probe step is
reported apart: at most 4.5 forwards, both what it adds to a whole `score` and alone; its update
takes half as many training prompts. The model has about 100M random parameters and 50,304 tokens.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from machine import machine, paired_ratio, ratio
from models import random_policy
from valuegrad.impact.probe import probe
from valuegrad.impact.score import score
from valuegrad.impact.vocabulary import measure
from valuegrad.model.batches import batches, left_padded
from valuegrad.model.policy import Policy
from valuegrad.prompts import Prompts, tokenise
from valuegrad.tasks.label_copy import label_copy

PROMPTS = 128


@torch.no_grad()
def bare_forward(policy: Policy, prompts: Prompts) -> None:
    """The cheapest way to the same logits in transformers: left padding, the last position only."""
    for rows in batches([len(t) for t in prompts.tokens]):
        ids, mask = left_padded(policy, [prompts.tokens[row] for row in rows])
        policy.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)


def main() -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        policy = random_policy(Path(folder))
        task = label_copy(prompts=PROMPTS)
        prompts = tokenise(policy, task).evaluation
        mean = sum(map(len, prompts.tokens)) / PROMPTS
        print(
            f"{PROMPTS} prompts of {mean:.0f} tokens on average, vocabulary {policy.head.shape[0]}"
        )

        def forward() -> None:
            bare_forward(policy, prompts)

        found = paired_ratio(lambda: measure(policy, task), forward)
        print(f"measure, 5 methods / bare forward: {ratio(found)}, at most 1.2")
        measured = found[0]
        found = paired_ratio(lambda: score(policy, task), forward)
        print(
            f"score / bare forward: {ratio(found)}, of which the probe step adds "
            f"{found[0] - measured:.2f}, at most 4.5"
        )
        found = paired_ratio(lambda: probe(policy, task, distances=[1e-4]), forward)
        print(f"probe step alone / bare forward: {ratio(found)}, at most 4.5")


if __name__ == "__main__":
    main()
