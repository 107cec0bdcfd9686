"""Slow, obvious re-implementations of every quantity, in float64, by enumeration of the vocabulary.

Nothing here imports the package. A model is a transformers causal language model in float64; a
prompt is a list of token ids; rewards are one number for each token of the vocabulary.
"""

import contextlib
import copy
import math

import torch

METHODS = ("grpo", "dr_grpo", "rloo", "reinforce", "ppo")
XI = 1e-4


# --- the model, opened at a site ---------------------------------------------------------------


def blocks_and_norm(model):
    """Return the list of blocks and the final norm, by architecture."""
    if hasattr(model, "gpt_neox"):
        return model.gpt_neox.layers, model.gpt_neox.final_layer_norm
    if hasattr(model, "transformer"):
        return model.transformer.h, model.transformer.ln_f
    return model.model.layers, model.model.norm


@contextlib.contextmanager
def shifted(model, shifts, position=-1):
    """While open, add `shifts[site]` to the hidden vector of one position at each site."""
    blocks, norm = blocks_and_norm(model)

    def add(hidden, shift):
        moved = hidden.clone()
        moved[:, position, :] = moved[:, position, :] + shift
        return moved

    def before(shift):
        return lambda module, args: (add(args[0], shift), *args[1:])

    def after(shift):
        def hook(module, args, output):
            if isinstance(output, tuple):
                return (add(output[0], shift), *output[1:])
            return add(output, shift)

        return hook

    handles = []
    for site, shift in shifts.items():
        if site == "embedding":
            handles.append(blocks[0].register_forward_pre_hook(before(shift)))
        elif site == "final":
            handles.append(norm.register_forward_hook(after(shift)))
        else:
            handles.append(blocks[site].register_forward_hook(after(shift)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def log_distribution(model, ids):
    """Return log p(a|q) of every token a, straight from the model's logits."""
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()
    return logits - torch.logsumexp(logits, 0)


def distribution(model, ids):
    with torch.no_grad():
        return log_distribution(model, ids).exp()


# --- the value gradient, two routes --------------------------------------------------------------


def value(model, ids, rewards, site=None, shift=None):
    """V(h + shift) = Σ_a p_a r_a."""
    with shifted(model, {} if site is None else {site: shift}):
        return (log_distribution(model, ids).exp() * rewards).sum()


def width(model):
    return model.get_input_embeddings().weight.shape[1]


def value_gradient_autograd(model, ids, rewards, site):
    """∂V/∂h by automatic differentiation of the enumerated value."""
    shift = torch.zeros(width(model), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(model, ids, rewards, site, shift), shift)
    return gradient


def value_gradient_differences(model, ids, rewards, site, step=1e-4):
    """∂V/∂h by fourth-order central differences, one coordinate at a time."""
    gradient = []
    with torch.no_grad():
        for i in range(width(model)):
            unit = torch.zeros(width(model), dtype=torch.float64)
            unit[i] = step
            near = value(model, ids, rewards, site, unit) - value(model, ids, rewards, site, -unit)
            far = value(model, ids, rewards, site, 2 * unit) - value(
                model, ids, rewards, site, -2 * unit
            )
            gradient.append((8 * near - far) / (12 * step))
    return torch.stack(gradient)


def scores(model, ids, sites):
    """∂log p_a/∂h for every token a, one backward pass a token: {site: (V, d)}."""
    shifts = {
        site: torch.zeros(width(model), dtype=torch.float64, requires_grad=True) for site in sites
    }
    with shifted(model, shifts):
        log_p = log_distribution(model, ids)
    rows = {site: [] for site in sites}
    for a in range(len(log_p)):
        gradients = torch.autograd.grad(log_p[a], list(shifts.values()), retain_graph=True)
        for site, gradient in zip(sites, gradients, strict=True):
            rows[site].append(gradient)
    return {site: torch.stack(rows[site]) for site in sites}


# --- critic-free methods -----------------------------------------------------------------------


def mean_and_deviation(p, r):
    p, r = p.tolist(), r.tolist()
    mean = sum(w * x for w, x in zip(p, r, strict=True))
    return mean, math.sqrt(sum(w * (x - mean) ** 2 for w, x in zip(p, r, strict=True)))


def pooled(ps, rs):
    """All prompts taken together as one distribution of rewards."""
    return torch.cat([p / len(ps) for p in ps]), torch.cat(list(rs))


def population_advantages(method, ps, rs):
    """Advantages of every token under every prompt, in the limit of infinitely large groups."""
    if method == "ppo":
        moments = [mean_and_deviation(*pooled(ps, rs))] * len(ps)
    else:
        moments = [mean_and_deviation(p, r) for p, r in zip(ps, rs, strict=True)]
    advantages = []
    for r, (mean, deviation) in zip(rs, moments, strict=True):
        if method in ("grpo", "ppo"):
            advantages.append((r - mean) / (deviation + XI))
        elif method in ("dr_grpo", "rloo"):
            advantages.append(r - mean)
        else:
            advantages.append(r.clone())
    return advantages


def group_advantages(method, rewards):
    """Advantages of sampled rewards, a list of equally long groups, by naive loops."""

    def bessel(values):
        mean = sum(values) / len(values)
        return mean, math.sqrt(sum((x - mean) ** 2 for x in values) / (len(values) - 1))

    whole = bessel([x for group in rewards for x in group])
    advantages = []
    for group in rewards:
        mean, deviation = bessel(group)
        n = len(group)
        if method == "grpo":
            advantages.append([(x - mean) / (deviation + XI) for x in group])
        elif method == "dr_grpo":
            advantages.append([x - mean for x in group])
        elif method == "rloo":
            advantages.append([x - (sum(group) - x) / (n - 1) for x in group])
        elif method == "reinforce":
            advantages.append(list(group))
        else:
            advantages.append([(x - whole[0]) / (whole[1] + XI) for x in group])
    return advantages


# --- the measurements of one checkpoint ----------------------------------------------------------


def measurements(ps, rs, scores, method, alpha=5.0, group_size=16, prompts=None):
    """Every measurement, from distributions (V), rewards (V) and scores (V, d) of some prompts.

    `prompts` is the number of groups of which the zero-spread ones are counted: as many as there
    are distributions, if it is not given. An action succeeds when it earns at least 1.
    """
    rows = []
    for p, r, A, s in zip(ps, rs, population_advantages(method, ps, rs), scores, strict=True):
        G = (p * r) @ s
        costates = A[:, None] * s
        expected_costate = p @ costates
        distance = float(p @ torch.linalg.norm(costates - G, dim=1))
        norm = float(torch.linalg.norm(G))
        mean, deviation = mean_and_deviation(p, r)
        chances = list(zip(p.tolist(), r.tolist(), strict=True))
        tilt = sum(w * math.exp(alpha * x) for w, x in chances)
        success = sum(w for w, x in chances if x >= 1)
        mass = dict.fromkeys(r.tolist(), 0.0)
        for w, x in chances:
            mass[x] += w
        rows.append(
            {
                "reward_before": mean,
                "sigma": norm**2,
                "lambda_conditional": norm * float(torch.linalg.norm(expected_costate - G)),
                "lambda_sample": norm * distance,
                "alignment": float(expected_costate @ G),
                "headroom": math.log(tilt) / alpha - mean,
                "entropy": -sum(w * math.log(w) for w, _ in chances if w > 0),
                "reward_variance": deviation**2,
                "pass_at_k": 1 - (1 - success) ** group_size,
                "zero_spread_groups": sum(x**group_size for x in mass.values()),
                "tilt": tilt,
            }
        )
    result = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    result["zero_spread_groups"] *= prompts or len(rows)
    result["headroom_pooled"] = math.log(result.pop("tilt")) / alpha - result["reward_before"]
    for name, lost in (("p_gap", "lambda_sample"), ("p_gap_conditional", "lambda_conditional")):
        result[name] = (result["sigma"] - result[lost]) * result["headroom"]
    result["p_alignment"] = result["alignment"] * result["headroom"]
    return result


def jackknife(function, n):
    """Standard error of `function(prompts kept)`, leaving out one of n prompts at a time."""
    values = [function([j for j in range(n) if j != i]) for i in range(n)]
    mean = sum(values) / n
    return math.sqrt((n - 1) / n * sum((x - mean) ** 2 for x in values))


# --- the probe step ------------------------------------------------------------------------------


def conditional_gradient(model, prompts, rs, method):
    """Parameter gradient of the mean over prompts of slope · V, the slopes held fixed.

    The population costates add up to slope · ∂V: the slope is 1/(σ + ξ) for `grpo`, with σ of all
    prompts together for `ppo`, and 1 for the methods that do not normalise.
    """
    ps = [distribution(model, ids) for ids in prompts]
    slopes = []
    for p, r in zip(ps, rs, strict=True):
        deviation = {
            "grpo": mean_and_deviation(p, r)[1],
            "ppo": mean_and_deviation(*pooled(ps, rs))[1],
        }.get(method)
        slopes.append(1.0 if deviation is None else 1 / (deviation + XI))
    objective = sum(
        slope * value(model, ids, r) for slope, ids, r in zip(slopes, prompts, rs, strict=True)
    ) / len(prompts)
    return torch.autograd.grad(objective, list(model.parameters()))


def moved(model, direction, distance):
    """A copy of the model with distance · direction added to its parameters."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter, d in zip(other.parameters(), direction, strict=True):
            parameter.add_(distance * d)
    return other


def rewards(model, prompts, rs):
    """V of every prompt."""
    return [float(distribution(model, ids) @ r) for ids, r in zip(prompts, rs, strict=True)]


def probe(model, learnt, measured, method, distance):
    """Rewards after Adam's first step on the conditional objective, and the gradient's norm.

    The step is that of some prompts with the rewards of every token, the rewards are of others.
    """
    gradients = conditional_gradient(model, *learnt, method)
    step = [g / (g.abs() + 1e-8) for g in gradients]
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    return rewards(moved(model, step, distance), *measured), norm
