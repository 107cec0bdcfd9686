"""Values and value gradients of exact answers of any length, by teacher forcing (identity F).

With reward 1 for one answer y and its stop token and 0 for everything else, V_t = π(y_≥t | s_t) at
every state along y. So G_t = V_t ∂/∂h_t log V_t, and one backward pass of log V_1 gives it at every
t, for no earlier log-probability depends on h_t. No completion is sampled. Where several tokens
stop a completion, the last factor is the sum of their probabilities.

N prompts · B of them · M scored positions · T tokens of the longest answer, stop included · D width
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from valuegrad.credit.value_gradient import FORWARD_TOKENS
from valuegrad.errors import UserError
from valuegrad.model.policy import Policy, Site, logits
from valuegrad.model.sites import check_site, recorded
from valuegrad.one_token_prompts import batches
from valuegrad.prompts import CompletionPrompts

# Elements of one array of scored positions × vocabulary.
HEAD_ELEMENTS = 2**23


@dataclass(frozen=True, eq=False)
class AnswerGradients:
    """Values and value gradients along the answers; made by `answer_gradients`.

    Entries past the end of an answer are 0.

    Attributes:
        site: where the gradients live.
        value: V_t = π(y_≥t | s_t), the probability of what is left of the answer.
        gradient: G_t = ∂V_t/∂h_t, reward units per unit of the hidden state.
        final: h_1 at ``"final"``: the state of the prompt's last token.
        mask: which entries belong to an answer.
    """

    site: Site
    value: Float[Tensor, "N T"]
    gradient: Float[Tensor, "N T D"]
    final: Float[Tensor, "N D"]
    mask: Bool[Tensor, "N T"]


def answer_gradients(
    policy: Policy, prompts: CompletionPrompts, site: Site = "final"
) -> AnswerGradients:
    """The value and its gradient at every state along every prompt's answer.

    Args:
        policy: the policy.
        prompts: with an exact reward.
        site: ``"embedding"``, a block's number or ``"final"``.

    Returns:
        Values in float64 and gradients in the head's dtype; ``[:, 0]`` is the prompt's own state.

    Raises:
        UserError: no such site, or a reward that is not exact.

    Example:
        ``answer_gradients(policy, completion_prompts(policy, task, task.evaluation)).value[:, 0]``
    """
    site = check_site(policy, site)
    _check_exact(prompts)
    steps = [len(a) + bool(prompts.stops) for a in prompts.answers]
    shape, width = (len(prompts), max(steps)), policy.head.shape[1]
    mask = (torch.arange(shape[1]) < torch.tensor(steps)[:, None]).to(policy.device)
    value = torch.zeros(shape, dtype=torch.float64, device=policy.device)
    gradient = policy.head.new_zeros(*shape, width)
    final = policy.head.new_zeros(len(prompts), width)
    for part in _parts(policy, prompts):
        with recorded(policy, [site]) as states:
            finals = part.forward(policy)
            log_p = part.log_probabilities(policy, finals)
            # The backward pass of every prompt's sum at once: no prompt sees another.
            at = finals if site == "final" else states[site]
            (found,) = torch.autograd.grad(log_p.sum(), at)
        log_v = torch.zeros(len(part.rows), shape[1], dtype=torch.float64, device=policy.device)
        log_v[part.place] = log_p.detach()
        # log V_t = Σ_{k≥t} log π_k: a sum from the end.
        log_v = log_v.flip(1).cumsum(1).flip(1)
        rows = torch.tensor(part.rows, device=policy.device)
        v = log_v.exp().where(mask[rows], 0.0)
        value[rows] = v
        picked = found if site == "final" else found[part.position]
        gradient[rows[part.place[0]], part.place[1]] = v[part.place][:, None].to(found) * picked
        final[rows] = finals.detach()[part.first]
    return AnswerGradients(site, value, gradient, final, mask)


def answer_values(policy: Policy, prompts: CompletionPrompts) -> Float[Tensor, " N"]:
    """V = π(y | q) of every prompt: its expected reward, exact, in float64.

    Args:
        policy: the policy.
        prompts: with an exact reward.

    Returns:
        One probability a prompt, for one forward pass.

    Raises:
        UserError: a reward that is not exact.
    """
    _check_exact(prompts)
    value = torch.empty(len(prompts), dtype=torch.float64, device=policy.device)
    with torch.no_grad():
        for part in _parts(policy, prompts):
            value[part.rows] = part.log_values(policy).exp()
    return value


def log_answer_values(
    policy: Policy, prompts: CompletionPrompts
) -> Iterator[tuple[list[int], Float[Tensor, " B"]]]:
    """Log V of some prompts at a time, with gradients to the parameters where these are enabled.

    Args:
        policy: the policy.
        prompts: with an exact reward.

    Yields:
        Row numbers and their log V, float64.
    """
    _check_exact(prompts)
    for part in _parts(policy, prompts):
        yield part.rows, part.log_values(policy)


def _check_exact(prompts: CompletionPrompts) -> None:
    if not prompts.exact:
        raise UserError(
            "reward",
            str(prompts.reward.identity.splitlines()[0]),
            "exact",
            "measure other rewards by rollouts",
        )


class _Part:
    """Some prompts with their answers, padded on the right, which no state of theirs can see."""

    def __init__(self, policy: Policy, prompts: CompletionPrompts, rows: list[int]) -> None:
        self.rows, self.stops = rows, prompts.stops
        longest = max(len(prompts.tokens[r]) + len(prompts.answers[r]) for r in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        row_of: list[int] = []
        position: list[int] = []
        step: list[int] = []
        target: list[int] = []
        for i, row in enumerate(rows):
            prompt, answer = prompts.tokens[row], prompts.answers[row]
            ids[i, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
            # −1 stands for the stop tokens.
            targets = [*answer, -1] if prompts.stops else list(answer)
            row_of += [i] * len(targets)
            position += range(len(prompt) - 1, len(prompt) - 1 + len(targets))
            step += range(len(targets))
            target += targets
        place = policy.device
        self.ids = ids.to(place)
        self.row = torch.tensor(row_of, device=place)
        self.position = self.row, torch.tensor(position, device=place)
        self.place = self.row, torch.tensor(step, device=place)
        self.target = torch.tensor(target, device=place)
        self.first = self.place[1] == 0

    def forward(self, policy: Policy) -> Float[Tensor, "M D"]:
        """The final states that score the answers."""
        output = policy.model.base_model(input_ids=self.ids, use_cache=False)
        return output.last_hidden_state[self.position]  # type: ignore[no-any-return]

    def log_probabilities(
        self, policy: Policy, finals: Float[Tensor, "M D"]
    ) -> Float[Tensor, " M"]:
        """Log π(y_t | s_t) at each scored position, log of the sum over stop tokens at the last."""
        log_p = logits(policy, finals).double().log_softmax(1)
        found = log_p.gather(1, self.target.clamp(min=0)[:, None])[:, 0]
        if not self.stops:
            return found
        # A sum of probabilities may round above 1.
        stopped = log_p[:, list(self.stops)].logsumexp(1).clamp(max=0)
        return torch.where(self.target < 0, stopped, found)

    def log_values(self, policy: Policy) -> Float[Tensor, " B"]:
        """Log V_1 of each prompt."""
        log_p = self.log_probabilities(policy, self.forward(policy))
        return log_p.new_zeros(len(self.rows)).index_add(0, self.row, log_p)


def _parts(policy: Policy, prompts: CompletionPrompts) -> Iterator[_Part]:
    lengths = [len(t) + len(a) for t, a in zip(prompts.tokens, prompts.answers, strict=True)]
    longest = max(map(len, prompts.answers)) + 1
    most = max(1, HEAD_ELEMENTS // (policy.head.shape[0] * longest))
    for rows in batches(lengths, FORWARD_TOKENS):
        for start in range(0, len(rows), most):
            yield _Part(policy, prompts, rows[start : start + most])
