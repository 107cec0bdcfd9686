"""The control problem against autograd, plain Monte Carlo, differences and other policies."""

import math
from dataclasses import replace

import pytest
import torch

from valuegrad.theory.linear_quadratic import (
    control_costates,
    expected_return,
    noise_grid,
    parameter_gradient,
    random_problem,
    rollouts,
    value_matrices,
    with_optimal_gains,
)


def test_expected_return_is_the_mean_over_noise():
    problem = random_problem(1)
    noise, weight = noise_grid(problem)
    exact = weight @ rollouts(problem, noise).returns
    torch.testing.assert_close(expected_return(problem), exact, rtol=1e-12, atol=0)
    drawn = problem.noise * torch.randn(200_000, 3, 2, dtype=torch.float64)
    returns = rollouts(problem, drawn).returns
    error = float(returns.std()) / math.sqrt(len(returns))
    assert abs(float(returns.mean() - exact)) < 5 * error


def test_value_gradient_is_the_slope_of_the_expected_return():
    problem = random_problem(2)
    start = problem.start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(expected_return(replace(problem, start=start)), start)
    torch.testing.assert_close(slope, -value_matrices(problem)[0] @ problem.start)


def test_costates_equal_central_differences():
    problem, step = random_problem(3), 1e-5
    noise = torch.randn(1, 3, 2, dtype=torch.float64)
    found = control_costates(problem, rollouts(problem, noise))[0]
    for t in range(3):
        for i in range(3):
            shift = torch.zeros(1, 3, 3, dtype=torch.float64)
            shift[0, t, i] = step
            up, down = (rollouts(problem, noise, s).returns for s in (shift, -shift))
            slope = float(up - down) / (2 * step) / problem.discount**t
            assert float(found[t, i]) == pytest.approx(slope, rel=1e-7, abs=1e-7)


def test_no_gains_do_better_than_riccatis():
    best = with_optimal_gains(random_problem(4))
    top = expected_return(best)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        other = best.gains + 0.1 * torch.randn(best.gains.shape, generator=generator).double()
        assert expected_return(replace(best, gains=other)) < top
    assert expected_return(random_problem(4)) < top


def test_dynamics_gradient_needs_a_later_step():
    problem = random_problem(5, horizon=1)
    _, by_actuation = parameter_gradient(problem, rollouts(problem, torch.zeros(1, 1, 2).double()))
    assert not by_actuation.any()


def test_the_grid_integrates_polynomials_of_the_noise_exactly():
    problem = random_problem(6, horizon=2)
    noise, weight = noise_grid(problem)
    assert noise.shape == (3**4, 2, 2)
    one, other = noise[:, 0, 0], noise[:, 1, 1]
    variance = problem.noise**2
    for values, expected in (
        (torch.ones_like(one), 1.0),
        (one * other, 0.0),
        (one.square() * other.square(), variance**2),
        (one**4, 3 * variance**2),
        (one**5, 0.0),
    ):
        assert float(weight @ values) == pytest.approx(expected, abs=1e-13)
