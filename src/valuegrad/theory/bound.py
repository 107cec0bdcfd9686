"""The sampling gap against its bounds over a task's prompts, by checkpoint (Prop. 2, Fig. 2)."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from valuegrad.credit.covariance_bounds import table_diameters
from valuegrad.credit.sampling_gap import LINKS, sampling_gaps, table_norms
from valuegrad.errors import UserError
from valuegrad.model.policy import Policy
from valuegrad.model.tokens import encode
from valuegrad.rewards.example import Example
from valuegrad.theory.settings import BoundSettings

# How far rounding may carry a gap above its bound.
ROUNDING = {"float64": 1e-9, "float32": 1e-4}


def bound_points(
    policy: Policy,
    examples: Sequence[Example],
    *,
    positions: int = BoundSettings.positions,
    temperature: float = BoundSettings.temperature,
) -> list[dict[str, Any]]:
    """Measure the gap and its bounds at positions of some prompts and their answers.

    Args:
        policy: the policy.
        examples: prompts with answers, as of a task's held-out split.
        positions: of each, spread evenly and ending where the answer's first token is scored.
        temperature: τ of the relaxation, above 0.

    Returns:
        One object a point, with the keys of ``valuegrad bound --json``.

    Raises:
        UserError: positions below 1, a temperature that is not above 0, prompts beyond the context.

    Example:
        ``bound_points(load_policy("runs/step100"), label_copy().evaluation[:8])``
    """
    if positions < 1:
        fix = f"use the default, {BoundSettings.positions}"
        raise UserError("positions", str(positions), "1 or more", fix)
    tables = {"norms": table_norms(policy), "diameters": table_diameters(policy)}
    checkpoint = policy.checkpoint
    found = []
    for example in examples:
        prompt, whole = encode(policy, [example.prompt, example.prompt + example.answer])
        last = min(len(prompt), len(whole) - 1) - 1
        if last < 0:
            got = f"the prompt {example.prompt[:40]!r} of {len(prompt)} tokens"
            wanted = "prompts and answers of at least one token each"
            raise UserError("task", got, wanted, "change the task")
        count = min(positions, last + 1)
        chosen = sorted({last * (i + 1) // count for i in range(count)})
        for gap in sampling_gaps(policy, whole, chosen, temperature, **tables):
            names = {"checkpoint": checkpoint.name, "step": checkpoint.step}
            found.append({**names, "prompt": example.prompt, **asdict(gap)})
    return found


def summarise_bounds(points: Sequence[Mapping[str, Any]], dtype: str) -> dict[str, Any]:
    """What the points say: violations, the smallest constants, how much tighter the sharp bound is.

    Args:
        points: from `bound_points`, of any number of checkpoints.
        dtype: in which they were measured, for the rounding that is allowed.

    Returns:
        The summary object that ends ``valuegrad bound --json``. `tighter` is the paper's bound over
        the sharp one, `looseness` the sharp one over the gap and `covariance_looseness` the one by
        covariances over the gap, all in the median;
        `smallest_constant` is the least C with which Eq. 21 holds at every point.
    """
    allowed = 1 + ROUNDING[dtype]
    names = dict.fromkeys(p["checkpoint"] for p in points)
    groups = [[p for p in points if p["checkpoint"] == name] for name in names]
    medians = ("entropy", "gap", "bound_covariance", "bound_linear", "bound_paper")
    return {
        "summary": True,
        **_verdict(points, allowed),
        "looseness": _looseness(points, "bound_linear"),
        "covariance_looseness": _looseness(points, "bound_covariance"),
        "checkpoints": [
            {
                **{name: group[0][name] for name in ("checkpoint", "step")},
                **_verdict(group, allowed),
                **{name: _median([p[name] for p in group]) for name in medians},
            }
            for group in groups
        ],
    }


def _verdict(points: Sequence[Mapping[str, Any]], allowed: float) -> dict[str, Any]:
    """What is said of all points and of each checkpoint's; a violation is a broken link."""
    sharp = [p for p in points if p["bound_linear"] > 0]
    constants = [p["smallest_constant"] for p in points if math.isfinite(p["smallest_constant"])]
    broken = [any(not p[low] <= p[high] * allowed for low, high in LINKS) for p in points]
    return {
        "points": len(points),
        "violations": sum(broken),
        "tighter": _median([p["bound_paper"] / p["bound_linear"] for p in sharp]),
        "smallest_constant": max(constants, default=math.nan),
    }


def _looseness(points: Sequence[Mapping[str, Any]], bound: str) -> float:
    return _median([p[bound] / p["gap"] for p in points if p["gap"] > 0])


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan
