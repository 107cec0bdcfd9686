"""Batches: the one place where lists of tokens become tensors, and the one setting of memory.

Batches are padded on the right; the causal mask keeps that padding out of every state, so that no
attention mask is needed.

B sequences · S tokens of the longest · M scored positions · D width · V vocabulary
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from valuegrad.model.policy import Policy, logits

BATCH_TOKENS = 8192
"""Tokens of a forward pass, padding included. Every other limit of memory follows from it."""

GRAPH_TOKENS = BATCH_TOKENS // 8  # where a backward pass keeps the activations of every layer
TRAINING_TOKENS = 2 * BATCH_TOKENS  # of a pass of TRL, which accumulates gradients beyond them
CACHE_TOKENS = 4 * BATCH_TOKENS  # of keys and values while drawing
HEAD_ELEMENTS = 256 * BATCH_TOKENS  # of one float64 array of rows × vocabulary, several at once
SCORE_ELEMENTS = 8 * HEAD_ELEMENTS  # of one array of attention scores
KEPT_ELEMENTS = 16 * HEAD_ELEMENTS  # of probabilities that are kept rather than formed again


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """Some sequences of one forward pass, and the positions whose logits score completions."""

    rows: list[int]  # which of all sequences
    ids: Int[Tensor, "B S"]
    row: Int[Tensor, " M"]  # the sequence of each scored position, by its place in the batch
    position: Int[Tensor, " M"]
    step: Int[Tensor, " M"]  # t of the completion token that it scores, from 0
    target: Int[Tensor, " M"]  # that token; −1 past the end of the sequence

    @property
    def at(self) -> tuple[Tensor, Tensor]:
        """Index of the scored positions in an array (B, S)."""
        return self.row, self.position

    @property
    def into(self) -> tuple[Tensor, Tensor]:
        """Index of the scored positions in an array of all sequences by completion step."""
        return torch.tensor(self.rows, device=self.row.device)[self.row], self.step

    def final_states(self, policy: Policy) -> Float[Tensor, "M D"]:
        """States at ``"final"`` of the scored positions."""
        output = policy.model.base_model(input_ids=self.ids, use_cache=False)
        states: Tensor = output.last_hidden_state[self.at]
        return states


def scored_batches(
    policy: Policy,
    sequences: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    tokens: int | None = None,
    *,
    past_end: bool = False,
    most_rows: int | None = None,
) -> Iterator[ScoredBatch]:
    """Cut sequences into batches of about ``tokens`` tokens and at most ``most_rows`` rows.

    ``past_end`` scores the token after the last one too, as where a stop token is to follow.
    """
    for rows in batches([len(s) for s in sequences], tokens, most_rows=most_rows):
        where: list[tuple[int, int, int, int]] = []
        for i, row in enumerate(rows):
            first, sequence = prompt_lengths[row], sequences[row]
            targets = [*sequence[first:], -1] if past_end else sequence[first:]
            where += [(i, first - 1 + t, t, target) for t, target in enumerate(targets)]
        index = torch.tensor(where, device=policy.device).view(-1, 4).unbind(1)
        yield ScoredBatch(rows, right_padded(policy, [sequences[r] for r in rows]), *index)


def right_padded(policy: Policy, sequences: Sequence[Sequence[int]]) -> Int[Tensor, "B S"]:
    """Token ids, padded on the right with token 0."""
    return pad_sequence([torch.tensor(s) for s in sequences], batch_first=True).to(policy.device)


def left_padded(
    policy: Policy, sequences: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"]]:
    """Token ids padded on the left, as drawing wants them, and their attention mask."""
    ids = right_padded(policy, [s[::-1] for s in sequences]).flip(1)
    return ids, right_padded(policy, [[1] * len(s) for s in sequences]).flip(1)


def final_states(policy: Policy, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "B D"]:
    """The state at ``"final"`` of each prompt's last token: what scores the first answer token."""
    ids = right_padded(policy, prompts)
    last = torch.tensor([len(p) - 1 for p in prompts], device=policy.device)
    states = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    found: Tensor = states[torch.arange(len(prompts), device=policy.device), last]
    return found


@torch.no_grad()
def prompt_states(policy: Policy, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "B D"]:
    """As `final_states` of any number of prompts, batch by batch and without gradients."""
    result = policy.head.new_empty(len(prompts), policy.head.shape[1])
    for rows in batches([len(p) for p in prompts]):
        result[rows] = final_states(policy, [prompts[row] for row in rows])
    return result


def probabilities(policy: Policy, states: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
    """Next-token probabilities at given final states: float64, from logits in the model's dtype."""
    return logits(policy, states).double().softmax(1)


@torch.no_grad()
def entropies(policy: Policy, states: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
    """Entropy of the next token at given final states, in nats."""
    chunks = (probabilities(policy, states[rows]) for rows in head_chunks(policy, len(states)))
    return torch.cat([-torch.xlogy(p, p).sum(1) for p in chunks])


@torch.no_grad()
def completion_logp(
    policy: Policy, sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int]
) -> Float[Tensor, "B T"]:
    """Log π of each token behind the prompts, in nats and float64; 0 past the end."""
    longest = max(len(s) - n for s, n in zip(sequences, prompt_lengths, strict=True))
    found = torch.zeros(len(sequences), longest, dtype=torch.float64, device=policy.device)
    for batch in scored_batches(policy, sequences, prompt_lengths):
        log_p = logits(policy, batch.final_states(policy)).double().log_softmax(1)
        found[batch.into] = log_p.gather(1, batch.target[:, None])[:, 0]
    return found


def head_chunks(policy: Policy, count: int) -> list[list[int]]:
    """Row numbers in chunks small enough for a few arrays of chunk × vocabulary."""
    size = max(1, HEAD_ELEMENTS // policy.head.shape[0])
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def batches(
    lengths: Sequence[int],
    tokens: int | None = None,
    *,
    most_rows: int | None = None,
    padded: bool = True,
) -> list[list[int]]:
    """Row numbers sorted by length, in batches of at most ``tokens`` tokens with their padding.

    A row that is longer makes a batch of its own. None takes `BATCH_TOKENS`, and any number of rows
    in a batch. Where ``padded`` is false, the rows of a batch are of one length.
    """
    most = BATCH_TOKENS if tokens is None else tokens
    result: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        last = result[-1] if result else []
        fits = (len(last) + 1) * lengths[row] <= most and len(last) != most_rows
        if last and fits and (padded or lengths[last[0]] == lengths[row]):
            last.append(row)
        else:
            result.append([row])
    return result


def equal_lengths(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Row numbers in batches of prompts of one length, so that none is padded."""
    return batches([len(p) for p in prompts], padded=False)
