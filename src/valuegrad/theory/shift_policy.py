"""Score function and pathwise derivative under additive noise (Lemma 1, Eq. 10, correction D).

For a ~ ν(a − ā) and any differentiable signal h: E[h(a) ∂log ν/∂ā] = E[h′(a)], one dimension of the
action. A constant coefficient Â goes through (correction D); an Â that depends on the action does
not, which is where the paper's Eq. 11 fails for the advantage of a sampled action.
"""

import math
from collections.abc import Callable
from typing import Any

from scipy import stats

Signal = Callable[[float], float]

# The noise ν with ∂log ν(a − ā)/∂ā at u = a − ā: smooth densities whose boundary terms vanish.
NOISES: dict[str, tuple[Any, Signal]] = {
    "Gaussian": (stats.norm(), lambda u: u),
    "logistic": (stats.logistic(), lambda u: math.tanh(u / 2)),
    "Student-t": (stats.t(df=7), lambda u: 8 * u / (7 + u * u)),
}


def expectation(noise: str, mean: float, signal: Signal, factor: Signal = lambda u: 1.0) -> float:
    """E[h(a) f(ξ)] for a = ā + ξ, by adaptive quadrature."""
    law, _ = NOISES[noise]
    accuracy = {"epsabs": 1e-13, "epsrel": 1e-12, "limit": 400}
    return float(law.expect(lambda u: signal(mean + u) * factor(u), **accuracy))


def sides(noise: str, mean: float, signal: Signal, slope: Signal) -> tuple[float, float]:
    """Both sides of E[h(a) ∂log π(a)/∂ā] = E[h′(a)]; h grows less than the noise's tails fall."""
    _, score = NOISES[noise]
    return expectation(noise, mean, signal, score), expectation(noise, mean, slope)
