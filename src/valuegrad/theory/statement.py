"""One statement of the theory with both of its sides evaluated: a row of ``valuegrad verify``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Form = Literal["corrected", "paper"]
Kind = Literal["check", "bound", "paper"]
Side = Tensor | float | Sequence[Tensor] | Sequence[float]
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
        """Right / left, by which an inequality holds; NaN where the left side is not above 0."""
        return self.right / self.left if self.left > 0 else math.nan

    @property
    def kind(self) -> Kind:
        """What its holding says: an identity checks the code, for 1% in a side breaks it.

        A bound holds all the same where a side is wrong by less than its slack, and a form of the
        paper's is there to be seen failing.
        """
        if self.form == "paper":
            return "paper"
        return "check" if self.relation == "=" else "bound"

    @property
    def check(self) -> bool:
        """Whether it is an identity that the code is checked by."""
        return self.kind == "check"


def equality(
    name: str,
    source: str,
    left: Side,
    right: Side,
    tolerance: float = EXACT,
    *,
    entrywise: bool = False,
    form: Form = "corrected",
    note: str = "",
) -> Statement:
    """An identity of arrays or lists of them: its error is ‖left − right‖ / max(‖left‖, ‖right‖).

    With ``entrywise`` it is the largest of those errors of the entries, so that a small one counts
    as much as a large one.
    """
    squares, sizes, worst = 0.0, [0.0, 0.0], 0.0
    for one, other in zip(_parts(left), _parts(right), strict=True):
        assert one.shape == other.shape, (name, one.shape, other.shape)
        difference = (one - other).abs()
        squares += float(difference.square().sum())
        sizes = [s + float(x.square().sum()) for s, x in zip(sizes, (one, other), strict=True)]
        larger = torch.maximum(one.abs(), other.abs())
        share = torch.where(difference == 0, 0.0, difference / larger)
        worst = max(worst, float(share.max())) if not share.isnan().any() else math.nan
    largest = math.sqrt(max(sizes))
    error = worst if entrywise else math.sqrt(squares) / (largest or 1.0)
    one_size, other_size = map(math.sqrt, sizes)
    return Statement(name, source, one_size, other_size, error, tolerance, "=", form, note)


def _parts(side: Side) -> list[Tensor]:
    parts = side if isinstance(side, Sequence) else [side]
    return [torch.as_tensor(part, dtype=torch.float64).detach().cpu() for part in parts]


def inequality(
    name: str, source: str, left: float, right: float, *, form: Form = "corrected", note: str = ""
) -> Statement:
    """A bound, left ≤ right up to rounding: its error is left / right − 1."""
    error = left / right - 1 if right else -1.0 if left <= 0 else math.inf
    return Statement(name, source, left, right, error, 1e-9, "<=", form, note)
