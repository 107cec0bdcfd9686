"""The statements of the continuous lens: Prop. 1, Eqs. 7 to 11, Lemma 1, Corollary 1, correction D.

Each is evaluated in closed form or by exact quadrature.
"""

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
from valuegrad.theory.shift_policy import NOISES, Signal, expectation, sides
from valuegrad.theory.statement import EXACT, Form, Statement, equality

# Of adaptive quadrature that is asked for 1e-12.
QUADRATURE = 1e-9


def control_statements(seed: int = 0) -> list[Statement]:
    """All of them on a random control problem, the paper's Eq. 11 among them as failing."""
    problem = random_problem(seed)
    return [*_costates(problem), *_lemma(), *_corollary(problem)]


def _costates(problem: ControlProblem) -> Iterator[Statement]:
    noise, weight = noise_grid(problem)
    learning, found = _leaves(problem), rollouts(problem, noise)
    shift = torch.zeros_like(found.states, requires_grad=True)
    shifted, gains, actuation = torch.autograd.grad(
        rollouts(learning, noise, shift).returns.sum(),
        [shift, learning.gains, learning.actuation],
    )
    costates = control_costates(problem, found)
    # The return discounts from the first step, a costate from its own.
    discount = problem.discount ** torch.arange(problem.horizon, dtype=noise.dtype)
    carried = discount[:, None] * costates
    yield equality("adjoint recursion = backpropagation through time", "Prop. 1", carried, shifted)
    by_gains, by_actuation = parameter_gradient(problem, found)
    yield equality(
        "parameter gradient from costates = autograd, policy and dynamics",
        "Eq. 7",
        torch.cat((by_gains.sum(0).flatten(), by_actuation.sum(0).flatten())),
        torch.cat((gains.flatten(), actuation.flatten())),
    )
    mean = torch.einsum("n,ns->s", weight, costates[:, 0])
    gradient = -value_matrices(problem)[0] @ problem.start
    yield equality("E[λ] = G = −P s, by Gauss–Hermite quadrature", "Eq. 9", mean, gradient)
    best = with_optimal_gains(problem)
    by_gains, _ = parameter_gradient(best, rollouts(best, noise))
    left, size = (
        float(torch.einsum("n,ntus->tus", weight, x).norm()) for x in (by_gains, by_gains.abs())
    )
    name = "expected BPTT gradient is zero at Riccati's gains"
    note = f"its terms are of size {size:.2g}"
    yield Statement(name, "Eq. 7", left, 0.0, left / size, EXACT, note=note)


def _lemma() -> Iterator[Statement]:
    mean, coefficient, baseline = 0.4, -1.7, 0.3

    def reward(a: float) -> float:
        return math.sin(1.3 * a) - 0.2 * a * a

    def slope(a: float) -> float:
        return 1.3 * math.cos(1.3 * a) - 0.4 * a

    centre = expectation("Gaussian", mean, reward)
    spread = math.sqrt(expectation("Gaussian", mean, lambda a: (reward(a) - centre) ** 2))

    def advantage(a: float) -> float:
        return (reward(a) - centre) / spread

    for noise in NOISES:
        name = f"score function = pathwise, {noise} noise"
        yield equality(name, "Lemma 1", *sides(noise, mean, reward, slope), QUADRATURE)
    rows: tuple[tuple[str, str, Signal, Signal, Form], ...] = (
        (
            "E[Â h ∂log π] = Â E[∂h/∂a] for a constant Â and any signal h",
            "Correction D",
            lambda a: coefficient * (reward(a) - baseline) ** 2,
            lambda a: 2 * coefficient * (reward(a) - baseline) * slope(a),
            "corrected",
        ),
        (
            "E[Â ∂log π] = E[∂r/∂a] / σ for the advantage of the sampled action",
            "Correction D",
            advantage,
            lambda a: slope(a) / spread,
            "corrected",
        ),
        (
            "E[Â r ∂log π] = E[Â ∂r/∂a] for the advantage of the sampled action",
            "Eq. 11",
            lambda a: advantage(a) * reward(a),
            lambda a: advantage(a) * slope(a),
            "paper",
        ),
    )
    for name, source, signal, slope_of_signal, form in rows:
        both = sides("Gaussian", mean, signal, slope_of_signal)
        yield equality(name, source, *both, QUADRATURE, form=form)


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
    name = "expected GRPO gradient = BPTT gradient / σ"
    yield equality(name, "Corollary 1", expected, pathwise / sigma)
    learning = _leaves(problem)
    (closed,) = torch.autograd.grad(expected_return(learning), learning.gains)
    name = "expected BPTT gradient = gradient of the closed-form return"
    yield equality(name, "Eq. 7", pathwise, closed)


def _leaves(problem: ControlProblem) -> ControlProblem:
    gains, actuation = (x.clone().requires_grad_() for x in (problem.gains, problem.actuation))
    return replace(problem, gains=gains, actuation=actuation)
