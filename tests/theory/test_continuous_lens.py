"""The continuous lens against autograd, plain Monte Carlo and numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch

from valuegrad.theory.continuous_lens import control_statements
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
from valuegrad.theory.shift_policy import NOISES, expectation, sides


@pytest.mark.parametrize("seed", range(4))
def test_every_corrected_statement_holds_and_the_papers_fails(seed):
    found = control_statements(seed)
    assert [s.name for s in found if not s.holds] == [s.name for s in found if s.form == "paper"]
    assert {s.source for s in found} >= {
        "Prop. 1",
        "Eq. 7",
        "Eq. 9",
        "Lemma 1",
        "Correction D",
        "Eq. 11",
        "Corollary 1",
    }


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


@pytest.mark.parametrize("noise", NOISES)
def test_lemma_one_is_one_for_the_action_itself(noise):
    # h(a) = a moves with the mean at rate one, whatever the noise.
    found = sides(noise, -0.7, lambda a: a, lambda a: 1.0)
    assert found.score_function == pytest.approx(1, abs=1e-9)
    assert found.pathwise == pytest.approx(1, abs=1e-9)
    step = 1e-4
    up, down = (expectation(noise, -0.7 + d, math.sin) for d in (step, -step))
    assert sides(noise, -0.7, math.sin, math.cos).score_function == pytest.approx(
        (up - down) / (2 * step), rel=1e-7
    )
