"""Slow, obvious re-implementations for completions of several tokens, in float64, by plain loops.

Nothing here imports the package. A prompt is a list of token ids, a completion a tuple of them with
its stop token if it has one; `stops` are the tokens that end a completion. An exact answer earns 1
when its tokens are followed by any of the stop tokens, and without stop tokens when its tokens are
all that a completion can hold.
"""

import itertools
import math

import torch
from tests import oracles

# --- completions and their probabilities ---------------------------------------------------------


def every_completion(vocabulary, stops, max_tokens):
    """All completions: those that a stop token ends, and those cut off at `max_tokens` tokens."""
    if max_tokens == 0:
        return [()]
    found = []
    for token in range(vocabulary):
        if token in stops:
            found.append((token,))
        else:
            later = every_completion(vocabulary, stops, max_tokens - 1)
            found += [(token, *rest) for rest in later]
    return found


def log_probability(model, ids, completion, shifts=None, t=1):
    """log π(o_≥t | s_t), a forward pass a token, the vectors that score o_t moved by `shifts`."""
    total = torch.zeros((), dtype=torch.float64)
    for k in range(t, len(completion) + 1):
        with oracles.shifted(model, shifts or {}, len(ids) - 1 + (t - 1)):
            log_p = oracles.log_distribution(model, [*ids, *completion[: k - 1]])
        total = total + log_p[completion[k - 1]]
    return total


def accepted(answer, stops):
    """The completions that earn 1."""
    return [(*answer, stop) for stop in stops] if stops else [tuple(answer)]


def value(model, ids, answer, stops, shifts=None, t=1):
    """V_t along the answer: what is left to say of it, and any of the stop tokens."""
    said = log_probability(model, ids, answer, shifts, t).exp()
    if not stops:
        return said
    with oracles.shifted(model, shifts or {}, len(ids) - 1 + (t - 1)):
        p = oracles.log_distribution(model, [*ids, *answer]).exp()
    return said * sum(p[stop] for stop in stops)


# --- the value gradient, two routes --------------------------------------------------------------


def value_gradients(model, ids, answer, stops, sites, t=1):
    """V_t and ∂V_t/∂h_t at each site, by automatic differentiation."""
    shifts = {
        site: torch.zeros(oracles.width(model), dtype=torch.float64, requires_grad=True)
        for site in sites
    }
    found = value(model, ids, answer, stops, shifts, t)
    gradients = torch.autograd.grad(found, list(shifts.values()))
    return float(found.detach()), dict(zip(sites, gradients, strict=True))


def value_slope_differences(model, ids, answer, stops, site, t, direction, step=1e-4):
    """∂V_t/∂h_t along a direction, by fourth-order central differences."""
    with torch.no_grad():
        one, minus, two, minus_two = (
            value(model, ids, answer, stops, {site: factor * step * direction}, t)
            for factor in (1, -1, 2, -2)
        )
    return float(8 * (one - minus) - (two - minus_two)) / (12 * step)


# --- everything by enumeration of the completions ------------------------------------------------


def scores(model, ids, completions, sites):
    """log π(o|q) and ∂log π(o|q)/∂h_1 of every completion: (O,), {site: (O, d)}.

    A forward pass for every beginning of a completion, and a backward pass for every next token.
    """
    known = {}
    for seen in {completion[:k] for completion in completions for k in range(len(completion))}:
        shifts = {
            site: torch.zeros(oracles.width(model), dtype=torch.float64, requires_grad=True)
            for site in sites
        }
        with oracles.shifted(model, shifts, len(ids) - 1):
            log_p = oracles.log_distribution(model, [*ids, *seen])
        for token in range(len(log_p)):
            gradients = torch.autograd.grad(
                log_p[token], list(shifts.values()), retain_graph=True, materialize_grads=True
            )
            known[seen, token] = float(log_p[token].detach()), gradients
    log_p, rows = [], {site: [] for site in sites}
    for completion in completions:
        steps = [known[completion[:k], token] for k, token in enumerate(completion)]
        log_p.append(sum(logp for logp, _ in steps))
        for i, site in enumerate(sites):
            rows[site].append(sum(gradients[i] for _, gradients in steps))
    stacked = {site: torch.stack(rows[site]) for site in sites}
    return torch.tensor(log_p, dtype=torch.float64), stacked


def indicator(completions, answer, stops):
    """The exact reward of every completion."""
    right = set(accepted(answer, stops))
    return torch.tensor([float(c in right) for c in completions], dtype=torch.float64)


def group_statistics(p, group_size):
    """Chance that a group succeeds once or more, and that all of it earns the same."""
    some = same = 0.0
    for outcome in itertools.product((0, 1), repeat=group_size):
        chance = math.prod(p if success else 1 - p for success in outcome)
        some += chance * (sum(outcome) > 0)
        same += chance * (len(set(outcome)) == 1)
    return some, same


# --- U-statistics: the mean of a kernel over tuples of distinct indices --------------------------


def u_statistic(kernel, order, n):
    """The mean over all ordered tuples of distinct indices."""
    tuples = list(itertools.permutations(range(n), order))
    return sum(float(kernel(*indices)) for indices in tuples) / len(tuples)


def squared_covariance(s, r):
    """‖Cov(r, s)‖² without bias, by quadruples."""
    return u_statistic(
        lambda i, j, k, m: (r[i] - r[j]) * (r[k] - r[m]) * (s[i] - s[j]) @ (s[k] - s[m]) / 4,
        4,
        len(r),
    )


def pass_at_k(rewards, k):
    """The share of subsets of k rollouts that hold a success."""
    subsets = list(itertools.combinations(rewards, k))
    return sum(max(subset) >= 1 for subset in subsets) / len(subsets)


def zero_spread(rewards, k):
    """The share of subsets of k rollouts whose rewards are all equal."""
    subsets = list(itertools.combinations(rewards, k))
    return sum(len(set(subset)) == 1 for subset in subsets) / len(subsets)


# --- the probe step ------------------------------------------------------------------------------


def slopes(values, method):
    """1/(σ + ξ) of every prompt, σ that of all prompts together for `ppo`; 1 for the others."""
    mean = sum(values) / len(values)
    pooled = math.sqrt(mean * (1 - mean))
    if method == "grpo":
        return [1 / (math.sqrt(p * (1 - p)) + oracles.XI) for p in values]
    if method == "ppo":
        return [1 / (pooled + oracles.XI)] * len(values)
    return [1.0] * len(values)


def conditional_gradient(model, prompts, answers, stops, method):
    """Parameter gradient of the mean over prompts of slope · V, the slopes held fixed."""
    values = [value(model, ids, a, stops) for ids, a in zip(prompts, answers, strict=True)]
    held = slopes([float(v.detach()) for v in values], method)
    objective = sum(slope * v for slope, v in zip(held, values, strict=True)) / len(values)
    return torch.autograd.grad(objective, list(model.parameters()))


def probe(model, prompts, answers, stops, method, distance):
    """Rewards after Adam's first step on the conditional objective, and the gradient's norm."""
    gradients = conditional_gradient(model, prompts, answers, stops, method)
    step = [g / (g.abs() + 1e-8) for g in gradients]
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    other = oracles.moved(model, step, distance)
    with torch.no_grad():
        after = [float(value(other, i, a, stops)) for i, a in zip(prompts, answers, strict=True)]
    return after, norm
