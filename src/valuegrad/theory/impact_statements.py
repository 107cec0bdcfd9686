"""The statements of impact on one model: Eqs. 24 to 29, corrections E, F.

Σ, Λ, alignment and scores are measured in closed form and held against sums over every token and
every group of 4 written out; the headroom is held against the best policy that a search finds.

V tokens · D width
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from valuegrad.credit.enumeration import enumerate_completions, enumerated_value_gradient
from valuegrad.credit.value_gradient import value_gradient
from valuegrad.finite_groups import group_advantages
from valuegrad.impact import teacher_forced, vocabulary
from valuegrad.impact.headroom import headroom
from valuegrad.impact.settings import ALPHA
from valuegrad.impact.signal import Impact
from valuegrad.methods import XI
from valuegrad.theory.case import Case
from valuegrad.theory.group_enumeration import Group, batches, groups, limit_groups, slope
from valuegrad.theory.statement import Statement, equality, inequality
from valuegrad.theory.value_statements import two_token_answer, values_by_steps

GROUP = 4  # small enough to write out, and where ψ is far from its limit
SIZES = (4, 8, 16)
ROUNDED = 1e-8  # of norms that closed forms take from squares
SEARCHED = 1e-6  # of a maximum that is searched for


class Signal(NamedTuple):
    """Σ, alignment, Λ and Λ_sample of one prompt, under the names that a measurement has them."""

    sigma: float
    alignment: float
    lambda_conditional: float
    lambda_sample: float
    alignment_population: float
    lambda_conditional_population: float
    lambda_sample_population: float


NAMES = {
    "sigma": ("Σ = E ‖∂V/∂h‖² by autograd of the enumerated value", "Eq. 26"),
    "alignment": ("alignment = E ⟨E λ̂, G⟩, all tokens and groups of 4", "Eq. 24"),
    "lambda_conditional": ("Λ = E ‖G‖ ‖E λ̂ − G‖, all tokens and groups of 4", "Eq. 26"),
    "lambda_sample": ("Λ_sample = E ‖G‖ E‖λ̂ − G‖, all tokens and groups of 4", "Eq. 26"),
    "alignment_population": ("alignment in the limit of large groups, likewise", "Eq. 24"),
    "lambda_conditional_population": ("Λ in the limit, likewise", "Eq. 26"),
    "lambda_sample_population": ("Λ_sample in the limit, likewise", "Eq. 26"),
}


def impact_statements(case: Case) -> Iterator[Statement]:
    """Signal, headroom and score of three right tokens; exact answers; the sign of the score."""
    policy, prompts = case.policy, case.one_token_answers()
    (impact,) = vocabulary.measure(policy, prompts, methods=["grpo"], group_size=GROUP).values()
    found = enumerate_completions(policy, case.prompt, 1)
    p, answers = found.probability.detach(), prompts.first_answers.tolist()
    scores = policy.head - p @ policy.head
    signals = []
    for answer in answers:
        right = torch.zeros_like(p)
        right[answer] = 1
        gradient = enumerated_value_gradient(found, right)
        signals.append(_signal(scores, p * right, p * (1 - right), gradient))
    for field, (name, source) in NAMES.items():
        measured = [*getattr(impact.rows, field).tolist(), getattr(impact.means, field)]
        truth = [getattr(signal, field) for signal in signals]
        truth.append(math.fsum(truth) / len(truth))
        yield equality(name, source, measured, truth, ROUNDED)
    yield _slopes(case, [float(p[answer]) for answer in answers])
    yield _every_site(case, p, answers)
    means = impact.means
    sides = means.sigma - means.lambda_conditional, means.alignment
    yield inequality("Σ − Λ ≤ alignment", "Eq. 25", *sides, note=f"in groups of {GROUP}")
    chances = [float(p[answer]) for answer in answers]
    yield from _headrooms(case, impact, chances, signals)
    yield from _sign_statements(case, chances)


def _signal(scores: Tensor, hit: Tensor, miss: Tensor, gradient: Tensor) -> Signal:
    """Every quantity by its definition: hit and miss say how likely a token comes with 1 and 0."""
    p, norm = float(hit.sum()), float(gradient.norm())
    found = [float(gradient @ gradient)]
    for every in (groups(p, GROUP), limit_groups(p)):
        mean, error = torch.zeros_like(gradient), 0.0
        for chance, high, low in every:
            mean += chance * (high * hit + low * miss) @ scores
            for mass, advantage in ((hit, high), (miss, low)):
                which = mass.nonzero()[:, 0]
                for some in torch.split(which, 2**14):
                    distance = (advantage * scores[some] - gradient).norm(dim=1)
                    error += chance * float(mass[some] @ distance)
        found += [float(mean @ gradient), norm * float((mean - gradient).norm()), norm * error]
    return Signal(*found)


def _slopes(case: Case, chances: list[float]) -> Statement:
    """ψ of each method at each prompt; ppo's group is a batch of two prompts."""
    found = vocabulary.measure(
        case.policy, case.one_token_answers(), group_size=GROUP, prompts_per_update=2
    )
    left, right = list[float](), list[float]()
    for method, impact in found.items():
        left += impact.rows.slope.tolist()
        if method == "ppo":
            right += [slope(batches(p, chances, GROUP)) for p in chances]
        else:
            right += [slope(groups(p, GROUP, method)) for p in chances]
    name = f"ψ of five methods = sums over all groups, or batches, of {GROUP}"
    return equality(name, "Eq. 24", left, right, entrywise=True)


def _every_site(case: Case, p: Tensor, answers: list[int]) -> Statement:
    """E λ̂ with every token and every group of 4 enumerated, at every site."""
    policy, prompts = case.policy, case.one_token_answers()
    right = p[answers]
    known = torch.tensor([0.0, 1.0]).to(p), torch.stack([1 - right, right], 1)
    psi = group_advantages(*known, "grpo", GROUP).slope
    left, truth = list[Tensor](), list[Tensor]()
    for site in policy.sites:
        found = enumerate_completions(policy, case.prompt, 1, site)
        for answer in answers:
            every = groups(float(p[answer]), GROUP)
            mean = torch.full_like(p, math.fsum(chance * low for chance, _, low in every))
            mean[answer] = math.fsum(chance * high for chance, high, _ in every)
            # The gradient of Σ p Ā log p with p and Ā held is Σ p Ā s.
            credited = (p * mean * found.probability.log()).sum()
            left += torch.autograd.grad(credited, found.state, retain_graph=True)
        truth.append(psi[:, None].to(policy.head) * value_gradient(policy, prompts, site))
    name = f"E λ̂ of all tokens and groups of {GROUP} = ψ(p, G) G, every site"
    return equality(name, "Eq. 24", torch.stack(left), torch.cat(truth))


def _headrooms(
    case: Case, impact: Impact, chances: list[float], signals: list[Signal]
) -> Iterator[Statement]:
    """Eq. 28 as the best policy's reward less its cost, and the scores that Eq. 29 makes of it."""
    best = [_best_reward(p) for p in chances]
    room = math.fsum(best) / len(best)
    both = [*impact.rows.headroom.tolist(), impact.means.headroom]
    name = "headroom = max_q E_q R − KL(q‖p)/α − E_p R, by search"
    yield equality(name, "Eq. 28", both, [*best, room], SEARCHED)
    mean = math.fsum(chances) / len(chances)
    tilted = math.log(1 + mean * (math.exp(ALPHA) - 1)) / ALPHA - mean
    name = "pooled headroom = that of the prompts' mean distribution"
    yield equality(name, "Eq. 28", impact.means.headroom_pooled, tilted, ROUNDED)
    count = len(case.likely())
    drawn = torch.randn(2, count, generator=case.generator, dtype=torch.float64)
    rewards, p = drawn[0].tanh(), (3 * drawn[1]).softmax(0)
    q = (p.log() + ALPHA * rewards).softmax(0)
    gained = q @ rewards - (q * (q / p).log()).sum() / ALPHA - p @ rewards
    name = "headroom of random rewards = what the tilted policy gains less its cost"
    yield equality(name, "Eq. 28", headroom(rewards, ALPHA, p), gained)
    expected = {f: math.fsum(getattr(s, f) for s in signals) / len(signals) for f in NAMES}
    left, right = list[float](), list[float]()
    for end in ("", "_population"):
        errors = {"p_gap": "lambda_sample", "p_gap_conditional": "lambda_conditional"}
        for score, error in errors.items():
            left.append(getattr(impact.means, score + end))
            right.append((expected["sigma"] - expected[error + end]) * room)
        left.append(getattr(impact.means, "p_alignment" + end))
        right.append(expected["alignment" + end] * room)
    name = "P_gap = (Σ − Λ) H_α, and alignment · H_α, of what was enumerated"
    yield equality(name, "Eq. 29", left, right, SEARCHED, entrywise=True)


def _best_reward(p: float) -> float:
    """The most over q of q − KL(q‖p)/α − p, rewards 0 and 1: a search over the log-odds."""

    def lost(tilt: float) -> float:
        mass = 1 + p * math.expm1(tilt)
        q = p * math.exp(tilt) / mass
        gain = p * (1 - p) * math.expm1(tilt) / mass
        return (q * tilt - math.log1p(p * math.expm1(tilt))) / ALPHA - gain

    return -float(minimize_scalar(lost, bounds=(0, 4 * ALPHA), options={"xatol": 1e-9}).fun)


def _sign_statements(case: Case, chances: list[float]) -> Iterator[Statement]:
    """Correction E: S / Σ by group size, and the sign that it has in the limit."""
    prompts, left, right, shown = case.one_token_answers(), list[Tensor](), list[Tensor](), []
    for size in SIZES:
        (impact,) = vocabulary.measure(
            case.policy, prompts, methods=["grpo"], group_size=size
        ).values()
        left.append(1 - impact.rows.lambda_conditional / impact.rows.sigma)
        right.append(_shares([groups(p, size) for p in chances]))
        shown.append(f"G = {size}: {_listed(left[-1])}")
    left.append(1 - impact.rows.lambda_conditional_population / impact.rows.sigma)
    right.append(_shares([limit_groups(p) for p in chances]))
    shown.append(f"limit: {_listed(left[-1])}")
    note = f"S / Σ at p = {_listed(torch.tensor(chances))}; " + "; ".join(shown)
    name = "S / Σ = 1 − |ψ − 1| for an indicator reward, G = 4, 8, 16 and the limit"
    yield equality(name, "Correction E", torch.cat(left), torch.cat(right), ROUNDED, note=note)
    sigma, error = impact.means.sigma, impact.means.lambda_conditional_population
    name = "Σ ≤ Λ in the limit of large groups, so that S = Σ − Λ ≤ 0 there"
    # With ξ beside σ ≤ 1/2 the slope may be 2 − 4ξ at the least.
    least = sigma * (1 - 4 * XI)
    note = "up to the ξ beside σ, 4ξ Σ; in finite groups S may be above 0"
    yield inequality(name, "Correction E", least, error, note=note)
    name = "Λ ≤ Σ in the limit, so that S = Σ − Λ measures usable signal"
    note = "E[λ̂|h] = G/σ with σ ≤ 1/2 is G at another scale; the alignment needs no bound"
    yield inequality(name, "Eq. 27", error, sigma, form="paper", note=note)


def _shares(every: list[list[Group]]) -> Tensor:
    """1 − |ψ − 1| of each prompt: 2 − ψ where ψ is above 1."""
    return torch.tensor([1 - abs(slope(one) - 1) for one in every], dtype=torch.float64)


def _listed(values: Tensor) -> str:
    return ", ".join(f"{value:.2g}" for value in values.tolist())


def exact_answer_statements(case: Case) -> Iterator[Statement]:
    """Correction F: the same of an answer of two tokens, in closed form by teacher forcing."""
    policy, prompts = case.policy, two_token_answer(case)
    (impact,) = teacher_forced.measure(policy, prompts, methods=["grpo"], group_size=GROUP).values()
    value = values_by_steps(case, prompts)
    found = enumerate_completions(policy, case.prompt, 1)
    p, first = found.probability.detach(), prompts.answers[0][0]
    hit, right = torch.zeros_like(p), torch.zeros_like(p)
    # What follows the first token does not depend on the state that scores it.
    hit[first], right[first] = value[0], value[0] / p[first]
    gradient = enumerated_value_gradient(found, right)
    signal = _signal(policy.head - p @ policy.head, hit, p - hit, gradient)
    left = [getattr(impact.means, field) for field in Signal._fields]
    name = "Σ, Λ, alignment of an exact answer = sums over first tokens and groups of 4"
    yield equality(name, "Correction F", left, list(signal), ROUNDED, entrywise=True)
