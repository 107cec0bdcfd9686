"""ψ ‖G‖² of grpo over prompts, from counts of successes and unbiased estimates of ‖G‖².

G = p (1 − p) (m₁ − m₀), m_r the mean score vector given the reward. Given the count k, the unbiased
estimate of ‖G‖² is c(k) times one of D = ‖m₁ − m₀‖², and c(k) Bin(k; n, p) is (p (1 − p))² times
Bin(k − 2; n − 4, p). So weights v(k) give the right mean, whatever D is as a function of p, if

    Σ_k v(k) Bin(k − 2; n − 4, p) = ψ(p)    for every p.

For groups of a size that the rollouts can make up it has a solution. In the limit of large groups,
ψ = 1/(σ + ξ), it has none, and E[1/(σ + ξ) | k] solves it only on average over prompts, and only
where D does not depend on p.
"""

import numpy as np
from scipy.stats import binom, hypergeom

from valuegrad.impact.mixing import FloatArray, Mixing
from valuegrad.methods import XI

# What leaving E[1/σ | k] costs beside a squared relative error: far below this, noise outweighs it.
RIDGE = 3e-3


def inverse_deviation(p: FloatArray, step: float = 1.0) -> FloatArray:
    """1/(σ + ξ) of a reward that is higher by a step with probability p."""
    return np.asarray(1 / (step * np.sqrt(p * (1 - p)) + XI))


def group_signal_slopes(
    successes: FloatArray, rollouts: int, group_size: int, step: float = 1.0
) -> FloatArray:
    """v(k) of each prompt for grpo in groups of G ≤ n − 2, without any bias.

    ψ(p, G) is a polynomial of degree G − 2, Σ_j β_j Bin(j; G − 2, p) with
    β_j = (G − 1)/(G (s_{j+1} + ξ)), s_k a group's deviation at k successes. So Bernstein's basis of
    degree n − 4 holds it exactly: its coefficients are hypergeometric means of the β.
    """
    n, size = rollouts, group_size
    k = np.arange(1, size)
    deviation = step * np.sqrt(k * (size - k) / (size * (size - 1)))
    coefficients = (size - 1) / (size * (deviation + XI))
    inner = np.arange(n - 3)[:, None]
    every = np.zeros(n + 1)
    every[2:-2] = hypergeom.pmf(np.arange(size - 1), n - 4, inner, size - 2) @ coefficients
    return np.asarray(every[np.asarray(successes)])


def signal_slopes(
    fit: Mixing, successes: FloatArray, rollouts: int, step: float = 1.0
) -> FloatArray:
    """v(k) of each prompt in the limit of large groups, what to multiply its ‖G‖² by.

    The equation above in relative least squares over the values of p that the counts allow, from
    E[1/(σ + ξ) | k] on and no further from it than it must be. 0 for counts below 2 of either
    outcome, whose estimate of ‖G‖² is 0.
    """
    n, grid, weights = rollouts, fit.grid[1:-1], fit.weights[1:-1]
    wanted = inverse_deviation(grid, step)
    likelihood = np.asarray(binom.pmf(np.arange(n + 1)[:, None], n, grid))
    given = likelihood / likelihood.sum(1, keepdims=True)
    # Where prompts may be: each count with every p that explains it, less where k < 2 is the rule.
    share = np.asarray(binom.pmf(np.arange(n + 1)[:, None], n, fit.grid)) @ fit.weights
    where = (share @ given) * np.minimum(1, n * grid) * np.minimum(1, n * (1 - grid))
    joint = likelihood[2:-2] * weights
    # A count that the fit rules out.
    joint = np.where(joint.sum(1, keepdims=True) > 0, joint, given[2:-2])
    start = joint @ wanted / joint.sum(1)
    chance = np.asarray(binom.pmf(np.arange(n - 3)[:, None], n - 4, grid))
    root = np.sqrt(where / where.sum())[:, None]
    relative = (chance * start[:, None] / wanted).T
    system, missing = root * relative, root[:, 0] * (1 - relative.sum(1))
    change = np.linalg.solve(system.T @ system + RIDGE * np.eye(len(start)), system.T @ missing)
    every = np.zeros(n + 1)
    every[2:-2] = start * (1 + change)
    return np.asarray(every[np.asarray(successes)])
