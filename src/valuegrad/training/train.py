"""Which engine runs GRPO: the own loop for one-token answers, TRL for everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.model.policy import Policy
from valuegrad.prompts import one_token
from valuegrad.tasks.task import Task, check_task
from valuegrad.training import one_token as own_loop
from valuegrad.training.one_token import Training


def engine_for(policy: Policy, task: Task, budget: Budget) -> Literal["one_token", "trl"]:
    """The engine that runs a budget.

    Args:
        policy: whose tokens decide how long the answers are.
        task: the task.
        budget: with the engine asked for.

    Returns:
        ``one_token`` or ``trl``.

    Raises:
        UserError: ``one_token`` with longer completions or with LoRA.

    Example:
        ``engine_for(policy, arithmetic(), Budget())`` is ``"trl"``
    """
    if budget.engine == "trl" or (budget.engine == "auto" and budget.lora_rank):
        return "trl"
    single = one_token(policy, task)
    if budget.engine == "one_token" and (not single or budget.lora_rank):
        got = "one_token with LoRA" if single else f"one_token for {task.name}"
        wanted = (
            "auto or trl, which trains LoRA"
            if single
            else ("auto or trl: its completions are longer than one token")
        )
        raise UserError("engine", got, wanted, "leave --engine out")
    return "one_token" if single else "trl"


def train(
    policy: Policy,
    task: Task,
    updates: tuple[int, ...] | None = None,
    *,
    budget: Budget | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda update: None,
) -> Training:
    """Run GRPO from a policy and read the held-out reward off at several budgets.

    The policy itself is left as it is: a copy learns. Adam (betas 0.9 and 0.999, no weight decay)
    at a constant learning rate, so that the reward after k updates is the same in a run of k as in
    a longer one.

    Args:
        policy: where to start.
        task: RL draws from its training prompts, the reward is read off its held-out ones.
        updates: shorthand that replaces ``budget.updates``.
        budget: the hyper-parameters and the engine; None takes the defaults.
        seed: of prompt order and completions.
        progress: called with the number of updates done.

    Returns:
        The rewards before and after.

    Raises:
        UserError: an engine that does not fit the task or is not installed, an unusable reward, a
            half-precision policy.
        RunError: the policy left the finite numbers.

    Example:
        ``train(load_policy("runs/step100"), label_copy(), (10, 20)).gains``
    """
    budget = budget or Budget()
    if updates is not None:
        budget = replace(budget, updates=tuple(updates))
    check_task(task)
    if engine_for(policy, task, budget) == "one_token":
        return own_loop.train(policy, task, budget=budget, seed=seed, progress=progress)
    try:
        from valuegrad.training.grpo_trl import train_with_trl
    except ModuleNotFoundError as error:
        if error.name not in ("trl", "datasets", "accelerate"):
            raise
        raise UserError(
            "engine",
            f"trl without the package {error.name}",
            "TRL installed",
            "pip install 'valuegrad[trl]'",
        ) from error

    return train_with_trl(policy, task, budget=budget, seed=seed, progress=progress)
