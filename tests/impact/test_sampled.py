"""Estimates from rollouts against closed forms, enumeration and loops over index tuples."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from tests import letters, oracles
from tests.oracles import completions as oracle

from valuegrad.errors import UserError
from valuegrad.impact import sampled as module
from valuegrad.impact import teacher_forced
from valuegrad.impact.rollout_signals import half_sample_corrected, rewarded, state_signals
from valuegrad.impact.sampled import measure, rewards
from valuegrad.rewards.function import FunctionReward
from valuegrad.sampler import Rollouts, rollouts

N = 32
GROUP = 8
# Architecture, scale of the weights, most tokens, stop: one policy answers with single tokens.
CHECKPOINTS = (("llama", 0.6, 3, "\n"), ("gpt2", 0.35, 3, "\n"), ("qwen3", 0.4, 1, None))
WORTH = {
    "graded": lambda c: len(c) / 2 + 0.3 * ("a" in c),
    "two values": lambda c: 3.0 - ("b" in c),
}
UNBIASED = ("reward_before", "sigma", "reward_variance", "pass_at_k", "zero_spread_groups")


def case(architecture, scale, max_tokens, stop):
    prompts = letters.varied(architecture, max_tokens, stop, scale=scale)
    return letters.policy(architecture, scale=scale), prompts


@functools.cache
def replications(checkpoint, site, count=8):
    """Of the same prompts: the closed form, and measurements of independent groups of 32."""
    policy, prompts = case(*checkpoint)
    exact = teacher_forced.measure(policy, prompts, site=site, group_size=GROUP)
    runs = [
        measure(policy, rollouts(policy, prompts, N, seed=seed), site=site, group_size=GROUP)[0]
        for seed in range(count)
    ]
    return exact, runs


@pytest.mark.parametrize("site", [0, "final"])
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_estimates_are_within_4_standard_errors_of_the_closed_form(checkpoint, site):
    exact, runs = replications(checkpoint, site)
    p = exact["grpo"].rows.reward
    assert len(p) >= 40
    assert np.quantile(p, 0.9) > 0.1
    for method in oracles.METHODS:
        found = runs[0][method]
        for name, truth in vars(exact[method].means).items():
            if math.isnan(truth):
                assert site != "final"
                assert name.startswith(("lambda_sample", "p_gap"))
                continue
            error = getattr(found.standard_errors, name)
            limit = 4 * error if error > 0 else 1e-12
            assert abs(getattr(found.means, name) - truth) < limit, (method, name)
        entropy = exact[method].means.entropy
        assert found.means.entropy == pytest.approx(entropy, rel=1e-9)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_means_over_replications_are_right(checkpoint):
    """8 replications: to 4 standard errors within prompts where unbiased, else to a tenth more."""
    exact, runs = replications(checkpoint, "final")
    names = (
        "reward",
        "sigma",
        "reward_variance",
        "pass_at_k",
        "zero_spread",
        "headroom",
        "alignment",
        "lambda_conditional",
        "lambda_sample",
        "alignment_population",
        "lambda_conditional_population",
        "lambda_sample_population",
    )
    for method in oracles.METHODS:
        for name in names:
            truth = float(getattr(exact[method].rows, name).mean())
            values = torch.stack([getattr(run[method].rows, name) for run in runs])
            error = math.sqrt((values.var(0) / len(values)).sum()) / values.shape[1]
            unbiased = name in names[:5] or (name == "alignment" and method != "ppo")
            slack = 1e-9 if unbiased else 0.1
            limit = 4 * error + slack * abs(truth) + 1e-12
            assert abs(values.mean() - truth) < limit, (method, name)


@pytest.mark.parametrize("reward", ["graded", "two values"])
def test_rewards_of_several_values_against_enumeration(reward):
    """60 groups of 32 a prompt: means over groups to 4 standard errors, Λ and 1/σ to 2% more.

    A batch of `ppo` is a group here, so that its plug-in is as far off as it can be: 4% more.
    """
    policy = letters.policy("gpt2")
    worth = WORTH[reward]
    function = FunctionReward("tests:f", lambda completions, **_: [worth(c) for c in completions])
    base = letters.asked(policy, letters.task(("a", "b", "c"), reward=function))
    every = oracle.every_completion(len(letters.TOKENS), letters.STOPS, letters.MAX_TOKENS)
    texts = [letters.text(t for t in c if t not in letters.STOPS) for c in every]
    found = [oracle.scores(policy.model, list(ids), every, ["final"]) for ids in base.tokens]
    ps, scores = [log_p.exp() for log_p, _ in found], [s["final"] for _, s in found]
    rs = [torch.tensor([worth(t) for t in texts]).double()] * 3
    drawn = letters.regrouped(rollouts(policy, base, 60 * N, seed=8), N)
    sizes = {"group_size": 4, "prompts_per_update": 1}
    impacts, _ = measure(policy, drawn, alpha=2.0, **sizes)
    for method, impact in impacts.items():
        expected = oracles.measurements(ps, rs, scores, method, alpha=2.0, **sizes)
        rows = {"reward_before": "reward", "zero_spread_groups": "zero_spread"}
        for name, truth in expected.items():
            if name.startswith("p_") or name in ("headroom_pooled", "entropy", "pass_at_k"):
                continue
            truth = truth / 3 if name == "zero_spread_groups" else truth
            values = getattr(impact.rows, rows.get(name, name)).reshape(3, 60)
            error = math.sqrt((values.var(1) / 60).sum()) / 3
            unbiased = name in UNBIASED or (name == "alignment" and method != "ppo")
            slack = 1e-9 if unbiased else 0.04 if method == "ppo" else 0.02
            limit = 4 * error + slack * abs(truth) + 1e-12
            assert abs(values.mean() - truth) < limit, (method, name)
        headroom = expected["headroom_pooled"]
        assert impact.means.headroom_pooled == pytest.approx(headroom, rel=0.05)


def test_deeper_states_have_the_advantages_of_their_prompts():
    """At a state along the answer E λ̂ = ψ G_t, ψ the slope at the prompt (theory §2, §7.1)."""
    policy = letters.policy("gpt2", scale=0.35)
    asked = letters.asked(policy, letters.task(letters.answers("gpt2", scale=0.35)))
    aligned, errors = [], []
    for ids, answer in zip(asked.tokens, asked.answers, strict=True):
        (p, _), (_, G) = (
            oracle.value_gradients(policy.model, list(ids), answer, letters.STOPS, [0], t)
            for t in (1, 2)
        )
        G = G[0]
        chances = [torch.tensor([1 - p, p], dtype=torch.float64)]
        outcomes = [torch.tensor([0.0, 1.0], dtype=torch.float64)]
        (given,) = oracles.finite_advantages("grpo", chances, outcomes, GROUP)
        high, low = (sum(w * a for w, a in given[x]) for x in (1.0, 0.0))
        slope = high - low
        rest = oracle.every_completion(len(letters.TOKENS), letters.STOPS, 2)
        log_p, scores = oracle.scores(policy.model, [*ids, answer[0]], rest, [0])
        reward = oracle.indicator(rest, answer[1:], letters.STOPS)
        aligned.append(slope * float(G @ G))
        distance = 0.0
        for chance, r, vector in zip(log_p.exp().tolist(), reward.tolist(), scores[0], strict=True):
            for w, advantage in given[r]:
                distance += chance * w * float((advantage * vector - G).norm())
        errors.append(float(G.norm()) * distance)
    times, size = 40, 64
    prompts = letters.repeated(asked, times)
    drawn = letters.regrouped(rollouts(policy, asked, times * size, seed=1), size)
    forks = [a[:1] for a in asked.answers]
    rows = list(range(3))
    deep = letters.regrouped(
        rollouts(policy, asked, times * size, seed=2, rows=rows, forks=forks), size
    )
    many = list(range(len(prompts)))
    impacts, _ = measure(policy, drawn, site=0, group_size=GROUP, deeper=(many, deep))
    alone, _ = measure(policy, drawn, site=0, group_size=GROUP)
    for name, truth, slack in (
        ("alignment", torch.tensor(aligned), 0.05),
        ("lambda_sample", torch.tensor(errors), 0.15),
    ):
        both, one = (getattr(i["grpo"].rows, name).view(3, times) for i in (impacts, alone))
        values = 2 * both - one
        error = (values.var(1) / times).sqrt()
        assert (abs(values.mean(1) - truth) < 4 * error + slack * truth).all(), name


# --- estimators by loops -------------------------------------------------------------------------


def synthetic(p, n, rng, width=3):
    """Rewards and score vectors of one prompt, with E s = 0 and E[R s] = p · S1."""
    r = (rng.random(n) < p).astype(float)
    s1 = np.array([1.0, -0.5, 0.3]) * (1 - p)
    noise = rng.normal(size=(n, width))
    s = np.where(r[:, None] > 0, s1, -p / (1 - p) * s1 + noise)
    return r, s


def moments(rewards, alpha, group_size, pair=(0.0, 1.0)):
    """What the rewards alone decide."""
    entropy = torch.zeros(len(rewards), dtype=torch.float64)
    return module._moments(rewards, entropy, alpha, group_size, pair, 1.0)


def signals(s, r, method):
    return state_signals(s, rewarded(r, (0.0, 1.0), [method], 4, 1))[method]


def test_sigma_pass_at_k_and_zero_spread_are_means_over_tuples():
    rng = np.random.default_rng(0)
    groups = [synthetic(p, 7, rng) for p in (0.2, 0.5, 0.8)]
    r, s = (torch.tensor(np.stack(x)) for x in zip(*groups, strict=True))
    found = signals(s, r, "dr_grpo")
    shared = moments(r, 5.0, 3)
    for row in range(3):
        assert found.sigma[row].item() == pytest.approx(oracle.squared_covariance(s[row], r[row]))
        own = r[row].tolist()
        assert shared.pass_at_k[row].item() == pytest.approx(oracle.pass_at_k(own, 3), rel=1e-12)
        same = oracle.zero_spread(own, 3)
        assert shared.zero_spread[row].item() == pytest.approx(same, rel=1e-12)
        pairs = [(a - b) ** 2 / 2 for a, b in itertools.permutations(own, 2)]
        assert shared.reward_variance[row].item() == pytest.approx(np.mean(pairs))
    graded = torch.tensor([[0.0, 0.5, 0.5, 2.0, 2.0, 1.0, 0.0]], dtype=torch.float64)
    shared = moments(graded, 1.0, 2, None)
    same, some = (f(graded[0].tolist(), 2) for f in (oracle.zero_spread, oracle.pass_at_k))
    assert shared.zero_spread.item() == pytest.approx(same, rel=1e-12)
    assert shared.pass_at_k.item() == pytest.approx(some, rel=1e-12)
    tilt = np.log(np.mean(np.exp(graded.numpy())))
    assert shared.log_tilt.item() == pytest.approx(tilt, rel=1e-12)


def test_rewards_are_means_of_the_draws():
    policy = letters.policy("llama")
    prompts = letters.asked(policy, letters.task(letters.answers("llama")))
    drawn = rollouts(policy, prompts, 7, seed=0)
    assert rewards(drawn).tolist() == [sum(group) / 7 for group in drawn.rewards.tolist()]


@pytest.mark.parametrize("p", [0.03, 0.5, 0.9])
def test_group_statistics_are_expectations_over_groups(p):
    some, same = oracle.group_statistics(p, 4)
    columns = {}
    for k in range(9):
        drawn = torch.tensor([[1.0] * k + [0.0] * (8 - k)], dtype=torch.float64)
        for name, value in vars(moments(drawn, 5.0, 4)).items():
            chance = math.comb(8, k) * p**k * (1 - p) ** (8 - k)
            columns[name] = columns.get(name, 0) + chance * value.item()
    assert columns["pass_at_k"] == pytest.approx(some, rel=1e-12)
    assert columns["zero_spread"] == pytest.approx(same, rel=1e-12)
    assert columns["reward"] == pytest.approx(p, rel=1e-12)
    assert columns["reward_variance"] == pytest.approx(p * (1 - p), rel=1e-12)


def test_sigma_is_unbiased():
    rng = np.random.default_rng(5)
    for p in (0.1, 0.6):
        groups = [synthetic(p, 8, rng) for _ in range(3000)]
        r, s = (torch.tensor(np.stack(x)) for x in zip(*groups, strict=True))
        values = signals(s, r, "rloo").sigma
        truth = (p * (1 - p)) ** 2 * 1.34
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(3000)


def test_half_samples_take_off_a_bias_of_one_over_n():
    rng = np.random.default_rng(1)
    x = torch.tensor(rng.normal(size=(20000, 16)))
    found = half_sample_corrected(lambda part: x[:, part].mean(1) ** 2, 16)
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(20000)
    plain = (x.mean(1) ** 2).mean()
    assert plain > 0.05
    few = half_sample_corrected(lambda part: x[:, part].mean(1) ** 2, 7)
    assert torch.equal(few, x.mean(1) ** 2)


def injected(monkeypatch, r, s):
    """What `measure` makes of given rewards and score vectors."""
    zeros = torch.zeros(r.shape)
    monkeypatch.setattr(module, "prompt_state_scores", lambda *_: (torch.tensor(s), zeros))
    monkeypatch.setattr(module, "check_log_probabilities", lambda *_: 0.0)
    monkeypatch.setattr(module, "prompt_states", lambda *_: None)
    monkeypatch.setattr(module, "entropies", lambda *_: zeros.double()[:, 0])
    ends = torch.zeros(r.shape, dtype=torch.bool)
    drawn = Rollouts((), (), (), torch.tensor(r), zeros.double(), ends, ends)
    return measure(letters.policy("llama"), drawn, methods=["grpo", "dr_grpo"])[0]


COVERED = (
    "reward_before",
    "sigma",
    "alignment",
    "lambda_conditional",
    "alignment_population",
    "lambda_conditional_population",
    "headroom",
    "pass_at_k",
)


def psi(p, size):
    """The slope of grpo in groups of a size, by the binomial sum."""
    k = np.arange(1, size)[:, None]
    deviation = np.sqrt(k * (size - k) / (size * (size - 1)))
    kernel = k * (size - k) / (size**2 * (deviation + oracles.XI))
    return (stats.binom.pmf(k, size, p) * kernel).sum(0) / (p * (1 - p))


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.7), (0.5, 0.98)])
def test_intervals_cover(monkeypatch, low, high):
    """95% intervals of 40 tasks of 256 prompts cover at their rate, by a one-sided binomial test.

    Over 200 tasks 93% to 97% did. With 64 prompts the rate is lower, 90% for the headroom: the
    quantities are skewed over prompts, and the headroom's bias is a third of its error then.

    For p above 1/2 no group of 16 fails in any number of rollouts that one would draw, so that
    pass@k is 1 as far as they can tell, and its interval a point.
    """
    rng = np.random.default_rng(3)
    grid = np.exp(np.linspace(np.log(low), np.log(high), 2001))
    sigma = (grid * (1 - grid)) ** 2 * 1.34
    slope = 1 / (np.sqrt(grid * (1 - grid)) + oracles.XI)
    truth = {
        "reward_before": grid,
        "sigma": sigma,
        "alignment": psi(grid, 16) * sigma,
        "lambda_conditional": abs(psi(grid, 16) - 1) * sigma,
        "alignment_population": slope * sigma,
        "lambda_conditional_population": (slope - 1) * sigma,
        "pass_at_k": 1 - (1 - grid) ** 16,
        "headroom": np.log1p(grid * np.expm1(5)) / 5 - grid,
    }
    hits = dict.fromkeys(COVERED, 0)
    for _ in range(40):
        ps = np.exp(rng.uniform(np.log(low), np.log(high), 256))
        groups = [synthetic(p, N, rng) for p in ps]
        r, s = (np.stack(x) for x in zip(*groups, strict=True))
        found = injected(monkeypatch, r, s)["grpo"]
        for name in COVERED:
            error = abs(getattr(found.means, name) - truth[name].mean())
            hits[name] += error < 1.96 * getattr(found.standard_errors, name)
    for name, count in hits.items():
        if name == "pass_at_k" and low >= 0.5:
            continue
        assert stats.binomtest(count, 40, 0.95, alternative="less").pvalue > 1e-3, name


@pytest.mark.parametrize("level", [0.0, 1.0, 0.3])
def test_equal_rewards_leave_no_signal_and_no_standard_error(monkeypatch, level):
    r = np.full((6, 18), level)
    s = np.random.default_rng(0).normal(size=(6, 18, 3))
    for impact in injected(monkeypatch, r, s).values():
        means, errors = vars(impact.means), vars(impact.standard_errors)
        assert means["reward_before"] == pytest.approx(level, abs=1e-12)
        assert means["zero_spread_groups"] == pytest.approx(6)
        for name in ("sigma", "alignment", "lambda_sample", "lambda_conditional"):
            assert means[name] == pytest.approx(0, abs=1e-12), name
        for name in ("sigma", "alignment", "lambda_sample", "p_alignment"):
            if level in (0.0, 1.0):
                assert math.isnan(errors[name]), name
        assert means["headroom_pooled"] == pytest.approx(0, abs=1e-12)
        assert math.isnan(errors["reward_before"])


@pytest.mark.parametrize(("n", "group"), [(3, 2), (9, 8), (2, 2)])
def test_too_few_rollouts_are_refused(n, group):
    policy = letters.policy("llama")
    prompts = letters.asked(policy, letters.task(letters.answers("llama")))
    drawn = rollouts(policy, prompts, n, seed=0)
    with pytest.raises(UserError, match=rf"rollouts: got {n}; wanted at least {max(4, group + 2)}"):
        measure(policy, drawn, group_size=group)


@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo"])
def test_lambda_of_groups_whose_advantages_are_pooled(method):
    """Beyond 32 values of an advantage: 40 in a group, over 30 repetitions of 3 prompts."""
    policy = letters.policy("gpt2", scale=0.35)
    asked = letters.asked(policy, letters.task(letters.answers("gpt2", scale=0.35)))
    sizes = {"methods": [method], "group_size": 40}
    exact = teacher_forced.measure(policy, asked, **sizes)[method].means.lambda_sample
    prompts, n = letters.repeated(asked, 30), 60
    drawn = letters.regrouped(rollouts(policy, asked, 30 * n, seed=1), n)
    assert len(prompts) == 90
    found = measure(policy, drawn, **sizes)[0][method].rows.lambda_sample.view(3, 30)
    error = math.sqrt(float((found.var(1) / 30).sum())) / 3
    assert abs(float(found.mean()) - exact) < 4 * error + 0.1 * exact
    assert error < 0.15 * exact
