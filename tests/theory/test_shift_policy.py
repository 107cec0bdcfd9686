"""Both sides of Lemma 1 against closed forms and differences."""

import math

import pytest

from valuegrad.theory.shift_policy import NOISES, expectation, sides


@pytest.mark.parametrize("noise", NOISES)
def test_lemma_one_is_one_for_the_action_itself(noise):
    # h(a) = a moves with the mean at rate one, whatever the noise.
    assert sides(noise, -0.7, lambda a: a, lambda a: 1.0) == pytest.approx((1, 1), abs=1e-9)
    step = 1e-4
    up, down = (expectation(noise, -0.7 + d, math.sin) for d in (step, -step))
    by_score, _ = sides(noise, -0.7, math.sin, math.cos)
    assert by_score == pytest.approx((up - down) / (2 * step), rel=1e-7)


def test_expectations_in_closed_form():
    assert expectation("Gaussian", 2.0, lambda a: a * a) == pytest.approx(5, abs=1e-9)
    assert expectation("logistic", 0.0, lambda a: a * a) == pytest.approx(math.pi**2 / 3, rel=1e-9)
    assert expectation("Student-t", 0.0, lambda a: a * a) == pytest.approx(7 / 5, rel=1e-9)
