"""GRPO for one-token answers: each prompt forwarded once, its G actions drawn from that forward.

An action is one token, so a group needs no rollouts: the next-token distribution at the prompt's
end is the whole policy there. One update costs one forward and one backward pass over the prompts.

B prompts of an update · G actions a prompt · V vocabulary
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from valuegrad.budget import Budget
from valuegrad.errors import RunError
from valuegrad.impact.vocabulary import expected_rewards
from valuegrad.methods import advantages, zero_spread
from valuegrad.model.policy import Policy, check_full_precision, final_states, logits
from valuegrad.one_token_prompts import OneTokenPrompts, one_token_prompts
from valuegrad.tasks.task import Task
from valuegrad.training.objective import grpo_objective


@dataclass(frozen=True)
class Training:
    """One run of GRPO from one checkpoint.

    Attributes:
        seed: of the run.
        budget: its hyper-parameters.
        reward_before: mean held-out reward before the first update, reward units.
        rewards_after: the same after each number of updates in ``budget.updates``.
        zero_spread_groups: share of all groups whose actions earned the same.
        engine: what ran it.
    """

    seed: int
    budget: Budget
    reward_before: float
    rewards_after: tuple[float, ...]
    zero_spread_groups: float
    engine: str = "one_token"

    @property
    def gains(self) -> tuple[float, ...]:
        """Reward after minus reward before, per number of updates."""
        return tuple(after - self.reward_before for after in self.rewards_after)


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

    The policy itself is left as it is: a copy learns, and the original is the reference of the KL.
    Adam (betas 0.9 and 0.999, no weight decay) at a constant learning rate, so that the reward
    after k updates is the same in a run of k as in a longer one.

    Args:
        policy: where to start.
        task: a task with one-token answers; RL draws from its training prompts, the reward is read
            off its held-out ones, exactly (Σ_a p_a r_a).
        updates: shorthand that replaces ``budget.updates``.
        budget: the hyper-parameters; None takes the defaults.
        seed: of prompt order and actions.
        progress: called with the number of updates done.

    Returns:
        The rewards before and after.

    Raises:
        UserError: answers that are not one token, an unusable reward, a half-precision policy.
        RunError: the policy left the finite numbers.

    Example:
        ``train(load_policy("runs/step100"), label_copy(), (10, 20)).gains``
    """
    budget = budget or Budget()
    if updates is not None:
        budget = replace(budget, updates=tuple(updates))
    check_full_precision(policy)
    held_out = one_token_prompts(policy, task.evaluation, task.reward)
    prompts = one_token_prompts(policy, task.train, task.reward)
    learner = Policy(copy.deepcopy(policy.model), policy.tokenizer, policy.checkpoint)
    parameters = [p for p in learner.model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=budget.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    drawn = prompt_order(len(prompts), budget.prompts_per_update, generator)
    before = float(expected_rewards(policy, held_out).mean())
    after: list[float] = []
    equal_groups = groups = 0
    done = 0
    while done < budget.updates[-1]:
        batch = _Batch(policy, prompts, next(drawn), budget)
        for _ in range(min(budget.inner_epochs, budget.updates[-1] - done)):
            loss = -batch.objective(learner, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(
                parameters, budget.max_gradient_norm, error_if_nonfinite=False
            )
            optimiser.step()
            done += 1
            progress(done)
            if done in budget.updates:
                after.append(float(expected_rewards(learner, held_out).mean()))
                if not math.isfinite(after[-1]):
                    raise out_of_numbers(budget)
        equal_groups += batch.equal_groups
        groups += len(batch.rows)
    return Training(seed, budget, before, tuple(after), equal_groups / groups)


class _Batch:
    """The prompts of one update, and after the first pass over them the actions drawn."""

    def __init__(
        self, reference: Policy, prompts: OneTokenPrompts, rows: list[int], budget: Budget
    ) -> None:
        self.reference, self.prompts, self.rows, self.budget = reference, prompts, rows, budget
        self.tokens = [prompts.tokens[row] for row in rows]
        self.actions: Tensor | None = None
        self.equal_groups = 0

    def objective(self, learner: Policy, generator: torch.Generator) -> Tensor:
        """Eq. 1 at the learner, one forward pass; the first call draws the actions."""
        log_p = logits(learner, final_states(learner, self.tokens)).float().log_softmax(1)
        if self.actions is None:
            self._draw(log_p.detach(), generator)
        assert self.actions is not None
        kl = logp_ref = None
        if self.budget.beta > 0:
            with torch.no_grad():
                states = final_states(self.reference, self.tokens)
                log_ref = logits(self.reference, states).float().log_softmax(1)
            if self.budget.kl == "exact":
                exact = (log_p.exp() * (log_p - log_ref)).sum(1, keepdim=True)
                kl = exact.expand_as(self.actions).reshape(-1, 1)
            else:
                logp_ref = log_ref.gather(1, self.actions).view(-1, 1)
        logp = log_p.gather(1, self.actions).view(-1, 1)
        return grpo_objective(
            logp,
            self.logp_old,
            logp_ref,
            self.advantages.flatten(),
            torch.ones_like(logp),
            self.budget.clip,
            self.budget.beta,
            kl=kl,
        )

    def _draw(self, log_p: Tensor, generator: torch.Generator) -> None:
        if not torch.isfinite(log_p.exp()).all():
            raise out_of_numbers(self.budget)
        size = self.budget.group_size
        drawn = torch.multinomial(log_p.exp().cpu(), size, replacement=True, generator=generator)
        self.actions = drawn.to(log_p.device)
        rewards = self.prompts.reward_of(self.rows, self.actions)
        self.advantages = advantages(rewards, self.budget.method)
        self.equal_groups = int(zero_spread(rewards).sum())
        self.logp_old = log_p.gather(1, self.actions).view(-1, 1)


def out_of_numbers(budget: Budget) -> RunError:
    """What a run ends with whose policy has left the finite numbers."""
    return RunError(
        f"the policy left the finite numbers at learning rate {budget.learning_rate}; "
        "lower --learning-rate and run again"
    )


def prompt_order(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches of prompts, every prompt once before any comes again."""
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:size]
        waiting = waiting[size:]
