"""Λ_sample = ‖G‖ · E‖λ̂ − G‖ from rollouts, λ̂ = Â s: from Gram matrices of the score vectors alone.

Both factors are norms, so no unbiased estimate exists. Inner products with G leave out the rollout
they are of; what remains of the bias falls as 1/n.

N prompts · n rollouts of each
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from valuegrad.methods import PopulationAdvantages


def two_valued_costate_error(
    gram: Float[np.ndarray, "N n n"],
    rewards: Float[np.ndarray, "N n"],
    probability: Float[np.ndarray, " N"],
    population: PopulationAdvantages,
) -> Float[np.ndarray, " N"]:
    """Λ_sample where a reward is 1 with probability p and 0 otherwise.

    G = p (1 − p) (m₁ − m₀), m_r the mean score vector given the reward. ‖m₁ − m₀‖² is estimated
    without bias given the count k of successes, from 2 of each value on. Counts below that give 0,
    and the others weigh c(k) / (p (1 − p))², c(k) the unbiased estimate of (p (1 − p))²: so the
    mean over counts comes out right, as it does for Σ.

    Args:
        gram: inner products of the rollouts' score vectors.
        rewards: 0 or 1.
        probability: p of each prompt, estimated.
        population: slope and baseline of the advantage.

    Returns:
        One value a prompt.
    """
    n = rewards.shape[1]
    hit, missed = rewards, 1 - rewards
    k = hit.sum(1)
    known = (k >= 2) & (n - k >= 2)
    others = gram * (1 - np.eye(n))
    # Mean inner product of each rollout with the others that earned 1, and with those that did not.
    with_hits = (others @ hit[:, :, None])[:, :, 0] / np.maximum(k[:, None] - hit, 1)
    with_misses = (others @ missed[:, :, None])[:, :, 0] / np.maximum(n - k[:, None] - missed, 1)

    def mean(values: np.ndarray, among: np.ndarray) -> np.ndarray:
        found: np.ndarray = (values * among).sum(1) / np.maximum(among.sum(1), 1)
        return found

    distance = mean(with_hits, hit) - 2 * mean(with_misses, hit) + mean(with_misses, missed)
    spread = probability * (1 - probability)
    norm = spread * np.sqrt(np.maximum(distance, 0.0))
    slope, baseline = population.slope.numpy(), population.baseline.numpy()
    advantage = slope[:, None] * (rewards - baseline[:, None])
    along = spread[:, None] * (with_hits - with_misses)
    own = np.diagonal(gram, axis1=1, axis2=2)
    squared = advantage**2 * own - 2 * advantage * along + (norm**2)[:, None]
    error = np.sqrt(np.maximum(squared, 0.0))
    expected = probability * mean(error, hit) + (1 - probability) * mean(error, missed)
    ways = k * (k - 1) * (n - k) * (n - k - 1) / (n * (n - 1) * (n - 2) * (n - 3))
    weight = np.where(known, ways / np.where(known, spread, 1.0) ** 2, 0.0)
    found: np.ndarray = weight * norm * expected
    return found


def costate_error(
    gram: Float[np.ndarray, "N n n"],
    rewards: Float[np.ndarray, "N n"],
    squared: Float[np.ndarray, " N"],
    slope: Float[np.ndarray, " N"],
    baseline: Float[np.ndarray, " N"],
) -> Float[np.ndarray, " N"]:
    """Λ_sample for rewards of any values.

    Args:
        gram: inner products of the rollouts' score vectors.
        rewards: of each rollout.
        squared: ‖G‖², estimated without bias.
        slope: of the advantage.
        baseline: of the advantage, reward units.

    Returns:
        One value a prompt.
    """
    n = rewards.shape[1]
    others = gram * (1 - np.eye(n))
    rest = (rewards.sum(1, keepdims=True) - rewards) / (n - 1)
    # s_i · G from the other rollouts: Σ_{j≠i} (r_j − mean of those) s_i·s_j / (n − 2).
    along = ((others @ rewards[:, :, None])[:, :, 0] - rest * others.sum(2)) / (n - 2)
    advantage = slope[:, None] * (rewards - baseline[:, None])
    own = np.diagonal(gram, axis1=1, axis2=2)
    error = advantage**2 * own - 2 * advantage * along + squared[:, None]
    size = np.sqrt(np.maximum(squared, 0.0))
    found: np.ndarray = size * np.sqrt(np.maximum(error, 0.0)).mean(1)
    return found
