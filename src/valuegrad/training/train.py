"""Which engine runs GRPO: the own loop for one-token answers, TRL for everything else."""

from collections.abc import Callable
from dataclasses import replace

from valuegrad.budget import Budget
from valuegrad.errors import UserError
from valuegrad.model.policy import Policy
from valuegrad.prompts import TaskPrompts, tokenise
from valuegrad.tasks.task import Task, check_task
from valuegrad.training.one_token import train_one_token
from valuegrad.training.run import Training


def train(
    policy: Policy,
    task: Task,
    updates: tuple[int, ...] | None = None,
    *,
    budget: Budget | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda update: None,
) -> Training:
    """Run GRPO from a policy and read the held-out reward off at several budgets (Eq. 1).

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
    prompts = tokenise(policy, task)
    if not _by_trl(budget, prompts, task.name):
        return train_one_token(policy, prompts, budget=budget, seed=seed, progress=progress)
    try:
        from valuegrad.training.grpo_trl import train_with_trl
    except ModuleNotFoundError as error:
        if error.name not in ("trl", "datasets", "accelerate"):
            raise
        got, fix = f"trl without the package {error.name}", "pip install 'valuegrad[trl]'"
        raise UserError("engine", got, "TRL installed", fix) from error
    return train_with_trl(policy, prompts, budget=budget, seed=seed, progress=progress)


def _by_trl(budget: Budget, prompts: TaskPrompts, task: str) -> bool:
    """Whether TRL runs a budget, which ``one_token`` refuses for longer completions and LoRA."""
    single, lora = prompts.kind == "one token", budget.lora_rank > 0
    if budget.engine == "one_token" and (not single or lora):
        got = "one_token with LoRA" if single else f"one_token for {task}"
        wanted = "which trains LoRA" if single else "its completions are longer than one token"
        raise UserError("engine", got, f"auto or trl: {wanted}", "leave it out")
    return budget.engine == "trl" or not single or lora
