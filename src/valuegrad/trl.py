"""What an RL run in TRL still has to gain: credit measurements of its own rollouts, as it runs.

A measurement costs two forward and two backward passes over some of the groups, no parameter
gradients among them, and two forward passes over all.

N groups · G completions of each · B = N·G sequences · T completion tokens
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import TrainerCallback

from valuegrad.checkpoints.checkpoint import Checkpoint
from valuegrad.credit.completions import Completions, completions
from valuegrad.credit.costates import costates_at
from valuegrad.credit.squared_norm import inner_product
from valuegrad.errors import UserError, check_positive
from valuegrad.impact.outcomes import check_alpha, two_values
from valuegrad.impact.rollout_signals import LEAST
from valuegrad.impact.sampled import sampled_headrooms
from valuegrad.impact.settings import ALPHA
from valuegrad.model.policy import Policy, Site
from valuegrad.model.sites import check_site

PREFIX = "valuegrad/"
# How far back along the last move its derivative is taken. Weights of half precision would round a
# part of the move away, so that they go back all of it.
BACK = 1 / 8


class CreditMonitor(TrainerCallback):  # type: ignore[misc]
    """Makes a GRPOTrainer log how much signal and headroom its rollouts hold, every N updates.

    The run stays as it is: no random number is drawn, and weights, gradients and modes are left as
    they were. Rollouts that serve several updates are measured once, when they are made. On several
    processes the main one measures its own groups. The values join the trainer's next row of logs,
    wherever that goes; several in one row are averaged.

    ``valuegrad/alignment``: ⟨E[λ̂|h], G⟩ at the last prompt token (Eq. 24), U-centred over each
    group, averaged over groups: what a step along the conditional costate does to the value.
    Unbiased where advantages come of a fixed baseline and scale; a group's own deviation leaves a
    bias of order 1/G.

    ``valuegrad/headroom``: H_α (Eq. 28) averaged over all groups; with rewards 0 or 1 expected over
    the fitted mixture of success probabilities, otherwise corrected by half samples.

    ``valuegrad/transport_share``: ‖transported‖/‖total‖ of the costates at the middle block, the
    mean over completion tokens with credit: the share that came through later tokens, by attention.

    ``valuegrad/zero_spread_groups``: how many groups of the batch earned the same throughout.

    ``valuegrad/predicted_gain``: change of the expected reward over the next N updates, in reward
    units, to first order and if they move the weights as those since the last measurement did:
    ⟨∇J(θ_k), θ_k − θ_j⟩ N/(k − j), by the covariance in each group of the reward and the change
    of the completion's log-probability along that move. The rollouts are newer than the move, so
    that no noise is counted as gain; but the larger the moves, the more the truth bends away from
    it. From the second measurement on. It keeps a copy of the trainable weights in main memory.
    ``valuegrad/predicted_gain_error`` is its standard error over the groups.

    Args:
        every: N, updates between measurements.
        groups: the most groups that costates are formed of, and read at once; alignment and
            transport share are of the batch's first ones, everything else of all.
        site: of the alignment: ``"embedding"``, a block's number or ``"final"``.
        alpha: tilt of the headroom, in inverse reward units.

    Raises:
        UserError: an interval, a number of groups or a tilt out of range.

    Example:
        ``CreditMonitor(every=10).attach(trainer); trainer.train()``
    """

    def __init__(
        self, every: int = 10, *, groups: int = 8, site: Site = "final", alpha: float = ALPHA
    ) -> None:
        for name, value in (("every", every), ("groups", groups)):
            if value < 1:
                raise UserError(name, str(value), "1 or more", "raise it")
        check_positive("alpha", alpha, "use 5 for rewards in [0, 1]")
        self.every, self.groups, self.site, self.alpha = every, groups, site, alpha
        self.history: list[dict[str, float]] = []
        """One entry a measurement: ``step``, the updates done by then, and the values."""
        self._trainer: Any = None
        self._measured_at: int | None = None
        self._weights: dict[str, Tensor] = {}
        self._warned = False

    def attach(self, trainer: Any) -> "CreditMonitor":
        """Watch a trainer from now on; before `train` is called.

        Args:
            trainer: TRL's GRPOTrainer, or a subclass.

        Returns:
            The monitor itself.

        Raises:
            UserError: another kind of trainer, groups of fewer than 4, a vision model, weights that
                are spread over processes (FSDP, ZeRO-3), or no such site.
        """
        _check(trainer)
        self._trainer, self._policy = trainer, _policy(trainer)
        self.site = check_site(self._policy, self.site)
        self._middle: Site = (len(self._policy.blocks) - 1) // 2
        generate = trainer._generate_and_score_completions

        def watched(inputs: Any) -> Any:
            training = trainer.model.training
            batch = generate(inputs)
            if training and trainer.accelerator.is_main_process:
                self._consider(batch)
            return batch

        # TRL shuffles a batch's groups right after this call; no callback sees them before.
        trainer._generate_and_score_completions = watched
        trainer.add_callback(self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Start anew; refuse to watch nothing."""
        if self._trainer is None:
            got = "callbacks=[monitor] alone, which does not show it the rollouts"
            fix = "call monitor.attach(trainer) before trainer.train()"
            raise UserError("CreditMonitor", got, "a monitor that is attached", fix)
        self._measured_at, self._weights = None, {}

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Let the copy of the weights go."""
        self._weights = {}

    def _consider(self, batch: dict[str, Any]) -> None:
        step = self._trainer.state.global_step
        since = None if self._measured_at is None else step - self._measured_at
        if since is not None and since < self.every:
            return
        self._measured_at = step
        try:
            with _evaluating(self._trainer.model):
                found = self._measure(batch, since)
        except UserError as error:
            # A run is worth more than a measurement of it.
            warnings.warn(f"valuegrad measured nothing at step {step}: {error}", stacklevel=2)
            return
        self.history.append({"step": step, **found})
        for name, value in found.items():
            if math.isfinite(value):
                self._trainer._metrics["train"][PREFIX + name].append(value)

    def _measure(self, batch: dict[str, Any], since: int | None) -> dict[str, float]:
        groups = _Groups(self._trainer, batch)
        whole = groups.whole
        headrooms = self._headrooms(whole) if len(whole) else whole
        found = {
            "headroom": float(headrooms.mean()),
            "zero_spread_groups": float((whole.amax(1) == whole.amin(1)).sum()),
        }
        parameters = self._trainer.model.named_parameters()
        weights = {name: p.data for name, p in parameters if p.requires_grad}
        then, self._weights = self._weights, {k: x.to("cpu", copy=True) for k, x in weights.items()}
        if not groups.scorable:
            return found
        chosen = groups.scorable[: self.groups]
        sequences, _ = groups.sequences(self._policy, chosen)
        costates = costates_at(self._policy, sequences, (self.site, self._middle))
        rewards, signal = groups.rewards[chosen], groups.advantages[chosen]
        scores = costates[self.site].total[:, 0].cpu().view(*rewards.shape, -1)
        found["alignment"] = float(inner_product(scores, signal, rewards).mean())
        credited = (signal.flatten() != 0).to(self._policy.device)
        shares = costates[self._middle].transport_share[credited]
        found["transport_share"] = float(shares.double().nanmean())
        if since is not None:
            log_now = self._log_probabilities(groups)
            share = BACK if torch.finfo(self._policy.head.dtype).bits >= 32 else 1.0
            with _moved_back(weights, then, self._weights, share):
                log_then = self._log_probabilities(groups)
            known, change = groups.rewards[groups.scorable], log_now - log_then
            covariance = ((known - known.mean(1, keepdim=True)) * change).sum(1)
            gains = covariance / (known.shape[1] - 1) * (self.every / since / share)
            found["predicted_gain"] = float(gains.mean())
            found["predicted_gain_error"] = float(gains.std() / math.sqrt(len(gains)))
        return found

    def _headrooms(self, rewards: Float[Tensor, "N G"]) -> Float[Tensor, " N"]:
        """H_α of each group; NaN where α is not on the rewards' scale, which is said once."""
        try:
            check_alpha(torch.unique(rewards), self.alpha)
        except UserError as error:
            if not self._warned:
                warnings.warn(f"valuegrad logs no headroom: {error}", stacklevel=2)
            self._warned = True
            return torch.full((len(rewards),), torch.nan, dtype=torch.float64)
        return sampled_headrooms(rewards, self.alpha, two_values(rewards))

    def _log_probabilities(self, groups: "_Groups") -> Float[Tensor, "N G"]:
        parts = []
        for part in torch.split(torch.tensor(groups.scorable), self.groups):
            sequences, own = groups.sequences(self._policy, part.tolist())
            logp = costates_at(self._policy, sequences, ("final",), split=False)["final"].logp
            parts.append((logp.double() * own).sum(1).cpu().view(len(part), -1))
        return torch.cat(parts)


class _Groups:
    """A batch as TRL has just made it, in the order of the prompts, group by group."""

    def __init__(self, trainer: Any, batch: dict[str, Any]) -> None:
        self.batch, size = batch, trainer.num_generations
        here = len(batch["prompt_ids"])
        every, logs = here * trainer.accelerator.num_processes, trainer._logs["rewards"]
        # One row a reward function; NaN where it had nothing to say about a completion.
        rows = [list(logs[name])[-every:] for name in trainer.reward_func_names]
        by_function = torch.tensor(rows, dtype=torch.float64)
        weighted = (by_function * trainer.reward_weights.double().cpu()[:, None]).nansum(0)
        rewards = weighted.masked_fill(by_function.isnan().all(0), torch.nan).view(-1, size)
        count = here // size
        self.whole = rewards[~rewards.isnan().any(1)]
        self.rewards = rewards[:count]
        advantages = batch["advantages"][: count * size].double().cpu()
        self.advantages = advantages.view(count, size, -1)[:, :, 0]
        lengths = batch["completion_mask"][: count * size].sum(1).view(count, size)
        kept = ~self.rewards.isnan().any(1) & (lengths > 0).all(1).cpu()
        self.scorable: list[int] = kept.nonzero()[:, 0].tolist()
        """The groups here whose completions all have a reward and tokens that count."""

    def sequences(
        self, policy: Policy, chosen: list[int]
    ) -> tuple[Completions, Bool[Tensor, "B T"]]:
        """The sequences of some groups with advantage 1, and which tokens the policy drew."""
        size = self.rewards.shape[1]
        rows = [group * size + i for group in chosen for i in range(size)]
        mask = self.batch["completion_mask"][rows].bool()
        own = mask & self.batch["tool_mask"][rows].bool() if "tool_mask" in self.batch else mask
        own = own[:, : int(mask.sum(1).max())]
        prompt, keep = self.batch["prompt_ids"][rows], self.batch["prompt_mask"][rows]
        ids = torch.cat([prompt, self.batch["completion_ids"][rows]], dim=1)
        attended, lengths = torch.cat([keep.bool(), mask], dim=1), keep.sum(1).tolist()
        return completions(policy, ids, lengths, own.to(policy.head.dtype), attended), own


def _check(trainer: Any) -> None:
    if not hasattr(trainer, "_generate_and_score_completions"):
        raise UserError("trainer", type(trainer).__name__, "TRL's GRPOTrainer", "pass one")
    if trainer.num_generations < LEAST:
        got = str(trainer.num_generations)
        wanted = f"at least {LEAST}, which the unbiased alignment needs"
        raise UserError("num_generations", got, wanted, "raise it in GRPOConfig")
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    if trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3):
        got = "weights spread over processes (FSDP or ZeRO-3)"
        raise UserError("trainer", got, "whole weights on each", "use DDP, or ZeRO-1 or -2")
    if hasattr(trainer.processing_class, "tokenizer"):
        got, fix = "a model of text and images", "leave the monitor out"
        raise UserError("trainer", got, "a language model", fix)


def _policy(trainer: Any) -> Policy:
    model = trainer.accelerator.unwrap_model(trainer.model)
    name = str(getattr(model.config, "_name_or_path", "")) or "the trainer's model"
    # PEFT puts its matrices into the model that it wraps, so that this one runs with them.
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    checkpoint = Checkpoint(name, Path(name), name, None, None, None)
    return Policy(model, trainer.processing_class, checkpoint)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """While open no dropout is drawn; every module then gets its own mode back."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def _moved_back(
    weights: dict[str, Tensor], then: dict[str, Tensor], now: dict[str, Tensor], share: float
) -> Iterator[None]:
    """While open the weights are a share of the way back, afterwards those of now, bit for bit."""
    try:
        for name, x in weights.items():
            x.copy_(torch.lerp(now[name], then[name], share))
        yield
    finally:
        for name, x in weights.items():
            x.copy_(now[name])
