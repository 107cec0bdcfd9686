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


def token_weight(method, length, max_tokens):
    """What a method's loss multiplies the log-probability of a completion of a length by."""
    return {"grpo": 1 / length, "ppo": 1 / length, "dr_grpo": 1 / max_tokens}.get(method, 1.0)


def completion_gradients(model, ids, completions):
    """π(o|q) and ∇ log π(o|q) of every completion: (O,) and (O, P)."""
    parameters = list(model.parameters())
    log_p, rows = [], []
    for completion in completions:
        found = log_probability(model, ids, completion)
        gradients = torch.autograd.grad(found, parameters, allow_unused=True)
        flat = [
            torch.zeros(p.numel()).double() if g is None else g.flatten()
            for g, p in zip(gradients, parameters, strict=True)
        ]
        log_p.append(float(found.detach()))
        rows.append(torch.cat(flat))
    return torch.tensor(log_p, dtype=torch.float64).exp(), torch.stack(rows)


def expected_gradient(known, completions, rs, method, max_tokens, group_size, prompts=1):
    """mean_q Σ_o π(o) Ā_q(R(o)) w(T_o) ∇ log π(o), from `completion_gradients` of every prompt."""
    ps = [p for p, _ in known]
    advantages = oracles.mean_advantages(method, ps, rs, group_size, prompts)
    weights = torch.tensor(
        [token_weight(method, len(c), max_tokens) for c in completions], dtype=torch.float64
    )
    parts = [(p * A * weights) @ g for (p, g), A in zip(known, advantages, strict=True)]
    return sum(parts) / len(parts)


def expected_batch_gradient(known, completions, rs, method, max_tokens, group_size):
    """The same for batches of one prompt, by the loss of every group that can be drawn."""
    total = torch.zeros(known[0][1].shape[1], dtype=torch.float64)
    w = [token_weight(method, len(c), max_tokens) for c in completions]
    for (chances, g), rewards in zip(known, rs, strict=True):
        p, r, weights = chances.tolist(), rewards.tolist(), [0.0] * len(completions)
        for group in itertools.product(range(len(completions)), repeat=group_size):
            chance = math.prod(p[i] for i in group)
            (advantages,) = oracles.group_advantages(method, [[r[i] for i in group]])
            for i, advantage in zip(group, advantages, strict=True):
                weights[i] += chance * advantage * w[i] / group_size
        total += torch.tensor(weights, dtype=torch.float64) @ g / len(known)
    return total


def adam_direction(gradient):
    """Adam's first step."""
    return gradient / (gradient.abs() + 1e-8)


def after_move(model, prompts, answers, stops, direction):
    """Rewards of exact answers after the parameters have moved along a flat direction."""
    sizes = [p.numel() for p in model.parameters()]
    parts = [d.view_as(p) for d, p in zip(direction.split(sizes), model.parameters(), strict=True)]
    other = oracles.moved(model, parts, 1.0)
    with torch.no_grad():
        return [float(value(other, i, a, stops)) for i, a in zip(prompts, answers, strict=True)]
