"""Fitted laws against least squares written out, checkpoint by checkpoint."""

import math

import numpy as np
import pytest
from tests.study.series import series

from valuegrad.errors import UserError
from valuegrad.study.laws import affine, proportional, saturating, tilt

UPDATES = np.array([10.0, 20.0, 25.0, 30.0])


def naive_tilt(p, alpha):
    return p * math.exp(alpha) / (1 + p * (math.exp(alpha) - 1))


def naive_gain(c, rate, reward, updates):
    return naive_tilt(reward, c * rate * updates) - reward


def naive_constant(rate, reward, gains):
    """Return the c of least squares, by grids over log10 c that shrink tenfold."""

    def loss(log_c):
        return sum(
            (naive_gain(10**log_c, rate[i], reward[i], UPDATES[k]) - gains[i, k]) ** 2
            for i in range(len(rate))
            for k in range(len(UPDATES))
        )

    low, high = -1.0, 1.5
    for _ in range(7):
        grid = np.linspace(low, high, 31)
        best, step = min(grid, key=loss), grid[1] - grid[0]
        low, high = best - 1.5 * step, best + 1.5 * step
    return 10**best


def linear_case(n=8):
    rng = np.random.default_rng(0)
    predictor = rng.normal(1, 1, n)
    return predictor, 0.1 + 0.3 * predictor + rng.normal(0, 0.1, n)


def saturating_case(c, noise, n=6):
    rng = np.random.default_rng(1)
    rate, reward = rng.uniform(-0.02, 0.1, n), rng.uniform(0.01, 0.9, n)
    gains = np.array(
        [[naive_gain(c, a, p, u) for u in UPDATES] for a, p in zip(rate, reward, strict=True)]
    )
    return rate, reward, gains + noise * rng.normal(size=gains.shape)


@pytest.mark.parametrize(
    ("law", "powers"), [(proportional, [1]), (affine, [0, 1])], ids=["proportional", "affine"]
)
def test_linear_laws_match_least_squares(law, powers):
    predictor, gains = linear_case()
    design = np.stack([predictor**power for power in powers], axis=1)
    left_out = [
        design[i] @ np.linalg.lstsq(np.delete(design, i, 0), np.delete(gains, i))[0]
        for i in range(len(gains))
    ]
    constants = np.linalg.lstsq(design, gains)[0]
    found = law(predictor, gains)
    assert found.name == law.__name__
    assert found.reason == ""
    np.testing.assert_allclose(list(found.constants.values()), constants, rtol=1e-10)
    np.testing.assert_allclose(found.fitted, design @ constants, rtol=1e-10)
    np.testing.assert_allclose(found.left_out, left_out, rtol=1e-10)
    error = math.sqrt(sum((left_out[i] - gains[i]) ** 2 for i in range(len(gains))) / len(gains))
    assert found.leave_one_out_error == pytest.approx(error, rel=1e-10)


@pytest.mark.parametrize("law", [proportional, affine])
def test_of_a_run_neighbours_are_left_out_too(law):
    predictor, gains = linear_case(9)
    steps = np.random.default_rng(3).permutation(9) * 100.0
    found = law(predictor, gains, steps)
    assert found.neighbours == 2  # a quarter of nine
    for i in range(9):
        far = [j for j in range(9) if abs(steps[j] - steps[i]) > 200]
        slope = {"proportional": [1], "affine": [0, 1]}[law.__name__]
        design = np.stack([predictor**power for power in slope], axis=1)
        left_out = design[i] @ np.linalg.lstsq(design[far], gains[far])[0]
        assert found.left_out[i] == pytest.approx(left_out, rel=1e-10)
    whole = law(predictor, gains)
    np.testing.assert_array_equal(found.fitted, whole.fitted)
    assert whole.neighbours == 0


def test_leaving_out_blocks_is_as_wrong_as_a_new_run_and_single_ones_are_optimistic():
    rng = np.random.default_rng(0)
    runs, n = 400, 20
    predictor, fresh = series("AR(0.8)", (2, runs, n), rng)
    gains, new = (x + 0.5 * series("AR(0.8)", (runs, n), rng) for x in (predictor, fresh))
    single, blocks, truth = [], [], []
    for P, g, other, gained in zip(predictor, gains, fresh, new, strict=True):
        alone, run = affine(P, g), affine(P, g, np.arange(float(n)))
        single.append(alone.leave_one_out_error**2)
        blocks.append(run.leave_one_out_error**2)
        a, b = run.constants.values()
        truth.append(np.mean((a + b * other - gained) ** 2))
    error = math.sqrt(np.mean(truth))
    assert math.sqrt(np.mean(single)) < 0.75 * error
    assert math.sqrt(np.mean(blocks)) == pytest.approx(error, rel=0.1)


def test_too_few_checkpoints_outside_the_block_are_no_fit():
    predictor, gains = linear_case(5)
    found = affine(predictor, gains, np.arange(5.0))
    assert math.isnan(found.leave_one_out_error)
    assert found.reason.startswith("fewer than 3 checkpoints are left without checkpoint ")
    assert np.isfinite(found.fitted).all()


@pytest.mark.parametrize("law", [proportional, affine])
def test_linear_laws_ignore_units_and_order(law):
    predictor, gains = linear_case()
    found, rescaled = law(predictor, gains), law(-1e-9 * predictor, gains)
    np.testing.assert_allclose(rescaled.left_out, found.left_out, rtol=1e-10)
    order = np.random.default_rng(0).permutation(len(gains))
    shuffled = law(predictor[order], gains[order])
    np.testing.assert_allclose(shuffled.left_out, found.left_out[order], rtol=1e-10)
    assert shuffled.leave_one_out_error == pytest.approx(found.leave_one_out_error, rel=1e-10)


def test_saturating_recovers_a_planted_constant():
    rate, reward, gains = saturating_case(c=1.7, noise=0)
    found = saturating(rate, reward, gains, UPDATES)
    assert found.constants["c"] == pytest.approx(1.7, rel=1e-6)
    np.testing.assert_allclose(found.fitted, gains.mean(axis=1), rtol=1e-6)
    assert found.leave_one_out_error < 1e-6


def test_saturating_matches_naive_least_squares():
    rate, reward, gains = saturating_case(c=1.7, noise=0.05)
    found = saturating(rate, reward, gains, UPDATES)
    c = naive_constant(rate, reward, gains)
    assert found.constants["c"] == pytest.approx(c, rel=1e-5)
    left_out = []
    for i in range(len(rate)):
        c = naive_constant(np.delete(rate, i), np.delete(reward, i), np.delete(gains, i, 0))
        left_out.append(np.mean([naive_gain(c, rate[i], reward[i], u) for u in UPDATES]))
    np.testing.assert_allclose(found.left_out, left_out, rtol=1e-5)
    error = math.sqrt(np.mean((np.array(left_out) - gains.mean(axis=1)) ** 2))
    assert found.leave_one_out_error == pytest.approx(error, rel=1e-5)


def test_saturating_ignores_units_and_order():
    rate, reward, gains = saturating_case(c=1.7, noise=0.05)
    found = saturating(rate, reward, gains, UPDATES)
    rescaled = saturating(1e-6 * rate, reward, gains, UPDATES)
    assert rescaled.constants["c"] == pytest.approx(1e6 * found.constants["c"], rel=1e-6)
    np.testing.assert_allclose(rescaled.left_out, found.left_out, rtol=1e-5)
    order = np.random.default_rng(0).permutation(len(rate))
    shuffled = saturating(rate[order], reward[order], gains[order], UPDATES)
    np.testing.assert_allclose(shuffled.left_out, found.left_out[order], rtol=1e-5)


def test_saturating_constant_is_never_negative():
    rate, reward, gains = saturating_case(c=1.7, noise=0)
    found = saturating(rate, reward, -gains, UPDATES)
    assert found.constants == {"c": 0.0}
    np.testing.assert_allclose(found.fitted, np.zeros(len(rate)), rtol=0, atol=1e-15)


def test_saturating_takes_rewards_of_zero_and_one():
    rate, reward, gains = saturating_case(c=1.7, noise=0)
    reward[:2], gains[:2] = (0.0, 1.0), 0.0
    found = saturating(rate, reward, gains, UPDATES)
    assert found.constants["c"] == pytest.approx(1.7, rel=1e-6)
    np.testing.assert_allclose(found.fitted[:2], 0, rtol=0, atol=1e-9)


def linear_undefined(law):
    ones = np.ones(4)
    three, four = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])
    return [
        (lambda: law(three, three), "fewer than 4 checkpoints"),
        (lambda: law(four, np.array([1.0, 2.0, np.nan, 4.0])), "non-finite input"),
        (lambda: law(np.array([1.0, 2.0, 3.0, np.inf]), ones), "non-finite input"),
    ]


def saturating_undefined():
    rate, reward, gains = saturating_case(c=1.7, noise=0)
    best = np.repeat(1 - reward[:, None], 4, axis=1)
    few = (rate[:3], reward[:3], gains[:3], UPDATES)
    return [
        (lambda: saturating(*few), "fewer than 4 checkpoints"),
        (lambda: saturating(rate, reward * np.nan, gains, UPDATES), "non-finite input"),
        (lambda: saturating(rate, reward - 1, gains, UPDATES), "reward_before outside [0, 1]"),
        (lambda: saturating(0 * rate, reward, gains, UPDATES), "all-zero log_odds_rate"),
        (
            lambda: saturating(np.abs(rate), reward, best, UPDATES),
            "no finite c fits best: the error falls up to the largest tilt",
        ),
    ]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        *linear_undefined(proportional),
        (lambda: proportional(np.zeros(4), np.ones(4)), "all-zero predictor"),
        *linear_undefined(affine),
        (lambda: affine(np.full(4, 0.1), np.arange(4.0)), "constant predictor"),
        *saturating_undefined(),
    ],
)
def test_laws_undefined(call, reason):
    found = call()
    assert found.reason == reason
    assert np.isnan(list(found.constants.values())).all()
    assert np.isnan(found.fitted).all()
    assert np.isnan(found.left_out).all()
    assert math.isnan(found.leave_one_out_error)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda P, g: proportional(P - 1, g), "all-zero predictor without checkpoint 3"),
        (affine, "constant predictor without checkpoint 3"),
        (
            lambda P, g: saturating(P - 1, np.full(4, 0.5), g[:, None], UPDATES[:1]),
            "all-zero log_odds_rate without checkpoint 3",
        ),
    ],
    ids=["proportional", "affine", "saturating"],
)
def test_leave_one_out_undefined(call, reason):
    found = call(np.array([1.0, 1.0, 1.0, 2.0]), np.array([0.1, 0.2, 0.3, 0.4]))
    assert np.isfinite(found.fitted).all()
    np.testing.assert_array_equal(np.isnan(found.left_out), [False, False, False, True])
    assert math.isnan(found.leave_one_out_error)
    assert found.reason == reason


@pytest.mark.parametrize("alpha", [-3.0, 0.0, 0.5, 8.0])
def test_tilt(alpha):
    reward = np.array([1e-6, 0.1, 0.5, 0.999])
    expected = [naive_tilt(p, alpha) for p in reward]
    np.testing.assert_allclose(tilt(reward, alpha), expected, rtol=1e-10)
    np.testing.assert_allclose(tilt(tilt(reward, alpha), -alpha), reward, rtol=1e-10)


def test_tilt_edges():
    np.testing.assert_allclose(tilt(np.array([0.0, 1.0]), 2.0), [0, 1], rtol=0, atol=1e-11)
    np.testing.assert_allclose(tilt(np.array([0.0]), math.log(1e12)), [0.5], rtol=1e-10)
    np.testing.assert_array_equal(tilt(np.array([0.3, 0.3]), np.array([1e4, -1e4])), [1, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: tilt(np.array([0.5, 1.5]), 1.0),
            r"^reward: got \[1.5\]; wanted numbers in \[0, 1",
        ),
        (lambda: proportional(np.ones((4, 1)), np.ones(4)), r"^predictor: got shape \(4, 1\)"),
        (lambda: affine(np.ones(4), np.ones(3)), r"^gains: got shape \(3,\); wanted shape \(4,\)"),
        (
            lambda: saturating(np.ones(4), np.ones(3), np.ones((4, 4)), UPDATES),
            r"^reward_before: got shape \(3,\); wanted shape \(4,\)",
        ),
        (
            lambda: saturating(np.ones(4), np.ones(4), np.ones((4, 3)), UPDATES),
            r"^gains_by_updates: got shape \(4, 3\); wanted shape \(4, 4\)",
        ),
        (
            lambda: saturating(np.ones(4), np.ones(4), np.ones((4, 1)), np.zeros(1)),
            r"^updates: got \[0.0\]; wanted one or more finite numbers above 0",
        ),
    ],
)
def test_wrong_requests_name_the_argument(call, message):
    with pytest.raises(UserError, match=message):
        call()
