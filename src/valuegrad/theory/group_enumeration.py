"""A method's advantages over every group that there can be, written out (Eq. 1, correction E).

With rewards 0 and 1 a group is known, beside the own reward, by how many of the others earned 1.
Nothing here is shared with `group_advantages`, which it is held against.
"""

import math

from valuegrad.methods import XI

Group = tuple[float, float, float]  # its probability, Â of reward 1 beside it, Â of reward 0


def groups(p: float, size: int, method: str = "grpo") -> list[Group]:
    """Every way in which the others of a group can be rewarded, each 1 with probability p."""
    others = size - 1
    found = []
    for k in range(size):
        chance = _binomial(k, others, p)
        rest = [1.0] * k + [0.0] * (others - k)
        found.append((chance, _advantage([1.0, *rest], method), _advantage([0.0, *rest], method)))
    return found


def batches(p: float, pool: list[float], size: int) -> list[Group]:
    """As `groups` for ppo and batches of two prompts, the other one drawn evenly from a pool."""
    found = []
    for other in pool:
        for k in range(size):
            for j in range(size + 1):
                chance = _binomial(k, size - 1, p) * _binomial(j, size, other) / len(pool)
                rest = [1.0] * (k + j) + [0.0] * (2 * size - 1 - k - j)
                high, low = (_advantage([own, *rest], "ppo") for own in (1.0, 0.0))
                found.append((chance, high, low))
    return found


def _binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def limit_groups(p: float) -> list[Group]:
    """The one group of infinitely many: Â = (r − p) / (σ + ξ), σ² = p (1 − p)."""
    scale = 1 / (math.sqrt(p * (1 - p)) + XI)
    return [(1.0, (1 - p) * scale, -p * scale)]


def slope(every: list[Group]) -> float:
    """ψ: by how much the mean advantage of reward 1 exceeds that of reward 0."""
    return math.fsum(chance * (high - low) for chance, high, low in every)


def _advantage(rewards: list[float], method: str) -> float:
    """Â of the first of a group's rewards."""
    if method == "reinforce":
        return rewards[0]
    mean = math.fsum(rewards) / len(rewards)
    if method == "rloo":
        return rewards[0] - math.fsum(rewards[1:]) / (len(rewards) - 1)
    if method == "dr_grpo":
        return rewards[0] - mean
    squares = math.fsum((r - mean) ** 2 for r in rewards)
    return (rewards[0] - mean) / (math.sqrt(squares / (len(rewards) - 1)) + XI)
