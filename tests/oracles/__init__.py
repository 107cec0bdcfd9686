"""Slow, obvious re-implementations of every quantity, in float64, by enumeration of the vocabulary.

Nothing here imports the package. A model is a transformers causal language model in float64; a
prompt is a list of token ids; rewards are one number for each token of the vocabulary.
"""

import contextlib
import copy
import itertools
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


def reward_chances(p, r):
    """The probability of each different reward."""
    chances = {}
    for w, x in zip(p.tolist(), r.tolist(), strict=True):
        chances[x] = chances.get(x, 0.0) + w
    return chances


def finite_advantages(method, ps, rs, group_size, prompts_per_update=1):
    """Of each prompt {own reward: [(probability, advantage), …]}, over all that the others earn.

    The others are those of the group, and for ppo of the batch too: its other prompts are drawn
    evenly and independently. By enumeration of their rewards one by one.
    """
    chances = [reward_chances(p, r) for p, r in zip(ps, rs, strict=True)]
    known = []
    for own in chances:
        given = {value: {} for value in own}
        rest = [[own] * (group_size - 1)]
        if method == "ppo":
            drawn = itertools.product(chances, repeat=prompts_per_update - 1)
            rest = [rest[0] + [c for c in other for _ in range(group_size)] for other in drawn]
        for others in rest:
            for rewards in itertools.product(*[list(c) for c in others]):
                chance = math.prod(c[x] for c, x in zip(others, rewards, strict=True)) / len(rest)
                for value, found in given.items():
                    batch = [value, *rewards]
                    groups = [batch[i : i + group_size] for i in range(0, len(batch), group_size)]
                    advantage = group_advantages(method, groups)[0][0]
                    found[advantage] = found.get(advantage, 0.0) + chance
        known.append({x: [(w, a) for a, w in found.items()] for x, found in given.items()})
    return known


# --- the measurements of one checkpoint ----------------------------------------------------------


def costates(p, r, s, G, given):
    """⟨E[λ̂], G⟩, ‖E[λ̂] − G‖ and E‖λ̂ − G‖, λ̂ = Â s, from the advantages given the reward."""
    expected, distance = torch.zeros_like(G), 0.0
    for w, x, vector in zip(p.tolist(), r.tolist(), s, strict=True):
        for chance, advantage in given[x]:
            expected += w * chance * advantage * vector
            distance += w * chance * float(torch.linalg.norm(advantage * vector - G))
    return float(expected @ G), float(torch.linalg.norm(expected - G)), distance


def measurements(
    ps, rs, scores, method, alpha=5.0, group_size=4, prompts=None, prompts_per_update=1
):
    """Every measurement, from distributions (V), rewards (V) and scores (V, d) of some prompts.

    `prompts` is the number of groups of which the zero-spread ones are counted: as many as there
    are distributions, if it is not given. An action succeeds when it earns 1, which says nothing
    where there are more than two rewards and some are outside [0, 1].
    """
    seen = sorted({x for r in rs for x in r.tolist()})
    scaled = len(seen) <= 2 or (seen[0] >= 0 and seen[-1] <= 1)
    rows = []
    finite = finite_advantages(method, ps, rs, group_size, prompts_per_update)
    limit = [
        {x: [(1.0, a)] for x, a in zip(r.tolist(), A.tolist(), strict=True)}
        for r, A in zip(rs, population_advantages(method, ps, rs), strict=True)
    ]
    for p, r, s, *given in zip(ps, rs, scores, finite, limit, strict=True):
        G = (p * r) @ s
        (aligned, apart, distance), of_limit = (costates(p, r, s, G, x) for x in given)
        norm = float(torch.linalg.norm(G))
        mean, deviation = mean_and_deviation(p, r)
        chances = list(zip(p.tolist(), r.tolist(), strict=True))
        tilt = sum(w * math.exp(alpha * x) for w, x in chances)
        success = sum(w for w, x in chances if x >= 1) if scaled else math.nan
        mass = dict.fromkeys(r.tolist(), 0.0)
        for w, x in chances:
            mass[x] += w
        rows.append(
            {
                "reward_before": mean,
                "sigma": norm**2,
                "lambda_conditional": norm * apart,
                "lambda_sample": norm * distance,
                "alignment": aligned,
                "lambda_conditional_population": norm * of_limit[1],
                "lambda_sample_population": norm * of_limit[2],
                "alignment_population": of_limit[0],
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
        for of in ("", "_population"):
            result[name + of] = (result["sigma"] - result[lost + of]) * result["headroom"]
    for of in ("", "_population"):
        result["p_alignment" + of] = result["alignment" + of] * result["headroom"]
    return result


def jackknife(function, n):
    """Standard error of `function(prompts kept)`, leaving out one of n prompts at a time."""
    values = [function([j for j in range(n) if j != i]) for i in range(n)]
    mean = sum(values) / n
    return math.sqrt((n - 1) / n * sum((x - mean) ** 2 for x in values))


# --- the probe step ------------------------------------------------------------------------------


def mean_advantages(method, ps, rs, group_size, prompts_per_update=1):
    """E[Â | r] of every action of every prompt, in groups of a size; without one in the limit."""
    if group_size is None:
        return population_advantages(method, ps, rs)
    known = finite_advantages(method, ps, rs, group_size, prompts_per_update)
    return [
        torch.tensor([sum(w * a for w, a in given[x]) for x in r.tolist()], dtype=torch.float64)
        for given, r in zip(known, rs, strict=True)
    ]


def conditional_gradient(model, prompts, rs, method, group_size=None, prompts_per_update=1):
    """Expected parameter gradient of a method's update, the mean over prompts of Σ_a Ā_a ∇p_a."""
    ps = [distribution(model, ids) for ids in prompts]
    held = [p.detach() for p in ps]
    advantages = mean_advantages(method, held, rs, group_size, prompts_per_update)
    objective = sum(value(model, ids, A) for ids, A in zip(prompts, advantages, strict=True)) / len(
        prompts
    )
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


def probe(model, learnt, measured, method, distance, group_size=4, prompts_per_update=1):
    """Rewards after Adam's first step on the conditional objective, and the gradient's norm.

    The step is that of some prompts with the rewards of every token, the rewards are of others.
    """
    sizes = group_size, prompts_per_update
    gradients = conditional_gradient(model, *learnt, method, *sizes)
    step = [g / (g.abs() + 1e-8) for g in gradients]
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    return rewards(moved(model, step, distance), *measured), norm
