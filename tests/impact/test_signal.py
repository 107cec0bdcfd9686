"""From measurements of prompts to those of a checkpoint: means, jackknife, the largest tilts."""

import dataclasses
import math

import pytest
import torch
from tests import oracles

from valuegrad.errors import UserError
from valuegrad.impact.signal import (
    RewardMoments,
    Signals,
    check_settings,
    parallel,
    signals,
    summarise,
)

LIMITS = ("", "_population")
PRODUCTS = {
    name + of: formula
    for of in LIMITS
    for name, formula in {
        "p_gap": lambda m, of=of: (m["sigma"] - m["lambda_sample" + of]) * m["headroom"],
        "p_gap_conditional": lambda m, of=of: (
            (m["sigma"] - m["lambda_conditional" + of]) * m["headroom"]
        ),
        "p_alignment": lambda m, of=of: m["alignment" + of] * m["headroom"],
    }.items()
}
PLAIN = (
    *("sigma", "headroom", "entropy", "reward_variance", "pass_at_k"),
    *(x + of for x in ("lambda_conditional", "lambda_sample", "alignment") for of in LIMITS),
)


def drawn(count=6, alpha=5.0, seed=0):
    """Rows of prompts whose rewards are two equally likely ones."""
    generator = torch.Generator().manual_seed(seed)
    columns = {
        f.name: torch.rand(count, generator=generator, dtype=torch.float64)
        for f in dataclasses.fields(Signals)
    }
    pairs = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    columns["reward"] = pairs.mean(1)
    columns["log_tilt"] = (alpha * pairs).logsumexp(1) - math.log(2)
    return Signals(**columns)


def loops(rows, alpha, kept):
    """The measurements of some prompts, one at a time."""
    m = {name: sum(getattr(rows, name)[i].item() for i in kept) / len(kept) for name in PLAIN}
    m["reward_before"] = sum(rows.reward[i].item() for i in kept) / len(kept)
    tilt = sum(math.exp(rows.log_tilt[i].item()) for i in kept) / len(kept)
    m["headroom_pooled"] = math.log(tilt) / alpha - m["reward_before"]
    share = sum(rows.zero_spread[i].item() for i in kept) / len(kept)
    m["zero_spread_groups"] = len(rows.reward) * share
    return m | {name: formula(m) for name, formula in PRODUCTS.items()}


@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_means_and_standard_errors_by_loops(alpha):
    rows = drawn(alpha=alpha)
    found = summarise("grpo", 0, alpha, 16, rows)
    expected = loops(rows, alpha, range(6))
    assert vars(found.means) == pytest.approx(expected, rel=1e-12)
    for name in expected:
        error = oracles.jackknife(lambda kept, name=name: loops(rows, alpha, kept)[name], 6)
        assert getattr(found.standard_errors, name) == pytest.approx(error, rel=1e-9), name
    assert (found.method, found.site, found.alpha, found.group_size) == ("grpo", 0, alpha, 16)
    assert torch.equal(found.rows.sigma, rows.sigma)


def test_standard_errors_may_rest_on_other_rows():
    rows, other = drawn(), drawn(seed=1)
    found = summarise("grpo", "final", 5.0, 16, rows, dataclasses.replace(rows, sigma=other.sigma))
    assert found.means == summarise("grpo", "final", 5.0, 16, rows).means
    error = float(other.sigma.std() / math.sqrt(6))
    assert found.standard_errors.sigma == pytest.approx(error, rel=1e-12)
    assert torch.equal(found.rows.sigma, rows.sigma)


@pytest.mark.parametrize("spread", [2e-9, 300.0, 2000.0])
def test_the_pooled_headroom_keeps_its_digits(spread):
    """Of log tilts next to αE[R], and of such that no float holds the exponential of."""
    alpha, rows = 1.0, drawn(4)
    log_tilt = torch.tensor([0.0, 0.0, 0.0, spread], dtype=torch.float64)
    still = torch.zeros(4, dtype=torch.float64)
    found = summarise(
        "grpo", 0, alpha, 16, dataclasses.replace(rows, reward=still, log_tilt=log_tilt)
    )
    exact = math.log1p(math.expm1(spread) / 4) if spread < 1 else spread - math.log(4)
    assert found.means.headroom_pooled == pytest.approx(exact, rel=1e-7)


def test_the_error_of_the_pooled_headroom_at_large_tilts():
    """At α = 100 the largest prompt holds all of the sum; without it the others count."""
    alpha, rows = 100.0, drawn(5)
    p = torch.tensor([1e-9, 1e-3, 0.2, 0.5, 0.9], dtype=torch.float64)
    log_tilt = torch.log1p(p * math.expm1(alpha))
    rows = dataclasses.replace(rows, reward=p, log_tilt=log_tilt)
    found = summarise("grpo", 0, alpha, 16, rows)

    def pooled(kept):
        tilt = sum(math.exp(log_tilt[i].item()) for i in kept) / len(kept)
        return math.log(tilt) / alpha - sum(p[i].item() for i in kept) / len(kept)

    error = oracles.jackknife(pooled, 5)
    assert found.standard_errors.headroom_pooled == pytest.approx(error, rel=1e-9)


def test_one_prompt_has_no_standard_error():
    found = summarise("ppo", "final", 5.0, 16, drawn(1))
    assert all(map(math.isfinite, vars(found.means).values()))
    assert all(map(math.isnan, vars(found.standard_errors).values()))


def test_errors_of_nothing_are_undefined_where_they_rest_on_draws():
    rows = dataclasses.replace(drawn(), sigma=torch.ones(6).double())
    exact = summarise("grpo", 0, 5.0, 16, rows).standard_errors
    found = summarise("grpo", 0, 5.0, 16, rows, sampled=True).standard_errors
    assert exact.sigma == 0
    assert {name for name, error in vars(found).items() if math.isnan(error)} == {"sigma"}
    assert found.headroom == exact.headroom


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 3.0])
def test_signals_of_a_slope(slope):
    """E[λ̂|h] = slope · G, so that Λ = ‖(slope − 1) G‖ ‖G‖ and the alignment is slope ‖G‖²."""
    moments = {f.name: torch.rand(1).double() for f in dataclasses.fields(RewardMoments)}
    G = torch.tensor([3.0, 4.0], dtype=torch.float64)
    given = torch.tensor([slope], dtype=torch.float64)
    squared, error = (G @ G)[None], torch.tensor([0.2]).double()
    both = parallel(given, squared, error), parallel(given + 1, squared, 2 * error)
    found = signals(RewardMoments(**moments), given, squared, *both)
    costate = slope * G
    assert found.sigma.item() == 25
    assert found.alignment.item() == pytest.approx(float(costate @ G))
    assert found.lambda_conditional.item() == pytest.approx(float((costate - G).norm() * G.norm()))
    assert found.lambda_sample.item() == pytest.approx(5 * 0.2)
    assert found.alignment_population.item() == pytest.approx(25 * (slope + 1))
    assert found.lambda_conditional_population.item() == pytest.approx(25 * slope)
    assert found.lambda_sample_population.item() == pytest.approx(5 * 0.4)
    assert {name: getattr(found, name) for name in moments} == moments


@pytest.mark.parametrize(
    ("alpha", "size", "message"),
    [
        (0.0, 16, r"alpha: got 0\.0; wanted a number above 0"),
        (math.nan, 16, "alpha: got nan"),
        (5.0, 1, "group_size: got 1; wanted 2 or more"),
    ],
)
def test_refuses(alpha, size, message):
    with pytest.raises(UserError, match=message):
        check_settings(alpha, size)


def test_standard_errors_by_stratum_by_loops():
    """A prompt left out takes nothing from the weight of its stratum."""
    rows, cells = drawn(count=7), [[0, 2, 5], [1, 3], [4, 6]]
    strata = ["a", "b", "a", "b", "c", "a", "c"]
    found = summarise("grpo", 0, 5.0, 16, rows, strata=strata)
    assert found.means == summarise("grpo", 0, 5.0, 16, rows).means
    for name in vars(found.means):

        def measured(weights, name=name):
            """Repeat prompts so often that each counts as much as its weight says."""
            times = [round(12 * w) for w in weights]
            kept = [i for i, count in enumerate(times) for _ in range(count)]
            return loops(rows, 5.0, kept)[name]

        variance = 0.0
        for cell in cells:
            without = []
            for out in cell:
                weights = [1.0] * 7
                for i in cell:
                    weights[i] = 0.0 if i == out else len(cell) / (len(cell) - 1)
                without.append(measured(weights))
            mean = sum(without) / len(cell)
            variance += (len(cell) - 1) / len(cell) * sum((x - mean) ** 2 for x in without)
        error = getattr(found.standard_errors, name)
        assert error == pytest.approx(math.sqrt(variance), rel=1e-9), name
