"""The expected reward on held-out prompts: exact where it can be, from rollouts otherwise.

N prompts
"""

from jaxtyping import Float
from torch import Tensor

from valuegrad.impact import sampled, teacher_forced, vocabulary
from valuegrad.model.policy import Policy
from valuegrad.prompts import Prompts, tokenise
from valuegrad.sampler import check_draws
from valuegrad.sampler import rollouts as draw
from valuegrad.tasks.task import Task


def held_out_rewards(
    policy: Policy, task: Task | Prompts, *, rollouts: int = 16, seed: int = 0
) -> Float[Tensor, " N"]:
    """E[R] of each held-out prompt.

    Args:
        policy: the policy.
        task: any task, or prompts of one from `tokenise`.
        rollouts: completions drawn of each prompt where the reward has no closed form. The same
            seed before and after training couples the draws, which takes noise off the gain.
        seed: of the draws.

    Returns:
        One reward a prompt, float64: exact for one-token answers and exact rewards, else a mean.

    Raises:
        UserError: prompts, answers or a reward that cannot be used.
        RunError: logits that are not finite; draws that are not the policy's.

    Example:
        ``held_out_rewards(load_policy("runs/step100"), arithmetic()).mean()``
    """
    prompts = tokenise(policy, task).evaluation if isinstance(task, Task) else task
    if prompts.kind == "one token":
        found = vocabulary.rewards(policy, prompts)
    elif prompts.kind == "exact":
        found = teacher_forced.rewards(policy, prompts)
    else:
        drawn = draw(policy, prompts, rollouts, seed=seed)
        check_draws(policy, drawn.sequences, drawn.lengths, drawn.logp)
        found = sampled.rewards(drawn)
    prompts.check_finite(policy, "an expected reward", found)
    return found
