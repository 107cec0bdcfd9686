"""What the embedded default is pretrained on: real source code, and arithmetic problems."""

import random
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from valuegrad.errors import UserError
from valuegrad.tasks.arithmetic import training_problems

END = "<|endoftext|>"
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def standard_library() -> list[str]:
    """The source files of the running Python's standard library, tests aside, in order of path."""
    root = Path(sysconfig.get_path("stdlib"))
    texts = []
    for path in sorted(root.rglob("*.py")):
        if not _SKIPPED & set(path.relative_to(root).parts):
            with suppress(UnicodeDecodeError, OSError):
                texts.append(path.read_text("utf-8"))
    if sum(map(len, texts)) < 1_000_000:
        got, fix = f"{len(texts)} source files in {root}", "use a Python that ships it"
        raise UserError("pretrain", got, "the standard library's source", fix)
    return texts


def byte_level_bpe(texts: list[str], size: int, *, single_digits: bool = False) -> Tokenizer:
    """Train a byte-level BPE of a given size, with one special token, `END`."""
    tokenizer = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_])
    tokenizer.pre_tokenizer = split if single_digits else bytes_
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def code_sequences(
    tokenizer: Tokenizer, texts: list[str], length: int, rows: int, seed: int
) -> Iterator[Tensor]:
    """Endless batches (rows, length + 1) of code: the last token of a row is only predicted."""
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    end = tokenizer.get_vocab()[END]
    encodings = tokenizer.encode_batch([texts[i] for i in order])
    tokens = torch.tensor([t for encoding in encodings for t in (*encoding.ids, end)])
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.long)
    while True:
        while len(waiting) < rows:
            fresh = torch.randperm((len(tokens) - 1) // length, generator=generator)
            waiting = torch.cat((waiting, fresh))
        starts, waiting = waiting[:rows] * length, waiting[rows:]
        yield tokens[starts[:, None] + torch.arange(length + 1)]


def problem_sequences(
    tokenizer: Tokenizer, length: int, rows: int, digits: int, seed: int
) -> Iterator[Tensor]:
    """Endless batches (rows, length + 1) of additions, one a line."""
    problems = training_problems(random.Random(f"pretraining {seed}"), digits=digits)
    fewest = len("0+0=0\n")
    while True:
        # Each row begins with a whole one: a model needs to have met a prompt that is nothing else.
        texts = [
            "".join(f"{e.prompt}{e.answer}\n" for e in islice(problems, length // fewest + 1))
            for _ in range(rows)
        ]
        yield torch.tensor([found.ids[: length + 1] for found in tokenizer.encode_batch(texts)])
