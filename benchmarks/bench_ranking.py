"""Claim: ranking a trajectory by `score` takes at most 1/30 of ranking it by `train`.

`score` with as few prompts as keep the rank correlation of its ranking with the 256-prompt one at
0.98, against `train` with 30 updates and 3 seeds. Needs the checkpoints of `make demo`.
"""

from __future__ import annotations

import statistics
import sys

import numpy as np
from scipy.stats import spearmanr

from machine import machine, seconds
from valuegrad.budget import Budget
from valuegrad.checkpoints.references import resolve
from valuegrad.impact.score import score
from valuegrad.model.loading import load_policy
from valuegrad.tasks.label_copy import label_copy
from valuegrad.training.train import train

COUNTS = (256, 128, 96, 64, 48, 32, 24, 16)
BUDGET = Budget(learning_rate=2e-5, updates=(30,), seeds=3)
TRAINED = 4


def main(references: list[str]) -> None:
    print(machine())
    policies = [load_policy(checkpoint) for checkpoint in resolve(references)]
    task_of = {count: label_copy(prompts=count) for count in COUNTS}

    def rank(count: int) -> list[float]:
        return [score(p, task_of[count], budget=BUDGET).probe_step for p in policies]

    whole = rank(256)
    fewest = 256
    for count in COUNTS[1:]:
        agreement = float(spearmanr(rank(count), whole).statistic)
        print(f"{count} prompts: rank correlation with 256 prompts {agreement:.3f}")
        if not agreement >= 0.98:
            break
        fewest = count
    # Every checkpoint costs the same to train: a few of them, spread out, stand for all.
    chosen = [policies[i] for i in np.linspace(0, len(policies) - 1, TRAINED).round().astype(int)]
    ratios = []
    for policy in chosen:
        scoring = statistics.median(
            seconds(lambda p=policy: score(p, task_of[fewest], budget=BUDGET)) for _ in range(5)
        )
        training = seconds(
            lambda p=policy: [train(p, task_of[256], budget=BUDGET, seed=s) for s in range(3)]
        )
        ratios.append(training / scoring)
    median = statistics.median(ratios)
    print(
        f"train / score with {fewest} prompts, a checkpoint: {median:.0f} "
        f"({min(ratios):.0f} … {max(ratios):.0f}), at least 30"
    )


if __name__ == "__main__":
    main(sys.argv[1:] or ["runs/demo/pretrain/step*"])
