"""The statements of the continuous lens, each evaluated in closed form or by exact quadrature."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from valuegrad.theory.linear_quadratic import (
    ControlProblem,
    control_costates,
    expected_return,
    noise_grid,
    parameter_gradient,
    random_problem,
    rollouts,
    value_matrices,
    with_optimal_gains,
)
from valuegrad.theory.shift_policy import NOISES, Sides, expectation, sides
from valuegrad.theory.statement import Statement, equality

EXACT = 1e-10
# Adaptive quadrature, asked for 1e-12.
QUADRATURE = 1e-9


def control_statements(seed: int = 0) -> list[Statement]:
    """Evaluate Prop. 1, Eqs. 7 to 11, Lemma 1 and Corollary 1 on a random control problem.

    Args:
        seed: of the problem.

    Returns:
        The statements, the paper's Eq. 11 with a sampled advantage among them, as failing.

    Example:
        >>> all(s.holds for s in control_statements() if s.form == "corrected")
        True
    """
    problem = random_problem(seed)
    return [*_adjoint(problem), *_expectations(problem), *_lemma(), *_corollary(problem)]


def _adjoint(problem: ControlProblem) -> Iterator[Statement]:
    noise, _ = noise_grid(problem)
    learning = _leaves(problem)
    shift = noise.new_zeros(len(noise), problem.horizon, len(problem.start), requires_grad=True)
    unrolled = torch.autograd.grad(
        rollouts(learning, noise, shift).returns.sum(),
        [shift, learning.gains, learning.actuation],
    )
    found = rollouts(problem, noise)
    # The return discounts from the first step, a costate from its own.
    weight = problem.discount ** torch.arange(problem.horizon, dtype=noise.dtype)
    yield equality(
        "adjoint recursion = backpropagation through time",
        "Prop. 1",
        weight[:, None] * control_costates(problem, found),
        unrolled[0],
        EXACT,
    )
    by_gains, by_actuation = parameter_gradient(problem, found)
    yield equality(
        "parameter gradient from costates = autograd, policy and dynamics",
        "Eq. 7",
        torch.cat((by_gains.sum(0).flatten(), by_actuation.sum(0).flatten())),
        torch.cat((unrolled[1].flatten(), unrolled[2].flatten())),
        EXACT,
    )


def _expectations(problem: ControlProblem) -> Iterator[Statement]:
    noise, weight = noise_grid(problem)
    mean = torch.einsum(
        "n,ns->s", weight, control_costates(problem, rollouts(problem, noise))[:, 0]
    )
    yield equality(
        "E[λ] = G = −P s, by Gauss–Hermite quadrature",
        "Eq. 9",
        mean,
        -value_matrices(problem)[0] @ problem.start,
        EXACT,
    )
    best = with_optimal_gains(problem)
    by_gains, _ = parameter_gradient(best, rollouts(best, noise))
    left = float(torch.einsum("n,ntus->tus", weight, by_gains).norm())
    size = float(torch.einsum("n,ntus->tus", weight, by_gains.abs()).norm())
    yield Statement(
        "expected BPTT gradient is zero at Riccati's gains",
        "Eq. 7",
        left,
        0.0,
        left / size,
        EXACT,
        note=f"its terms are of size {size:.2g}",
    )


def _lemma() -> Iterator[Statement]:
    mean, coefficient, baseline = 0.4, -1.7, 0.3

    def reward(a: float) -> float:
        return math.sin(1.3 * a) - 0.2 * a * a

    def slope(a: float) -> float:
        return 1.3 * math.cos(1.3 * a) - 0.4 * a

    for noise in NOISES:
        yield _of_sides(
            f"score function = pathwise, {noise} noise",
            "Lemma 1",
            sides(noise, mean, reward, slope),
        )

    def value(a: float) -> float:
        return coefficient * (reward(a) - baseline) ** 2

    yield _of_sides(
        "E[Â h ∂log π] = Â E[∂h/∂a] for a constant Â and any signal h",
        "Correction D",
        sides(
            "Gaussian",
            mean,
            value,
            lambda a: 2 * coefficient * (reward(a) - baseline) * slope(a),
        ),
    )
    centre = expectation("Gaussian", mean, reward)
    spread = math.sqrt(expectation("Gaussian", mean, lambda a: (reward(a) - centre) ** 2))

    def advantage(a: float) -> float:
        return (reward(a) - centre) / spread

    yield _of_sides(
        "E[Â ∂log π] = E[∂r/∂a] / σ for the advantage of the sampled action",
        "Correction D",
        sides("Gaussian", mean, advantage, lambda a: slope(a) / spread),
    )
    yield _of_sides(
        "E[Â r ∂log π] = E[Â ∂r/∂a] for the advantage of the sampled action",
        "Eq. 11",
        sides(
            "Gaussian",
            mean,
            lambda a: advantage(a) * reward(a),
            lambda a: advantage(a) * slope(a),
        ),
        paper=True,
    )


def _corollary(problem: ControlProblem) -> Iterator[Statement]:
    noise, weight = noise_grid(problem)
    found = rollouts(problem, noise)
    by_gains, _ = parameter_gradient(problem, found)
    pathwise = torch.einsum("n,ntus->tus", weight, by_gains)
    mean = weight @ found.returns
    sigma = (weight @ (found.returns - mean).square()).sqrt()
    # ∂log N(a; Ks, σ²)/∂K = ξ sᵀ / σ²
    score = torch.einsum("ntu,nts->ntus", noise, found.states) / problem.noise**2
    advantage = (found.returns - mean) / sigma
    expected = torch.einsum("n,n,ntus->tus", weight, advantage, score)
    yield equality(
        "expected GRPO gradient = BPTT gradient / σ",
        "Corollary 1",
        expected,
        pathwise / sigma,
        EXACT,
    )
    learning = _leaves(problem)
    (closed,) = torch.autograd.grad(expected_return(learning), learning.gains)
    yield equality(
        "expected BPTT gradient = gradient of the closed-form return",
        "Eq. 7",
        pathwise,
        closed,
        EXACT,
    )


def _leaves(problem: ControlProblem) -> ControlProblem:
    return replace(
        problem,
        gains=problem.gains.clone().requires_grad_(),
        actuation=problem.actuation.clone().requires_grad_(),
    )


def _of_sides(name: str, source: str, found: Sides, *, paper: bool = False) -> Statement:
    left, right = (torch.tensor(x, dtype=torch.float64) for x in vars(found).values())
    return equality(name, source, left, right, QUADRATURE, form="paper" if paper else "corrected")
