"""One statement of the theory with both of its sides evaluated: what `valuegrad verify` reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Relation = Literal["=", "<="]
Form = Literal["corrected", "paper"]


@dataclass(frozen=True)
class Statement:
    """An identity or an inequality, evaluated.

    Attributes:
        name: what it says, in a few words.
        source: where it stands, such as ``"Eq. 15"``.
        left: its left side, the norm of it where it is a vector.
        right: its right side, likewise.
        error: how far an identity is from holding, relative to the larger side; for an inequality
            left / right − 1, so that above 0 it fails.
        tolerance: the error up to which it counts as holding: rounding, or for an estimate the
            width that its standard error allows.
        relation: ``"="`` or ``"<="``.
        form: ``"corrected"``, what is right; ``"paper"``, the paper's own form where that fails.
        note: what a reader should know to read the numbers.
    """

    name: str
    source: str
    left: float
    right: float
    error: float
    tolerance: float
    relation: Relation = "="
    form: Form = "corrected"
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance; a NaN never is."""
        return self.error <= self.tolerance

    @property
    def slack(self) -> float:
        """Right / left: how much room an inequality leaves; NaN where the left side is 0."""
        return self.right / self.left if self.left else math.nan


def equality(
    name: str,
    source: str,
    left: Tensor,
    right: Tensor,
    tolerance: float,
    *,
    form: Form = "corrected",
    note: str = "",
) -> Statement:
    """An identity between two arrays of one shape, compared in the Euclidean norm.

    Args:
        name: what it says.
        source: where it stands.
        left: its left side, any shape.
        right: its right side, the same shape.
        tolerance: largest relative error that counts as holding.
        form: ``"corrected"`` or ``"paper"``.
        note: for the reader.

    Returns:
        The statement; its error is ‖left − right‖ / max(‖left‖, ‖right‖).

    Example:
        >>> import torch
        >>> equality("one is one", "arithmetic", torch.ones(2), torch.ones(2), 1e-12).holds
        True
    """
    one, other = left.double(), right.double()
    difference, sizes = float((one - other).norm()), (float(one.norm()), float(other.norm()))
    largest = max(sizes)
    error = difference / largest if largest else difference
    return Statement(name, source, *sizes, error, tolerance, "=", form, note)


def inequality(
    name: str,
    source: str,
    left: float,
    right: float,
    *,
    tolerance: float = 1e-9,
    form: Form = "corrected",
    note: str = "",
) -> Statement:
    """A bound: left ≤ right, up to rounding.

    Args:
        name: what it says.
        source: where it stands.
        left: the smaller side.
        right: the larger side.
        tolerance: how far above 1 left / right may be.
        form: ``"corrected"`` or ``"paper"``.
        note: for the reader.

    Returns:
        The statement; its error is left / right − 1.

    Example:
        >>> inequality("a square is not negative", "arithmetic", 0.0, 4.0).holds
        True
    """
    without_room = -1.0 if left <= 0 else math.inf
    error = left / right - 1 if right else without_room
    return Statement(name, source, left, right, error, tolerance, "<=", form, note)
