"""Groups of completions drawn from a policy, with their log-probabilities and rewards.

Tokens are drawn from the policy's own next-token distribution, temperature 1 and nothing cut off,
for costates are of that distribution. Each prompt has a random generator of its own, so that a
group does not depend on the batch it is drawn in.

N prompts · G completions of each · R = N·G rows · T tokens of the longest one · V vocabulary
"""

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from valuegrad.errors import NotFiniteError, RunError, UserError
from valuegrad.model.batches import CACHE_TOKENS, batches, completion_logp, left_padded
from valuegrad.model.policy import Policy
from valuegrad.prompts import Prompts

# How far the log-probability of a whole completion may differ when it is computed anew, in nats.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-2, torch.bfloat16: 1.0, torch.float16: 0.5}


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Groups of completions of some prompts; made by `rollouts`.

    Attributes:
        prefixes: what each group continues: the prompt's tokens, and more for a deeper state.
        completions: token ids of each completion, its stop token included where it was drawn.
        texts: the completions without stop tokens, as a reward reads them.
        rewards: of each completion, reward units.
        logp: Σ_t log π(o_t|s_t) of each completion as it was drawn, nats.
        truncated: which completions were cut off at the most tokens.
        empty: which completions were stopped at once.
    """

    prefixes: tuple[tuple[int, ...], ...]
    completions: tuple[tuple[tuple[int, ...], ...], ...]
    texts: tuple[tuple[str, ...], ...]
    rewards: Float[Tensor, "N G"]
    logp: Float[Tensor, "N G"]
    truncated: Bool[Tensor, "N G"]
    empty: Bool[Tensor, "N G"]

    @property
    def sequences(self) -> list[tuple[int, ...]]:
        """Prefix and completion of every rollout, group by group."""
        pairs = zip(self.prefixes, self.completions, strict=True)
        return [(*prefix, *completion) for prefix, group in pairs for completion in group]

    @property
    def lengths(self) -> list[int]:
        """Tokens of the prefix of every rollout, group by group."""
        return [len(prefix) for prefix in self.prefixes for _ in range(self.rewards.shape[1])]


def rollouts(
    policy: Policy,
    prompts: Prompts,
    group_size: int,
    *,
    seed: int,
    rows: Sequence[int] | None = None,
    forks: Sequence[Sequence[int]] | None = None,
) -> Rollouts:
    """Draw a group of completions of each prompt and reward them.

    Args:
        policy: the policy.
        prompts: from `tokenise`.
        group_size: G, completions of each prompt.
        seed: of the draws.
        rows: which prompts; None takes all.
        forks: of each of these prompts the part of a completion that all of its group begin with,
            so that they share a deeper state. The reward is of the whole completion.

    Returns:
        The rollouts.

    Raises:
        UserError: a group of none, or an unusable reward.

    Example:
        ``rollouts(policy, tokenise(policy, task).evaluation, 16, seed=0).rewards``
    """
    if group_size < 1:
        raise UserError("group_size", str(group_size), "1 or more", "raise it")
    rows = range(len(prompts)) if rows is None else rows
    forks = [()] * len(rows) if forks is None else forks
    prefixes = tuple((*prompts.tokens[r], *f) for r, f in zip(rows, forks, strict=True))
    limits = [prompts.max_tokens - len(fork) for fork in forks]
    drawn, logp = draw(policy, prefixes, limits, prompts.stops, group_size, seed)
    whole = [[(*f, *c) for c in group] for f, group in zip(forks, drawn, strict=True)]
    texts = [[prompts.text(policy, c) for c in group] for group in whole]
    stopped = torch.tensor([[c[-1] in prompts.stops for c in group] for group in drawn])
    return Rollouts(
        prefixes,
        tuple(map(tuple, drawn)),
        tuple(map(tuple, texts)),
        prompts.rewards_of(policy, rows, whole, texts),
        logp,
        ~stopped if prompts.stops else torch.zeros_like(stopped),
        torch.tensor([[len(c) == 1 and c[0] in prompts.stops for c in group] for group in whole]),
    )


def check_log_probabilities(
    policy: Policy, drawn: Float[Tensor, "N G"], recomputed: Float[Tensor, "N G"]
) -> float:
    """The largest difference, in nats, of draws' log-probabilities from those of a forward pass.

    Refused where that is more than rounding, for then the draws are not the policy's.
    """
    difference = float((drawn - recomputed.double().cpu()).abs().max())
    if not difference <= TOLERANCE[policy.head.dtype]:
        raise RunError(
            f"log-probabilities of rollouts differ by {difference:.2g} nats from those of one "
            "forward pass over them: this model's cache or padding changes its distribution"
        )
    return difference


def check_draws(
    policy: Policy,
    sequences: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    drawn: Float[Tensor, "N G"],
) -> None:
    """As `check_log_probabilities`, of draws whose forward pass is still to be made."""
    logp = completion_logp(policy, sequences, prompt_lengths).sum(1)
    check_log_probabilities(policy, drawn, logp.view_as(drawn))


class _InverseTransform:
    """Leaves one token a row, the quantile of its distribution at a number uniform in [0, 1)."""

    def __init__(self, uniform: Float[Tensor, "R T"]) -> None:
        self.uniform = uniform
        self.logp: list[Tensor] = []

    def __call__(self, input_ids: Int[Tensor, "R S"], scores: Float[Tensor, "R V"]) -> Tensor:
        log_p = scores.double().log_softmax(1)
        cumulative = log_p.exp().cumsum(1)
        # Scaled to the last sum, so that rounding leaves nothing above it.
        point = self.uniform[:, len(self.logp), None].to(cumulative) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, point, right=True).clamp(max=scores.shape[1] - 1)
        self.logp.append(log_p.gather(1, token)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


@torch.no_grad()
def draw(
    policy: Policy,
    prefixes: Sequence[Sequence[int]],
    limits: Sequence[int],
    stops: Sequence[int],
    size: int,
    seed: Hashable,
) -> tuple[list[list[tuple[int, ...]]], Float[Tensor, "N G"]]:
    """A group of completions of each prefix, of at most so many tokens, and their log π in nats."""
    drawn: list[list[tuple[int, ...]]] = [[] for _ in prefixes]
    logp = torch.zeros(len(prefixes), size, dtype=torch.float64)
    for rows in _batches(policy, prefixes, limits, max(1, CACHE_TOKENS // size)):
        most = max(limits[row] for row in rows)
        uniform = torch.cat([uniform_numbers(seed, prefixes[row], size, most) for row in rows])
        sampler = _InverseTransform(uniform.to(policy.device))
        ids, mask = left_padded(policy, [prefixes[row] for row in rows for _ in range(size)])
        settings = GenerationConfig(
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=list(stops) or None,
            pad_token_id=stops[0] if stops else 0,
            use_cache=True,
            disable_compile=True,
        )
        with _plain_generation(policy):
            output = policy.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=settings,
                logits_processor=LogitsProcessorList([sampler]),
            )
        tokens = output[:, ids.shape[1] :].tolist()
        steps = torch.stack(sampler.logp, dim=1).cpu()
        for i, row in enumerate(row for row in rows for _ in range(size)):
            end = min(limits[row], len(tokens[i]))
            end = next((t + 1 for t in range(end) if tokens[i][t] in stops), end)
            logp[row, len(drawn[row])] = steps[i, :end].sum()
            drawn[row].append(tuple(tokens[i][:end]))
    if not torch.isfinite(logp).all():
        row = int((~torch.isfinite(logp)).any(1).nonzero()[0])
        text = policy.tokenizer.decode(list(prefixes[row]))
        name = policy.checkpoint.name
        raise NotFiniteError(f"{name}: logits that are not finite after …{text[-40:]!r}")
    return drawn, logp


def _batches(
    policy: Policy, prefixes: Sequence[Sequence[int]], limits: Sequence[int], tokens: int
) -> Iterator[list[int]]:
    """Rows to draw together: the longest prefix and the highest limit must fit the context."""
    lengths = [len(p) + limit for p, limit in zip(prefixes, limits, strict=True)]
    for rows in batches(lengths, tokens):
        if max(len(prefixes[r]) for r in rows) + max(limits[r] for r in rows) <= policy.context:
            yield rows
            continue
        for limit in sorted({limits[r] for r in rows}):
            yield [r for r in rows if limits[r] == limit]


@contextmanager
def _plain_generation(policy: Policy) -> Iterator[None]:
    """While open, nothing of a checkpoint's own generation settings applies to its draws."""
    before = policy.model.generation_config
    policy.model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        policy.model.generation_config = before


def uniform_numbers(
    seed: Hashable, prefix: Sequence[int], size: int, most: int
) -> Float[Tensor, "G T"]:
    """Uniform numbers of one group: a function of the seed and of what it continues alone."""
    digest = hashlib.sha256(repr((seed, tuple(prefix))).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    # Step by step, so that a higher limit leaves the first steps as they are.
    return torch.rand(most, size, generator=generator, dtype=torch.float64).T
