"""The embedded default: a small OLMo-2-architecture model pretrained on real source code.

The text is the running Python's own standard library, the tokenizer a byte-level BPE trained on it,
the matrices learn by Muon and the rest by AdamW. Copying a label out of the context emerges along
the way, which makes the checkpoints a trajectory worth ranking.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Olmo2Config, Olmo2ForCausalLM, PreTrainedTokenizerFast

from valuegrad.demo import text
from valuegrad.errors import RunError, UserError
from valuegrad.files import write_atomically


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights of a pretraining run, with its seed."""

    vocabulary: int  # of the tokenizer and the output head
    width: int  # of the residual stream
    layers: int
    heads: int
    feed_forward: int  # width of the gated layer
    sequence: int  # tokens
    batch_tokens: int  # a step
    steps: int
    every: int  # steps between checkpoints
    learning_rate: float  # of both optimisers, after the warm-up
    warmup: int = 50  # steps over which the learning rate rises
    cooldown: float = 0.3  # share of the steps, at the end, over which it falls to a tenth
    dtype: str = "float32"  # of the forward pass; the weights stay float32
    # Share of a batch's sequences that hold arithmetic problems of `digits` digits instead of
    # source code, one a line; with any, each digit is a token of its own.
    arithmetic: float = 0.0
    digits: int = 2

    def rate(self, step: int) -> float:
        """The learning rate at a step: a linear rise, level, and a linear fall to a tenth."""
        rise = min(1.0, step / self.warmup)
        left = (self.steps - step) / max(1.0, self.cooldown * self.steps)
        return self.learning_rate * rise * (0.1 + 0.9 * min(1.0, left))


PRESETS = {
    "demo": Recipe(1024, 128, 4, 4, 256, 256, 4096, 600, 30, 5e-3, 50, 0.6),
    "arithmetic": Recipe(1024, 128, 4, 4, 256, 256, 4096, 480, 40, 5e-3, 50, 0.4, arithmetic=0.75),
    "small": Recipe(2048, 128, 4, 4, 384, 256, 8192, 4000, 200, 3e-3),
    "medium": Recipe(8192, 384, 8, 6, 1024, 512, 32768, 8000, 400, 2e-3, 200, 0.3, "bfloat16"),
    "large": Recipe(16384, 768, 12, 12, 2048, 1024, 131072, 10000, 500, 1e-3, 500, 0.3, "bfloat16"),
}


def pretrain(
    folder: str | Path,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> list[Path]:
    """Pretrain a model and write its checkpoints in Hugging Face format, one folder a step.

    Deterministic for a recipe and seed on one machine. A finished run is left as it is; one that
    was interrupted goes on after its last checkpoint, to the same weights. The progress callback
    gets every step's number and its loss in nats a token.
    """
    folder = Path(folder)
    saved = range(recipe.every, recipe.steps + 1, recipe.every)
    checkpoints = [folder / f"step{step}" for step in saved]
    _claim(folder, recipe, seed)
    if all((path / "model.safetensors").is_file() for path in checkpoints):
        return checkpoints
    texts = text.standard_library()
    tokenizer = text.byte_level_bpe(texts, recipe.vocabulary, single_digits=recipe.arithmetic > 0)
    run = _Run(recipe, seed, torch.device(device), tokenizer.get_vocab()[text.END])
    done = run.resume(folder / "resume.pt")
    batches = islice(_batches(tokenizer, texts, recipe, seed), done, recipe.steps)
    for step, batch in enumerate(batches, done + 1):
        loss = run.step(step, batch)
        if not math.isfinite(loss):
            raise RunError(f"the loss became {loss} at step {step}; lower the learning rate")
        if step % recipe.every == 0:
            run.save(folder / f"step{step}", folder / "resume.pt", tokenizer, step)
        progress(step, loss)
    (folder / "resume.pt").unlink(missing_ok=True)
    return checkpoints


class _Run:
    """Model and optimisers of one run."""

    def __init__(self, recipe: Recipe, seed: int, device: torch.device, end: int) -> None:
        self.recipe, self.device = recipe, device
        torch.manual_seed(seed)
        config = Olmo2Config(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.width,
            intermediate_size=recipe.feed_forward,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=max(512, recipe.sequence),
            pad_token_id=end,
            eos_token_id=end,
        )
        self.model = Olmo2ForCausalLM(config).to(device)
        blocks = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        matrices = {id(p) for p in blocks}
        rest = [p for p in self.model.parameters() if id(p) not in matrices]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(blocks, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.01),
        ]  # with the learning rate of each step

    def step(self, step: int, batch: Tensor) -> float:
        """One optimiser step; returns the loss in nats a token."""
        batch = batch.to(self.device)
        half = self.recipe.dtype != "float32"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            states = self.model.model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state
            logits = self.model.lm_head(states)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.recipe.rate(step)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())

    def save(self, checkpoint: Path, state: Path, tokenizer: Tokenizer, step: int) -> None:
        """Write a checkpoint, whole or not at all, and what resuming after it needs."""
        draft = checkpoint.with_name(f".{checkpoint.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        self.model.save_pretrained(draft)
        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            eos_token=text.END,
            pad_token=text.END,
            clean_up_tokenization_spaces=False,
        )
        wrapped.save_pretrained(draft)
        optimisers = [optimiser.state_dict() for optimiser in self.optimisers]
        whole = {"step": step, "model": self.model.state_dict(), "optimisers": optimisers}
        torch.save(whole, state.with_suffix(".draft"))
        shutil.rmtree(checkpoint, ignore_errors=True)
        draft.rename(checkpoint)
        state.with_suffix(".draft").replace(state)

    def resume(self, state: Path) -> int:
        """Take up an interrupted run; returns the steps it had done."""
        if not state.is_file():
            return 0
        whole = torch.load(state, map_location=self.device, weights_only=True)
        self.model.load_state_dict(whole["model"])
        for optimiser, saved in zip(self.optimisers, whole["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        return int(whole["step"])


def _batches(tokenizer: Tokenizer, texts: list[str], recipe: Recipe, seed: int) -> Iterator[Tensor]:
    """Endless batches of sequences, each with one token more to predict."""
    rows = recipe.batch_tokens // recipe.sequence
    problems = round(recipe.arithmetic * rows)
    code = text.code_sequences(tokenizer, texts, recipe.sequence, rows - problems, seed)
    if not problems:
        yield from code
    arithmetic = text.problem_sequences(tokenizer, recipe.sequence, problems, recipe.digits, seed)
    for both in zip(code, arithmetic, strict=True):
        yield torch.cat(both)


def _claim(folder: Path, recipe: Recipe, seed: int) -> None:
    """Mark a folder as this run's, or refuse one that is another's."""
    mark = folder / "pretrain.json"
    unused = set() if recipe.arithmetic else {"arithmetic", "digits"}
    used = {name: value for name, value in asdict(recipe).items() if name not in unused}
    resolved = json.dumps({"recipe": used, "seed": seed}, indent=2, sort_keys=True) + "\n"
    if mark.is_file():
        if mark.read_text("utf-8") != resolved:
            got = f"{folder}, which holds a run with another recipe or seed ({mark})"
            wanted = "a new folder, or the same recipe and seed"
            raise UserError("folder", got, wanted, "name another folder")
    elif folder.is_file() or (folder.exists() and any(folder.iterdir())):
        got = f"{folder}, a file" if folder.is_file() else f"{folder}, which holds other files"
        raise UserError("folder", got, "an empty or a new folder", "name another folder")
    else:
        write_atomically(mark, resolved)
