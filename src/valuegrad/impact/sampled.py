"""Impact from rollouts, for any reward (theory §2, §6): unbiased where an unbiased estimate exists.

A group of n rollouts shares the prompt's last state, so it gives G there for free; deeper states
get groups of their own. Σ is the U-centred estimate of `squared_norm`. What bends in the reward's
distribution (headroom, 1/σ, norms) has no unbiased estimate: with rewards 0 or 1 it is expected
over the fitted mixture of success probabilities (`mixing`, `signal_slopes`), otherwise corrected by
half samples.

N prompts · n rollouts of each · D width
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import gammaln
from torch import Tensor

from valuegrad.credit.scores import prompt_state_scores
from valuegrad.credit.squared_norm import squared_norm
from valuegrad.errors import UserError
from valuegrad.impact.costate_error import costate_error, two_valued_costate_error
from valuegrad.impact.headroom import headroom
from valuegrad.impact.mixing import Mixing, mixing, pseudo_values
from valuegrad.impact.signal import Columns, Impact, check_settings, summarise, tilted_columns
from valuegrad.impact.signal_slopes import inverse_deviation, signal_slopes
from valuegrad.impact.teacher_forced import state_entropies
from valuegrad.methods import METHODS, XI, Method, PopulationAdvantages
from valuegrad.model.policy import Policy, Site, final_states
from valuegrad.one_token_prompts import batches
from valuegrad.sampler import Rollouts, check_log_probabilities

LEAST = 4


def measure_rollouts(
    policy: Policy,
    drawn: Rollouts,
    *,
    methods: Sequence[Method] = METHODS,
    site: Site = "final",
    alpha: float = 5.0,
    group_size: int = 16,
    deeper: tuple[Sequence[int], Rollouts] | None = None,
) -> tuple[dict[Method, Impact], float]:
    """Measure everything of theory §6 from groups of rollouts.

    Args:
        policy: the policy that drew them.
        drawn: one group a prompt.
        methods: which critic-free methods.
        site: ``"embedding"``, a block's number or ``"final"``.
        alpha: tilt of the headroom (Eq. 28), above 0.
        group_size: completions of a group in training, for pass@k and zero-spread groups; at most
            the rollouts of a prompt.
        deeper: further states with groups of their own, and the number of each one's prompt; Σ, Λ
            and alignment are averaged over a prompt's states first.

    Returns:
        One `Impact` a method, and by how much the log-probabilities of the draws differ from those
        of a forward pass over the whole, nats. Standard errors are by prompts; NaN where every
        reward is the same, which tells nothing of how far the rest is from it.

    Raises:
        UserError: fewer than 4 rollouts a prompt or than the group size; no such site.
        RunError: the draws are not the policy's.
    """
    check_settings(alpha, group_size)
    n = drawn.rewards.shape[1]
    if n < max(LEAST, group_size):
        raise UserError(
            "rollouts",
            str(n),
            f"at least {max(LEAST, group_size)}: the unbiased estimator needs "
            f"{LEAST}, pass@k and zero-spread groups as many as the group size",
            "raise --rollouts, or lower --group-size",
        )
    rewards = drawn.rewards.numpy()
    every = [rewards] if deeper is None else [rewards, deeper[1].rewards.numpy()]
    binary = all(bool(np.isin(values, (0.0, 1.0)).all()) for values in every)
    shared = _reward_columns(rewards, alpha, group_size, binary)
    shared["entropy"] = _entropies(policy, drawn)
    states = _States(policy, site, methods, binary)
    difference = states.add(range(len(rewards)), drawn)
    if deeper is not None:
        difference = max(difference, states.add(*deeper))
    uncertain = dict(shared)
    if binary:
        uncertain["headroom"] = pseudo_values(
            _successes(rewards), n, lambda fit: _expected_headroom(fit, alpha)
        )
    impacts = {}
    for m in methods:
        columns = states.means(m)
        impact = summarise(m, states.site, alpha, group_size, {**shared, **columns})
        errors = summarise(m, states.site, alpha, group_size, {**uncertain, **columns})
        # Where all prompts say the same, as without any success, they do not say how sure it is.
        known = {k: e if e > 0 else math.nan for k, e in errors.standard_errors.items()}
        impacts[m] = dataclasses.replace(impact, standard_errors=known)
    return impacts, difference


def _successes(rewards: np.ndarray) -> np.ndarray:
    return np.asarray(rewards.sum(1).round().astype(int))


def sampled_headrooms(values: np.ndarray, alpha: float, binary: bool) -> np.ndarray:
    """H_α of each prompt from its rollouts (Eq. 28), bias-corrected.

    Args:
        values: rewards, one row a prompt.
        alpha: the tilt.
        binary: whether every reward is known to be 0 or 1.

    Returns:
        With binary rewards the expectation over the fitted success probabilities, else corrected by
        half samples.
    """
    if binary:
        return _expected_headroom(_fit(values), alpha)
    rewards = torch.from_numpy(values)
    return half_sample_corrected(
        lambda part: headroom(rewards[:, part], alpha).numpy(), values.shape[1]
    )


def _fit(values: np.ndarray) -> Mixing:
    return _fit_to(tuple(_successes(values).tolist()), values.shape[1])


@lru_cache(maxsize=4)
def _fit_to(counts: tuple[int, ...], rollouts: int) -> Mixing:
    # Headroom, slopes and errors of one measurement rest on the same fit.
    return mixing(np.array(counts), rollouts)


def _expected_headroom(fit: Mixing, alpha: float) -> np.ndarray:
    outcome = torch.tensor([[1.0, 0.0]]).double().expand(len(fit.grid), 2)
    p = torch.from_numpy(np.stack((fit.grid, 1 - fit.grid), 1))
    return fit.expected(headroom(outcome, alpha, p).numpy())


class _States:
    """Gradients' measurements of states, gathered by prompt."""

    def __init__(self, policy: Policy, site: Site, methods: Sequence[Method], binary: bool) -> None:
        self.policy, self.site, self.methods, self.binary = policy, site, methods, binary
        self.found: dict[Method, list[tuple[np.ndarray, Columns]]] = {m: [] for m in methods}
        self.populations: dict[Method, PopulationAdvantages] = {}

    def add(self, prompts: Sequence[int], drawn: Rollouts) -> float:
        """Measure the states that groups share; returns the difference in log-probability."""
        scores, logp = prompt_state_scores(self.policy, drawn, self.site)
        difference = check_log_probabilities(self.policy, drawn, logp)
        populations = None
        if self.populations:
            # A completion has one advantage at all of its states: its prompt's.
            populations = {m: p.at(list(prompts)) for m, p in self.populations.items()}
        else:
            self.populations = sampled_populations(drawn.rewards, self.methods, self.binary)
        columns = state_columns(scores, drawn.rewards, self.methods, self.binary, populations)
        for m in self.methods:
            self.found[m].append((np.array(prompts), columns[m]))
        return difference

    def means(self, method: Method) -> Columns:
        """The mean over each prompt's states."""
        parts = self.found[method]
        prompts = np.concatenate([p for p, _ in parts])
        count = np.bincount(prompts)
        return {
            name: np.bincount(prompts, np.concatenate([c[name] for _, c in parts])) / count
            for name in parts[0][1]
        }


def state_columns(
    scores: Float[Tensor, "N n D"],
    rewards: Float[Tensor, "N n"],
    methods: Sequence[Method],
    binary: bool,
    populations: Mapping[Method, PopulationAdvantages] | None = None,
) -> dict[Method, Columns]:
    """Slope, Σ, alignment and both Λ of each state, by method.

    Args:
        scores: score vectors of the rollouts at the state that their group shares.
        rewards: of each rollout.
        methods: which critic-free methods.
        binary: whether every reward is 0 or 1.
        populations: for deeper states the advantages of their prompts, from `sampled_populations`
            of other rollouts; None where these are the prompts' own rollouts.

    Returns:
        Columns as `summarise` takes them.
    """
    wide, r = scores.double().cpu(), rewards.double()
    squared = squared_norm(wide, r).numpy()
    gram = (wide @ wide.mT).numpy()
    values, own = r.numpy(), populations is None
    populations = populations or sampled_populations(r, methods, binary)
    if binary:
        fit = _fit(values)
        probability = fit.expected(fit.grid)
    result = {}
    for m in methods:
        slope, baseline = populations[m].slope.numpy(), populations[m].baseline.numpy()
        aligned = slope * squared
        if binary:
            if m == "grpo" and own:
                aligned = signal_slopes(fit, _successes(values), values.shape[1]) * squared
            error = two_valued_costate_error(gram, values, probability, populations[m])
        else:
            if m == "grpo" and own:
                aligned = _own_alignment(wide, r)
            error = costate_error(gram, values, squared, slope, baseline)
        result[m] = {
            "slope": slope,
            "sigma": squared,
            "alignment": aligned,
            "lambda_conditional": np.sign(slope - 1) * (aligned - squared),
            "lambda_sample": error,
        }
    return result


def sampled_populations(
    rewards: Float[Tensor, "N n"], methods: Sequence[Method], binary: bool
) -> dict[Method, PopulationAdvantages]:
    """Slope and baseline of each prompt's advantages by method, from its rollouts.

    Args:
        rewards: one group a prompt.
        methods: which critic-free methods.
        binary: whether every reward is 0 or 1; then 1/(σ + ξ) is its expectation over the values
            that p may have.

    Returns:
        The limit of `advantages` for large groups, estimated; a prompt whose rewards are all equal
        has slope 0 with ``grpo`` where they are not binary.
    """
    values = rewards.double().numpy()
    mean = values.mean(1)
    own = np.ones(len(values))
    if binary:
        fit = _fit(values)
        mean = fit.expected(fit.grid)
        own = fit.expected(inverse_deviation(fit.grid))
    elif "grpo" in methods:
        own = np.where(np.ptp(values, axis=1) > 0, 1 / (values.std(1, ddof=1) + XI), 0.0)
    whole = float(1 / (values.std() + XI))
    found = {}
    for m in methods:
        slope = {"grpo": own, "ppo": np.full(len(values), whole)}.get(m, np.ones(len(values)))
        baseline = {"reinforce": np.zeros(len(values)), "ppo": np.full(len(values), values.mean())}
        found[m] = PopulationAdvantages(
            torch.from_numpy(slope), torch.from_numpy(baseline.get(m, mean))
        )
    return found


def _own_alignment(scores: Float[Tensor, "N n D"], r: Float[Tensor, "N n"]) -> np.ndarray:
    """E[‖G‖²/(σ + ξ)] where σ and G are of the same rollouts."""
    values = r.numpy()

    def aligned(part: slice) -> np.ndarray:
        # A group of equal rewards has no signal, whatever 1/ξ makes of rounding.
        spread = np.ptp(values[:, part], axis=1) > 0
        slope = 1 / (values[:, part].std(1, ddof=1) + XI)
        return np.where(spread, slope * squared_norm(scores[:, part], r[:, part]).numpy(), 0.0)

    return half_sample_corrected(aligned, values.shape[1])


def half_sample_corrected(estimate: Callable[[slice], np.ndarray], n: int) -> np.ndarray:
    """Take off a bias that falls as 1/n: 2 T(n) − mean T(n/2) over the halves (Quenouille 1949).

    Args:
        estimate: of a part of the rollouts.
        n: how many there are; below 8 there are no halves of 4 and nothing is taken off.

    Returns:
        The corrected estimate.

    Example:
        >>> x = np.arange(8.0)[None]
        >>> half_sample_corrected(lambda part: x[:, part].mean(1), 8)
        array([3.5])
    """
    whole, half = estimate(slice(None)), n // 2
    if half < LEAST:
        return whole
    halves: np.ndarray = estimate(slice(0, half)) + estimate(slice(half, 2 * half))
    return 2 * whole - halves / 2


def _reward_columns(values: np.ndarray, alpha: float, group_size: int, binary: bool) -> Columns:
    n = values.shape[1]
    tilts = alpha * values
    top = tilts.max()
    columns = {
        "reward": values.mean(1),
        "reward_variance": values.var(1, ddof=1),
        "pass_at_k": 1 - _none_of(n - (values >= 1).sum(1), n, group_size),
        "zero_spread": _equal(values, group_size),
    }
    columns["headroom"] = sampled_headrooms(values, alpha, binary)
    log_tilts = np.log(np.exp(tilts - top).mean(1)) + top
    return columns | tilted_columns(alpha, log_tilts, columns["reward"])


def _none_of(failures: np.ndarray, n: int, size: int) -> np.ndarray:
    """The chance that ``size`` of n rollouts, without replacement, are all among some of them.

    C(f, k) / C(n, k): unbiased for (1 − p)^k (Chen et al. 2021).
    """
    f = np.maximum(failures, size).astype(float)
    log = gammaln(f + 1) - gammaln(f - size + 1) - gammaln(n + 1) + gammaln(n - size + 1)
    return np.asarray(np.where(failures >= size, np.exp(log), 0.0))


def _equal(values: np.ndarray, size: int) -> np.ndarray:
    """Unbiased chance that a group earns the same throughout: the above over each value."""
    n = values.shape[1]
    found = np.zeros(len(values))
    for row, group in enumerate(values):
        counts = np.unique(group, return_counts=True)[1]
        found[row] = _none_of(counts, n, size).sum()
    return found


@torch.no_grad()
def _entropies(policy: Policy, drawn: Rollouts) -> np.ndarray:
    lengths = [len(prefix) for prefix in drawn.prefixes]
    found = torch.empty(len(lengths), dtype=torch.float64, device=policy.device)
    for rows in batches(lengths, 8192):
        states = final_states(policy, [drawn.prefixes[row] for row in rows])
        found[rows] = state_entropies(policy, states)
    return found.cpu().numpy()
