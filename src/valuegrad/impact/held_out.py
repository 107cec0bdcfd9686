"""The expected reward on a task's held-out prompts: exact where it can be, from rollouts otherwise.

N prompts
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from valuegrad.credit.answer_gradients import answer_values
from valuegrad.impact.vocabulary import expected_rewards
from valuegrad.model.policy import Policy
from valuegrad.one_token_prompts import one_token_prompts
from valuegrad.prompts import completion_prompts, one_token
from valuegrad.sampler import rollouts as draw
from valuegrad.tasks.task import Task


def held_out_rewards(
    policy: Policy, task: Task, *, rollouts: int = 16, seed: int = 0
) -> Float[Tensor, " N"]:
    """E[R] of each held-out prompt.

    Args:
        policy: the policy.
        task: any task.
        rollouts: completions drawn of each prompt where the reward has no closed form. The same
            seed before and after training couples the draws, which takes noise off the gain.
        seed: of the draws.

    Returns:
        One reward a prompt, float64: exact for one-token answers and exact rewards, else a mean.

    Raises:
        UserError: prompts, answers or a reward that cannot be used.

    Example:
        ``held_out_rewards(load_policy("runs/step100"), arithmetic()).mean()``
    """
    if one_token(policy, task):
        prompts = one_token_prompts(policy, task.evaluation, task.reward)
        return expected_rewards(policy, prompts)
    asked = completion_prompts(policy, task, task.evaluation)
    if asked.exact:
        return answer_values(policy, asked)
    return draw(policy, asked, rollouts, seed=seed).rewards.mean(1)
