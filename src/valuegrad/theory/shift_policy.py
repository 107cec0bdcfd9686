"""Score function and pathwise derivative under additive noise, by quadrature (Lemma 1, Eq. 10).

For a ~ ν(a − ā) and any differentiable signal h: E[h(a) ∂log ν/∂ā] = E[h′(a)], one dimension of the
action. A constant coefficient Â goes through (correction D); an Â that depends on the action does
not, which is where the paper's Eq. 11 fails for the advantage of a sampled action.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scipy import stats
from scipy.integrate import quad

Signal = Callable[[float], float]

# Families of Lemma 1's noise: smooth densities whose boundary terms vanish.
NOISES: dict[str, Any] = {
    "Gaussian": stats.norm(),
    "logistic": stats.logistic(),
    "Student-t": stats.t(df=7),
}


@dataclass(frozen=True)
class Sides:
    """Both sides of Lemma 1: the score-function and the pathwise expectation."""

    score_function: float
    pathwise: float


def expectation(noise: str, mean: float, signal: Signal) -> float:
    """E[h(a)] for a = ā + ξ, by adaptive quadrature.

    Args:
        noise: a name in `NOISES`.
        mean: ā.
        signal: h.

    Returns:
        The expectation.

    Example:
        >>> round(expectation("Gaussian", 2.0, lambda a: a * a), 9)
        5.0
    """
    law = NOISES[noise]
    return _integral(lambda u: signal(mean + u) * law.pdf(u))


def sides(noise: str, mean: float, signal: Signal, slope: Signal) -> Sides:
    """Both sides of E[h(a) ∂log π(a)/∂ā] = E[h′(a)].

    Args:
        noise: a name in `NOISES`.
        mean: ā.
        signal: h, of an order of growth that the noise's tails outweigh.
        slope: h′, or what stands in its place.

    Returns:
        Both expectations.

    Example:
        >>> found = sides("logistic", 0.5, lambda a: a * a, lambda a: 2 * a)
        >>> round(found.score_function, 9), round(found.pathwise, 9)
        (1.0, 1.0)
    """
    law = NOISES[noise]
    score = _SCORES[noise]
    return Sides(
        _integral(lambda u: signal(mean + u) * score(u) * law.pdf(u)),
        expectation(noise, mean, slope),
    )


# ∂log ν(a − ā)/∂ā at u = a − ā.
_SCORES: dict[str, Signal] = {
    "Gaussian": lambda u: u,
    "logistic": lambda u: math.tanh(u / 2),
    "Student-t": lambda u: 8 * u / (7 + u * u),
}


def _integral(function: Signal) -> float:
    below, _ = quad(function, -math.inf, 0, epsabs=1e-13, epsrel=1e-12, limit=400)
    above, _ = quad(function, 0, math.inf, epsabs=1e-13, epsrel=1e-12, limit=400)
    return float(below + above)
