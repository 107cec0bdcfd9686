"""Every statement of the theory, evaluated on one policy: both sides, and whether it holds.

The corrected statements hold; the paper's own form is listed beside them where it does not
(theory §1 to §6). In float64, on one short prompt and a completion that the policy itself draws.
"""

from collections.abc import Callable, Iterable

import torch

from valuegrad.errors import UserError
from valuegrad.model.policy import Policy
from valuegrad.theory import (
    attention_statements,
    continuous_lens,
    credit_statements,
    gap_statements,
    impact_statements,
    relaxed_statements,
    theorem_one_statements,
    update_statements,
    value_statements,
)
from valuegrad.theory.case import Case, make_case
from valuegrad.theory.settings import PROMPT
from valuegrad.theory.statement import Statement

PARTS: dict[str, Callable[[Case], Iterable[Statement]]] = {
    "costates": credit_statements.costate_statements,
    "adjoint recursion": credit_statements.recursion_statements,
    "value gradients": value_statements.value_gradient_statements,
    "norms": value_statements.norm_statements,
    "exact answers": value_statements.answer_statements,
    "relaxed rollouts": relaxed_statements.relaxed_statements,
    "sampling gap": gap_statements.sampling_gap_statements,
    "attention paths": attention_statements.attention_statements,
    "Theorem 1": theorem_one_statements.theorem_one_statements,
    "impact": impact_statements.impact_statements,
    "impact of exact answers": impact_statements.exact_answer_statements,
    "updates": update_statements.update_statements,
    "continuous lens": lambda case: continuous_lens.control_statements(case.seed),
}


def verify(
    policy: Policy,
    *,
    prompt: str = PROMPT,
    seed: int = 0,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Statement]:
    """Evaluate every statement of the theory on a policy.

    Args:
        policy: loaded with dtype float64.
        prompt: text that the policy's own completion follows.
        seed: of the completion, the advantages, the rewards and the directions.
        progress: called with what is evaluated next.

    Returns:
        The statements, in the order of the theory.

    Raises:
        UserError: a policy in another dtype, or a prompt of fewer than 2 tokens or too long.

    Example:
        ``all(s.holds for s in verify(load_policy(path, dtype="float64")) if s.form != "paper")``
    """
    if policy.head.dtype != torch.float64:
        got = str(policy.head.dtype).removeprefix("torch.")
        wanted = "float64, in which identities hold to rounding"
        raise UserError("dtype", got, wanted, "load the policy with dtype float64")
    case = make_case(policy, prompt, seed)
    found: list[Statement] = []
    for name, statements in PARTS.items():
        progress(name)
        found += statements(case)
    return found
