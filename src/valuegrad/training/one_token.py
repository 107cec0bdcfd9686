"""GRPO for one-token answers: each prompt forwarded once, its G actions drawn from that forward.

An action is one token, so a group needs no rollouts: the next-token distribution at the prompt's
end is the whole policy there. One update costs one forward and one backward pass over the prompts.

B prompts of an update · G actions a prompt · V vocabulary
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from valuegrad.budget import Budget
from valuegrad.errors import NotFiniteError
from valuegrad.impact.held_out import held_out_rewards
from valuegrad.methods import advantages, zero_spread
from valuegrad.model.batches import final_states
from valuegrad.model.policy import Policy, check_full_precision, logits
from valuegrad.prompts import Prompts, TaskPrompts
from valuegrad.training.objective import grpo_objective
from valuegrad.training.run import Training, diverging, prompt_order


def train_one_token(
    policy: Policy,
    prompts: TaskPrompts,
    *,
    budget: Budget,
    seed: int = 0,
    progress: Callable[[int], None] = lambda update: None,
) -> Training:
    """As `train`, for prompts with one-token answers; the policy is the reference of the KL."""
    check_full_precision(policy)
    learner = Policy(copy.deepcopy(policy.model), policy.tokenizer, policy.checkpoint)
    parameters = [p for p in learner.model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=budget.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    order = prompt_order(len(prompts.train), budget.prompts_per_update, generator)
    before = float(held_out_rewards(policy, prompts.evaluation).mean())
    after: list[float] = []
    equal_groups = groups = done = 0
    with diverging(budget):
        while done < budget.updates[-1]:
            batch = _Batch(policy, prompts.train, next(order), budget)
            for _ in range(min(budget.inner_epochs, budget.updates[-1] - done)):
                loss = -batch.objective(learner, generator)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters, budget.max_gradient_norm)
                optimiser.step()
                done += 1
                progress(done)
                if done in budget.updates:
                    after.append(float(held_out_rewards(learner, prompts.evaluation).mean()))
            equal_groups += batch.equal_groups
            groups += len(batch.rows)
    return Training(seed, budget, before, tuple(after), equal_groups / groups, "one_token")


class _Batch:
    """The prompts of one update, and after the first pass over them the actions drawn."""

    def __init__(
        self, reference: Policy, prompts: Prompts, rows: list[int], budget: Budget
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
            raise NotFiniteError("probabilities that are not finite")
        size = self.budget.group_size
        drawn = torch.multinomial(log_p.exp().cpu(), size, replacement=True, generator=generator)
        actions = [[(token,) for token in group] for group in drawn.tolist()]
        rewards = self.prompts.rewards_of(self.reference, self.rows, actions).float()
        self.actions = drawn.to(log_p.device)
        self.advantages = advantages(rewards.to(log_p.device), self.budget.method)
        self.equal_groups = int(zero_spread(rewards).sum())
        self.logp_old = log_p.gather(1, self.actions).view(-1, 1)
