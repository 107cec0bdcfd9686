"""One statement of the theory with both of its sides evaluated: a row of ``valuegrad verify``."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Form = Literal["corrected", "paper"]
# Relative error up to which an identity holds in float64: rounding.
EXACT = 1e-10


@dataclass(frozen=True)
class Statement:
    """An identity or an inequality, evaluated.

    Attributes:
        name, source: what it says in a few words, and where it stands, such as ``"Eq. 15"``.
        left, right: its sides, the norm of each where they are vectors.
        error: how far an identity is from holding, relative to the larger side; for an inequality
            left / right − 1, so that above 0 it fails.
        tolerance: the error up to which it counts as holding: rounding, or for an estimate the
            width that its standard error allows.
        relation: ``"="`` or ``"<="``.
        form: ``"corrected"``, what is right; ``"paper"``, the paper's own form where that fails.
        note: what a reader should know to read the numbers.

    Example:
        >>> Statement("one is one", "arithmetic", 1.0, 1.0, 0.0, 1e-12).holds
        True
    """

    name: str
    source: str
    left: float
    right: float
    error: float
    tolerance: float
    relation: Literal["=", "<="] = "="
    form: Form = "corrected"
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance; a NaN never is."""
        return self.error <= self.tolerance

    @property
    def slack(self) -> float:
        """Right / left, by which an inequality holds; NaN where the left side is 0."""
        return self.right / self.left if self.left else math.nan


def equality(
    name: str,
    source: str,
    left: Tensor | float,
    right: Tensor | float,
    tolerance: float = EXACT,
    *,
    form: Form = "corrected",
    note: str = "",
) -> Statement:
    """An identity of two arrays: its error is ‖left − right‖ / max(‖left‖, ‖right‖)."""
    one, other = (torch.as_tensor(side, dtype=torch.float64) for side in (left, right))
    difference, sizes = float((one - other).norm()), (float(one.norm()), float(other.norm()))
    error = difference / max(sizes) if max(sizes) else difference
    return Statement(name, source, *sizes, error, tolerance, "=", form, note)


def inequality(
    name: str, source: str, left: float, right: float, *, form: Form = "corrected", note: str = ""
) -> Statement:
    """A bound, left ≤ right up to rounding: its error is left / right − 1."""
    error = left / right - 1 if right else -1.0 if left <= 0 else math.inf
    return Statement(name, source, left, right, error, 1e-9, "<=", form, note)
