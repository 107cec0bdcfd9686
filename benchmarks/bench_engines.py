"""Claim: the own loop and TRL end at the same reward, within the spread of the seeds.

30 updates of label-copy from one checkpoint with 5 seeds each, same hyper-parameters and data. The
engines draw different actions, so that the means agree as two samples of one distribution do.
"""

from __future__ import annotations

import math
import statistics
import sys

from machine import machine, seconds
from valuegrad.budget import Budget
from valuegrad.model.loading import load_policy
from valuegrad.model.policy import Policy
from valuegrad.tasks.label_copy import label_copy
from valuegrad.tasks.task import Task
from valuegrad.training.train import train

SEEDS = 5
BUDGET = Budget(learning_rate=2e-5, updates=(10, 20, 30), prompts_per_update=8, seeds=SEEDS)


def rewards(policy: Policy, task: Task, engine: str) -> list[float]:
    """The held-out reward after the last update, by seed."""
    budget = Budget(**{**vars(BUDGET), "engine": engine})
    runs = [train(policy, task, budget=budget, seed=seed) for seed in range(SEEDS)]
    before = runs[0].reward_before
    found = [run.rewards_after[-1] for run in runs]
    mean, spread = statistics.mean(found), statistics.stdev(found)
    print(
        f"{engine}: reward {before:.4f} → {mean:.4f}, spread of the seeds {spread:.4f}", flush=True
    )
    return found


def main(folder: str) -> None:
    print(machine())
    policy, task = load_policy(folder), label_copy(prompts=128)
    found: list[list[float]] = []
    for engine in ("one_token", "trl"):
        spent = seconds(lambda engine=engine: found.append(rewards(policy, task, engine)))
        print(f"{engine}: {spent / SEEDS / BUDGET.updates[-1]:.2f} s an update, all included")
    (own, theirs), spreads = map(statistics.mean, found), [statistics.stdev(x) for x in found]
    error = math.sqrt(sum(s**2 for s in spreads) / SEEDS)
    print(
        f"difference of the means: {theirs - own:+.4f}, {abs(theirs - own) / error:.1f} standard "
        f"errors; larger spread {max(spreads):.4f}"
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/pretrain/step300")
