"""GRPO through TRL's GRPOTrainer, for completions of any length: the own loop's hyper-parameters.

Prompts, draws, rewards and advantages are valuegrad's own (`trl_trainer`); TRL forms the method's
loss (Eq. 1 for grpo) and takes the steps.
"""

import copy
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig

from valuegrad.budget import Budget, Method
from valuegrad.errors import NotFiniteError, UserError
from valuegrad.impact.held_out import held_out_rewards
from valuegrad.model.batches import TRAINING_TOKENS
from valuegrad.model.loading import quiet
from valuegrad.model.policy import Policy, check_full_precision
from valuegrad.model.precision import use_true_float64
from valuegrad.prompts import Prompts, TaskPrompts
from valuegrad.training.run import Training, diverging, prompt_order
from valuegrad.training.trl_trainer import Trainer, evaluating

# What weighs a completion's tokens as `token_weight` says: "luspo" adds them up.
LOSS_TYPES: dict[Method, str] = {
    "grpo": "grpo",
    "dr_grpo": "dr_grpo",
    "rloo": "luspo",
    "reinforce": "luspo",
    "ppo": "grpo",
}


def train_with_trl(
    policy: Policy,
    prompts: TaskPrompts,
    *,
    budget: Budget,
    seed: int = 0,
    progress: Callable[[int], None] = lambda update: None,
) -> Training:
    """As `train`, by TRL; with `lora_rank` above 0 only LoRA matrices learn."""
    check_full_precision(policy)
    if budget.beta > 0 and budget.kl == "exact":
        wanted = "k3 with the engine trl, which estimates the penalty"
        raise UserError("kl", "exact", wanted, "pass k3")
    before = float(held_out_rewards(policy, prompts.evaluation).mean())
    learner = _learner(policy)
    recorder = _Recorder(learner, prompts.evaluation, budget, progress)
    with _process_kept(), tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            policy=policy,
            learner=learner,
            prompts=prompts.train,
            method=budget.method,
            model=learner.model,
            args=_arguments(budget, prompts.train, policy, seed, scratch),
            train_dataset=_dataset(prompts.train, budget, seed),
            processing_class=learner.tokenizer,
            callbacks=[recorder],
            peft_config=_lora(budget) if budget.lora_rank else None,
        )
        trainer.remove_callback(PrinterCallback)
        _finish(trainer, policy, prompts.train)
        with diverging(budget):
            trainer.train()
    equal = trainer.equal_groups / trainer.groups
    return Training(seed, budget, before, tuple(recorder.after), equal, "trl")


class _Recorder(TrainerCallback):  # type: ignore[misc]
    """Reads the held-out reward off after each number of updates in the budget."""

    def __init__(
        self, learner: Policy, prompts: Prompts, budget: Budget, progress: Callable[[int], None]
    ) -> None:
        self.learner, self.prompts, self.budget, self.progress = learner, prompts, budget, progress
        self.after: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        model = self.learner.model
        if not all(torch.isfinite(p).all() for p in model.parameters() if p.requires_grad):
            raise NotFiniteError("weights that are not finite")
        self.progress(state.global_step)
        if state.global_step in self.budget.updates:
            with evaluating(model):
                self.after.append(float(held_out_rewards(self.learner, self.prompts).mean()))


def _learner(policy: Policy) -> Policy:
    model, tokenizer = copy.deepcopy(policy.model), copy.deepcopy(policy.tokenizer)
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        # Padding is masked everywhere, so that any token will do.
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    return Policy(model, tokenizer, policy.checkpoint)


def _arguments(budget: Budget, prompts: Prompts, policy: Policy, seed: int, folder: str) -> Any:
    sequences = budget.prompts_per_update * budget.group_size
    longest = max(map(len, prompts.tokens)) + prompts.max_tokens
    sizes = (n for n in range(1, sequences + 1) if sequences % n == 0)
    batch = max(n for n in sizes if n == 1 or n * longest <= TRAINING_TOKENS)
    arguments = GRPOConfig(
        output_dir=folder,
        seed=seed,
        max_steps=budget.updates[-1],
        # Adam, one learning rate throughout, the whole update as one batch of whole groups.
        optim="adamw_torch",
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        learning_rate=budget.learning_rate,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=budget.max_gradient_norm,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=sequences // batch,
        num_generations=budget.group_size,
        num_iterations=budget.inner_epochs,
        shuffle_dataset=False,
        loss_type=LOSS_TYPES[budget.method],
        scale_rewards="group",
        epsilon=budget.clip,
        beta=budget.beta,
        use_bias_correction_kl=False,
        router_aux_loss_coef=0.0,
        temperature=1.0,
        max_completion_length=prompts.max_tokens,
        # In full precision, and without leaving anything behind.
        use_cpu=policy.device.type == "cpu",
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _dataset(prompts: Prompts, budget: Budget, seed: int) -> Any:
    """Rows in the own loop's order: no prompt is dropped, none comes again before all came once."""
    batches = -(-budget.updates[-1] // budget.inner_epochs)
    generator = torch.Generator().manual_seed(seed)
    drawn = prompt_order(len(prompts), budget.prompts_per_update, generator)
    rows = [row for _ in range(batches) for row in next(drawn)]
    return Dataset.from_dict({"prompt": [prompts.examples[r].prompt for r in rows], "row": rows})


def _finish(trainer: Any, policy: Policy, prompts: Prompts) -> None:
    """Set what no argument of the trainer can say."""
    # TRL adds the tokenizer's stop to the model's; a one-token answer has none, and -1 is no token.
    trainer.eos_token_ids = list(prompts.stops) or [-1]
    if trainer.ref_model is not None:
        # TRL reads the reference from the checkpoint's folder: it is the policy as it is here.
        trainer.ref_model.load_state_dict(policy.model.state_dict())
        if policy.head.dtype == torch.float64:
            use_true_float64(trainer.ref_model)


def _lora(budget: Budget) -> Any:
    try:
        from peft import LoraConfig
    except ImportError as error:
        wanted, fix = "the package peft, which is not installed", "pip install 'valuegrad[lora]'"
        raise UserError("lora_rank", str(budget.lora_rank), wanted, fix) from error
    return LoraConfig(
        r=budget.lora_rank,
        lora_alpha=2 * budget.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


@contextmanager
def _process_kept() -> Iterator[None]:
    """Without advice on settings that are chosen here; random states come back."""
    # TRL seeds every global generator.
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with quiet("trl", "transformers"), torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
