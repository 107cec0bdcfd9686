"""Claim: costates do not need the logits of a whole batch.

Peak memory above the loaded model at a vocabulary of 100,000, batch 8 and length 512: less than a
quarter of what full logits in float32 take.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from machine import machine
from memory import peak_memory
from models import random_policy
from valuegrad.credit.completions import completions
from valuegrad.credit.costates import costates_at
from valuegrad.model.loading import load_policy

VOCABULARY, BATCH, LENGTH = 100_000, 8, 512


def prepared(folder: str, split: bool) -> Callable[[], object]:
    """Costates at every site, the whole sequence a completion but for its first token."""
    policy = load_policy(folder)
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    batch = completions(policy, ids, 1, torch.ones(BATCH))
    # Once in small, for what Python and its libraries load when they are first used.
    costates_at(policy, completions(policy, ids[:1, :4], 1, torch.ones(1)), policy.sites)
    return lambda: costates_at(policy, batch, policy.sites, split=split)


def main() -> None:
    print(machine())
    full = BATCH * LENGTH * VOCABULARY * 4
    with tempfile.TemporaryDirectory() as folder:
        random_policy(
            Path(folder),
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
        )
        print(f"full logits in float32: {full / 2**20:.0f} MiB")
        for split in (False, True):
            peak = peak_memory(prepared, folder, split)
            what = "with the split" if split else "totals"
            print(f"{what}: {peak / 2**20:.0f} MiB, {peak / full:.3f} of it, at most 0.25")


if __name__ == "__main__":
    main()
