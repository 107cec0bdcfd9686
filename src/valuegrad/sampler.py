"""Groups of completions drawn from a policy, with their log-probabilities and rewards.

Tokens are drawn from the policy's own next-token distribution, temperature 1 and nothing cut off,
for costates are of that distribution. Each prompt has a source of chance of its own, so that a
group does not depend on the batch it is drawn in.

N prompts · G completions of each · T tokens of the longest one · V vocabulary
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from valuegrad.errors import RunError, UserError
from valuegrad.model.policy import Policy
from valuegrad.one_token_prompts import batches
from valuegrad.prompts import CompletionPrompts
from valuegrad.rewards.exact import Exact

# Tokens of keys and values kept at once while drawing.
CACHE_TOKENS = 32768
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
        return [
            (*prefix, *completion)
            for prefix, group in zip(self.prefixes, self.completions, strict=True)
            for completion in group
        ]

    @property
    def lengths(self) -> list[int]:
        """Tokens of the prefix of every rollout, group by group."""
        return [
            len(prefix)
            for prefix, group in zip(self.prefixes, self.completions, strict=True)
            for _ in group
        ]


def rollouts(
    policy: Policy,
    prompts: CompletionPrompts,
    group_size: int,
    *,
    seed: int,
    rows: Sequence[int] | None = None,
    begun: Sequence[Sequence[int]] | None = None,
) -> Rollouts:
    """Draw a group of completions of each prompt and reward them.

    Args:
        policy: the policy.
        prompts: from `completion_prompts`.
        group_size: G, completions of each prompt.
        seed: of the draws.
        rows: which prompts; None takes all.
        begun: of each of these prompts the part of a completion that all of its group begin with:
            a deeper state. The reward is of the whole completion.

    Returns:
        The rollouts.

    Raises:
        UserError: a group of none, or an unusable reward.

    Example:
        ``rollouts(policy, completion_prompts(policy, task, task.evaluation), 16, seed=0).rewards``
    """
    if group_size < 1:
        raise UserError("group_size", str(group_size), "1 or more", "raise it")
    rows = range(len(prompts)) if rows is None else rows
    begun = [()] * len(rows) if begun is None else begun
    prefixes = [(*prompts.tokens[r], *b) for r, b in zip(rows, begun, strict=True)]
    limits = [prompts.max_tokens - len(b) for b in begun]
    drawn, logp = _draw(policy, prefixes, limits, prompts.stops, group_size, seed)
    whole = [[(*b, *c) for c in group] for b, group in zip(begun, drawn, strict=True)]
    texts = [[text_of(policy, prompts.stops, c) for c in group] for group in whole]
    ended = [[bool(prompts.stops) and c[-1] in prompts.stops for c in group] for group in drawn]
    long = bool(prompts.stops) and ~torch.tensor(ended)
    return Rollouts(
        tuple(prefixes),
        tuple(map(tuple, drawn)),
        tuple(map(tuple, texts)),
        rewards_of(prompts, rows, whole, texts),
        logp,
        torch.zeros(logp.shape, dtype=torch.bool) if long is False else long,
        torch.tensor([[len(c) == 1 and c[0] in prompts.stops for c in group] for group in whole]),
    )


def check_log_probabilities(
    policy: Policy, found: Rollouts, recomputed: Float[Tensor, "N G"]
) -> float:
    """Compare the log-probabilities of the draws with those of a forward pass over the whole.

    Returns:
        The largest difference of a completion, nats.

    Raises:
        RunError: they differ by more than rounding, so that the draws are not the policy's.
    """
    difference = float((found.logp - recomputed.double().cpu()).abs().max())
    if not difference <= TOLERANCE[policy.head.dtype]:
        raise RunError(
            f"log-probabilities of rollouts differ by {difference:.2g} nats from those of one "
            "forward pass over them: this model's cache or padding changes its distribution"
        )
    return difference


class _Draw:
    """Leaves one token a row, chosen by a number that is uniform in [0, 1)."""

    def __init__(self, uniform: Float[Tensor, "R T"]) -> None:
        self.uniform, self.step = uniform, 0
        self.logp: list[Tensor] = []

    def __call__(self, input_ids: Int[Tensor, "R S"], scores: Float[Tensor, "R V"]) -> Tensor:
        """Scores with every token but the drawn one at −∞."""
        log_p = scores.double().log_softmax(1)
        cumulative = log_p.exp().cumsum(1)
        # Scaled to the last sum, so that rounding leaves no room above it.
        point = self.uniform[:, self.step, None].to(cumulative) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, point, right=True).clamp(max=scores.shape[1] - 1)
        self.logp.append(log_p.gather(1, token)[:, 0])
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


@torch.no_grad()
def _draw(
    policy: Policy,
    prefixes: Sequence[Sequence[int]],
    limits: Sequence[int],
    stops: Sequence[int],
    size: int,
    seed: int,
) -> tuple[list[list[tuple[int, ...]]], Float[Tensor, "N G"]]:
    drawn: list[list[tuple[int, ...]]] = [[] for _ in prefixes]
    logp = torch.zeros(len(prefixes), size, dtype=torch.float64)
    for rows in _batches(policy, prefixes, limits, max(1, CACHE_TOKENS // size)):
        most = max(limits[row] for row in rows)
        uniform = torch.cat([_uniform(seed, prefixes[row], size, most) for row in rows])
        processor = _Draw(uniform.to(policy.device))
        ids, mask = _left_padded(policy, [prefixes[row] for row in rows], size)
        with _plain_generation(policy):
            output = policy.model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=GenerationConfig(
                    max_new_tokens=most,
                    do_sample=False,
                    eos_token_id=list(stops) or None,
                    pad_token_id=stops[0] if stops else 0,
                    use_cache=True,
                    disable_compile=True,
                ),
                logits_processor=LogitsProcessorList([processor]),
            )
        tokens = output[:, ids.shape[1] :].tolist()
        steps = torch.stack(processor.logp, dim=1).cpu()
        for i, row in enumerate(row for row in rows for _ in range(size)):
            end = min(limits[row], len(tokens[i]))
            end = next((t + 1 for t in range(end) if tokens[i][t] in stops), end)
            logp[row, len(drawn[row])] = steps[i, :end].sum()
            drawn[row].append(tuple(tokens[i][:end]))
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


def _uniform(seed: int, prefix: Sequence[int], size: int, most: int) -> Float[Tensor, "G T"]:
    """The chance of one group: a function of the seed and of what it continues, not of a batch."""
    digest = hashlib.sha256(repr((seed, tuple(prefix))).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    # Step by step, so that a higher limit leaves the first steps as they are.
    steps = [torch.rand(size, generator=generator, dtype=torch.float64) for _ in range(most)]
    return torch.stack(steps, dim=1)


def _left_padded(
    policy: Policy, prefixes: Sequence[Sequence[int]], size: int
) -> tuple[Int[Tensor, "R S"], Int[Tensor, "R S"]]:
    longest = max(map(len, prefixes))
    ids = torch.zeros(len(prefixes), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prefix in enumerate(prefixes):
        ids[row, longest - len(prefix) :] = torch.tensor(prefix)
        mask[row, longest - len(prefix) :] = 1
    ids, mask = (x.repeat_interleave(size, 0).to(policy.device) for x in (ids, mask))
    return ids, mask


def text_of(policy: Policy, stops: Sequence[int], tokens: Sequence[int]) -> str:
    """A completion as a reward reads it: without its stop token."""
    kept = tokens[:-1] if tokens[-1] in stops else tokens
    known = [token for token in kept if token < len(policy.tokenizer)]
    return str(policy.tokenizer.decode(known, skip_special_tokens=True))


def rewards_of(
    prompts: CompletionPrompts,
    rows: Sequence[int],
    whole: Sequence[Sequence[tuple[int, ...]]],
    texts: Sequence[Sequence[str]],
) -> Float[Tensor, "N G"]:
    """The rewards of groups of completions, given as tokens and as texts.

    Args:
        prompts: the prompts.
        rows: the prompt of each group.
        whole: token ids of the completions, stop tokens included.
        texts: the same from `text_of`.

    Returns:
        Rewards in float64.

    Raises:
        UserError: the reward function returns something unusable.
    """
    if isinstance(prompts.reward, Exact):
        # By tokens: another spelling of the same text is another completion.
        right = [set(prompts.accepted(row)) for row in rows]
        hits = [[c in r for c in group] for r, group in zip(right, whole, strict=True)]
        return torch.tensor(hits).double()
    size = len(whole[0])
    repeated = [prompts.examples[row] for row in rows for _ in range(size)]
    ids = [tokens for group in whole for tokens in group]
    values = prompts.reward(repeated, [text for group in texts for text in group], ids)
    return torch.tensor(values, dtype=torch.float64).view(len(rows), size)
