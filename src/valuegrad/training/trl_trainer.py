"""TRL's trainer with valuegrad's own prompts, draws, log-probabilities, rewards and advantages.

TRL forms the loss of Eq. 1 from them and takes the steps. Left to itself it would draw under the
checkpoint's generation settings, pad prompts on the left, which moves absolute positions, and
train with whatever dropout a model reads off its configuration as a number.

P prompts of an update · G completions a prompt · B sequences · T tokens of the longest completion
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from trl import GRPOTrainer

from valuegrad.budget import Method
from valuegrad.errors import RunError
from valuegrad.methods import advantages, zero_spread
from valuegrad.model.batches import completion_logp
from valuegrad.model.policy import Policy
from valuegrad.prompts import Prompts
from valuegrad.sampler import check_draws, draw

# How far log π of a token in TRL's loss may be from what `score` uses before any update, in nats.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


class Trainer(GRPOTrainer):  # type: ignore[misc]
    """GRPO of Eq. 1 on the policy that is scored: before the first step both are compared."""

    def __init__(
        self, *, policy: Policy, learner: Policy, prompts: Prompts, method: Method, **keywords: Any
    ) -> None:
        self.policy, self.learner, self.prompts = policy, learner, prompts
        self.tokens = {
            e.prompt: list(t) for e, t in zip(prompts.examples, prompts.tokens, strict=True)
        }
        self.method = method
        self.equal_groups = self.groups = 0
        self.compared = False
        super().__init__(reward_funcs=Reward(policy, prompts), **keywords)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.tokens[text] for text in prompts], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *_: Any, **__: Any
    ) -> tuple[list[list[int]], None]:
        """Draw as `rollouts` does, other numbers at every update."""
        counts = Counter(map(tuple, prompt_ids))
        # A prompt that comes twice in an update gets a larger group, for equal ones draw alike.
        prefixes, size = list(counts), max(counts.values())
        limits = [self.prompts.max_tokens] * len(prefixes)
        seed = (self.args.seed, self.state.global_step)
        with evaluating(self.model):
            drawn, logp = draw(self.learner, prefixes, limits, self.prompts.stops, size, seed)
        if not self.compared:
            sequences = [(*p, *c) for p, group in zip(prefixes, drawn, strict=True) for c in group]
            lengths = [len(p) for p in prefixes for _ in range(size)]
            check_draws(self.policy, sequences, lengths, logp)
        waiting = {prefix: iter(group) for prefix, group in zip(prefixes, drawn, strict=True)}
        return [list(next(waiting[tuple(ids)])) for ids in prompt_ids], None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Int[Tensor, "B S"],
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"] | None, None]:
        """As in TRL, on sequences that are padded on the right like those that are scored."""
        first = attention_mask[:, :-logits_to_keep].sum(1, keepdim=True)
        order = attention_mask.argsort(dim=1, descending=True, stable=True)
        width = int(attention_mask.sum(1).max())
        ids, mask = (x.gather(1, order)[:, :width] for x in (input_ids, attention_mask))
        place = torch.arange(width, device=ids.device)
        labels = ids.masked_fill((mask == 0) | (place < first), -100)
        with evaluating(model), self.accelerator.autocast():
            parts = [
                model(input_ids=ids[rows], labels=labels[rows], fused_lm_head=True)
                for rows in torch.split(torch.arange(len(ids)), batch_size or len(ids))
            ]
        steps = torch.arange(logits_to_keep, device=ids.device)
        columns = (first - 1 + steps).clamp(max=width - 2)
        kept = attention_mask[:, -logits_to_keep:] > 0

        def of_completions(name: str) -> Tensor:
            found = torch.cat([getattr(part, name) for part in parts])
            return found.gather(1, columns).where(kept, 0.0)

        logps = of_completions("log_probs")
        if not self.compared:
            self.compared = True
            self._compare(ids, mask, first[:, 0], logps)
        return logps, of_completions("entropy") if compute_entropy else None, None

    def _compare(self, ids: Tensor, mask: Tensor, first: Tensor, logps: Tensor) -> None:
        """Refuse a run whose loss is of another distribution than the one that was scored."""
        lengths = mask.sum(1).tolist()
        sequences = [row[:n] for row, n in zip(ids.tolist(), lengths, strict=True)]
        known = completion_logp(self.policy, sequences, first.tolist())
        difference = float((logps.detach()[:, : known.shape[1]] - known).abs().max())
        if not difference <= TOLERANCE[self.policy.head.dtype]:
            raise RunError(
                f"before any update the log-probability of a token in TRL's loss differs by "
                f"{difference:.2g} nats from the one that is scored: this run would not be GRPO on "
                f"{self.policy.checkpoint.name}"
            )

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        drawn = self.reward_funcs[0].latest.view(-1, self.num_generations)
        equal = zero_spread(drawn)
        self.equal_groups += int(equal.sum())
        self.groups += len(equal)
        batch["advantages"] = advantages(drawn, self.method).flatten().to(batch["advantages"])
        return batch


class Reward:
    """The task's reward as TRL calls it; keeps the rewards of the latest batch."""

    __name__ = "reward"

    def __init__(self, policy: Policy, prompts: Prompts) -> None:
        self.policy, self.prompts = policy, prompts
        self.latest = torch.empty(0)

    def __call__(self, completion_ids: list[list[int]], row: list[int], **rest: Any) -> list[float]:
        """By tokens: the texts that TRL hands over keep a stop such as a line break."""
        whole = [[tuple(ids)] for ids in completion_ids]
        self.latest = self.prompts.rewards_of(self.policy, row, whole)[:, 0].float()
        return self.latest.tolist()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """While open, a model has neither dropout nor noise of any kind, wherever it reads them."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
