"""What the name of a checkpoint says, the order that it gives, and names short enough for a row."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

_UNIT = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_SIZE = r"(?P<number>\d+(?:\.\d+)?)"
_COUNT = r"(?P<number>\d+(?:\.\d+(?=[km]))?)(?P<unit>[km]?)"
# What goes on with a letter, decimals or another group of digits is no such number.
_END = r"(?![a-z0-9]|[._,]\d)"
_STEPS = (
    # Not what RL started from, nor a schedule. Lightning's step counts on through the epochs, and
    # three digits after ckpt_ count the checkpoints of LLM360 (Amber, K2).
    r"(?<![a-z])(?<!from[-_])(?<!from_global_)(?<!warmup[-_])(?:epoch=\d+-)?(?:global_?)?"
    rf"(?:steps?|iter(?:ation)?s?|checkpoints?|ckpt(?!_\d{{3}}(?!\d)))[-_=]?{_COUNT}{_END}",
    rf"(?<![a-z0-9.,])(?<!warmup[-_]){_COUNT}[-_]?(?:steps|iterations){_END}(?![-_=]\d)",
)
_EPOCH = r"epochs?[-_=]?\d(?!\d*-step=)"  # other steps may start anew in each
_TOKENS = (
    rf"(?<![a-z])tok(?:en)?s?[-_=]?{_SIZE}(?P<unit>[kmbt]){_END}",
    # RedPajama's 240b_tokens, and 200bt, billions of tokens; of 955k-token-2T the line above reads.
    rf"(?<![a-z0-9.,]){_SIZE}(?P<unit>[kmbt])(?:(?<=[bt])t|[-_]?tok(?:en)?s?){_END}(?![-_=]\d)",
    # Baichuan's train_00220B: the size of a model has no zeros before it.
    rf"(?<![a-z0-9.,])(?P<number>0\d{{2,}})(?P<unit>[bt]){_END}",
)
_TINY_LLAMA = rf"[-_]{_SIZE}(?P<unit>[bt]){_END}"  # after the steps: step-50K-105b
_STAGE = r"(?<![a-z])(?:(?:stage|phase)[-_]?(?P<stage>\d+)|lc-\d+k-to-\d+k)"
_ALONE = r"[1-9]\d{2,6}"  # nanotron's 5000; a shorter number may be a seed, a longer one a date
_PLACE = rf"(?:ckpt_)?{_SIZE}(?P<unit>[kmbt]?)"
_BELOW = (
    "actor|policy|student|models?|weights|checkpoint|ckpt|hf|huggingface|pytorch|safetensors"
    "|consolidated|merged|exported|unsharded"
)
"""Folders that say what of a step they hold, as verl's ``global_step_50/actor/huggingface``."""


@dataclass(frozen=True)
class Revision:
    """What the name of a checkpoint says, None where it is silent."""

    stage: int | None  # of training (OLMo, SmolLM3)
    step: int | None  # optimiser steps taken
    tokens: int | None  # training tokens seen


@dataclass(frozen=True)
class _Parts:
    """A name, cut where what it says stands."""

    folder: str  # up to the part, with the / or @ between
    part: str

    @property
    def parent(self) -> str:
        return re.split("[/@]", self.folder)[-2] if self.folder else ""

    @property
    def steps(self) -> re.Match[str] | None:
        """Where the steps stand; None too where two numbers could be meant."""
        found = [m for pattern in _STEPS for m in re.finditer(pattern, self.part, re.I)]
        several = len({_number(match) for match in found}) > 1
        epochs = re.search(_EPOCH, f"{self.parent}/{self.part}", re.I)
        return None if several or epochs or not found else found[0]


def parse_revision(name: str) -> Revision:
    """Read stage, step and tokens off the name of a revision or folder.

    Knows the schemes of OLMo-2 and OLMo-3, Pythia, SmolLM2 and 3, TinyLlama, Apertus, CrystalCoder,
    Baichuan, RedPajama, BLOOM, Megatron, nanotron, Lightning, verl and the Hugging Face trainer.
    What could mean two things is not read: of a name that says two steps, or counts steps anew in
    every epoch, or counts checkpoints (Amber), the step is None.

    Args:
        name: such as ``stage1-step50000-tokens105B``, ``step-240000``, ``iter_0000500``; of a path
            the last folder, or the one that holds ``actor/huggingface`` and the like.

    Returns:
        The three numbers, tokens as a count.

    Example:
        >>> parse_revision("stage1-step50000-tokens105B")
        Revision(stage=1, step=50000, tokens=105000000000)
        >>> parse_revision("TinyLlama-1.1B-intermediate-step-240k-503b")
        Revision(stage=None, step=240000, tokens=503000000000)
        >>> parse_revision("main")
        Revision(stage=None, step=None, tokens=None)
    """
    parts = _parts(name)
    stage = _stage(parts)
    step = _number(parts.steps) if parts.steps else None
    if re.fullmatch(_ALONE, parts.part):
        step = int(parts.part)
    number = stage["stage"] if stage else None
    return Revision(int(number) if number else None, step, _tokens(parts))


def training_order(name: str) -> tuple[Any, ...]:
    """A key that sorts names as training went; those that say nothing come last, naturally."""
    read, parts = parse_revision(name), _parts(name)
    found, alone = _stage(parts), re.fullmatch(_PLACE, parts.part, re.I)
    place = read.step if read.step is not None else read.tokens
    if place is None and alone:
        place = _number(alone)  # Not enough to call it a step, but to sort by.
    stage, branch = 0.0, ""
    if found:
        # SmolLM3 makes the context longer (lc-4k-to-32k) after its stages.
        stage = math.inf if read.stage is None else read.stage
        steps = parts.steps if found.string == parts.part else None
        branch = found.string[found.start() : steps.start() if steps else None].rstrip("-_")
    silent = place is None
    return (
        *(silent and not found, stage, _natural(branch), silent, place or 0, read.tokens or 0),
        _natural(name),
    )


def one_trajectory(names: Sequence[str]) -> bool:
    """Whether steps of these names count on from each other: one run, and one stage of it."""
    return len(set(map(_start, names))) == 1


def common_steps(checkpoints: Sequence[tuple[str, int | None]]) -> list[int] | None:
    """The steps of checkpoints, by name and step; None where they are no scale of all of them.

    They are one where each checkpoint has a step of its own, in one run and one stage of it.
    """
    steps = [step for _, step in checkpoints if step is not None]
    one = len(set(steps)) == len(checkpoints) and one_trajectory([name for name, _ in checkpoints])
    return steps if one else None


def share_a_run(checkpoints: Sequence[tuple[str, int | None]]) -> bool:
    """Whether two of some checkpoints, by name and step, are of one run."""
    starts = [_start(name) for name, step in checkpoints if step is not None]
    return len(set(starts)) < len(starts)


def _start(name: str) -> str:
    """What names of one run, and one stage of it, have in common."""
    parts = _parts(name)
    return parts.folder + parts.part[: parts.steps.start() if parts.steps else 0]


def labels(names: Sequence[str]) -> list[str]:
    """The ends of names: as much of each, the same for all, as tells different names apart.

    Example:
        >>> labels(["runs/a/x/checkpoint-500", "runs/b/x/checkpoint-500"])
        ['a/x/checkpoint-500', 'b/x/checkpoint-500']
        >>> labels(["verl/global_step_50/actor/huggingface", "owner/model@main"])
        ['global_step_50', 'main']
    """
    different = len(set(names))
    short = [parts.folder + parts.part for parts in map(_parts, names)]
    whole = short if len(set(short)) == different else names
    pieces = [re.findall("[^/@]*[/@]|[^/@]+", name) for name in whole]
    ends = (["".join(piece[-depth:]) for piece in pieces] for depth in count(1))
    return next(found for found in ends if len(set(found)) == different)


def _parts(name: str) -> _Parts:
    pieces = re.findall("[^/@]*[/@]|[^/@]+", name)
    below = len(pieces)
    while below and re.fullmatch(rf"(?:(?:{_BELOW})[-_/]?)+", pieces[below - 1], re.I):
        below -= 1
    if 0 < below < len(pieces):
        found = _Parts("".join(pieces[: below - 1]), pieces[below - 1].rstrip("/"))
        begins = re.match(rf"(?:(?:stage|phase)[^/]*?[-_])?(?:{_STEPS[0]})", found.part, re.I)
        if begins or re.fullmatch(_ALONE, found.part):
            return found
    return _Parts("".join(pieces[:-1]), pieces[-1] if pieces else "")


def _stage(parts: _Parts) -> re.Match[str] | None:
    return re.search(_STAGE, parts.part, re.I) or re.search(_STAGE, parts.parent, re.I)


def _tokens(parts: _Parts) -> int | None:
    steps = parts.steps
    if steps:
        after = re.match(_TINY_LLAMA, parts.part[steps.end() :], re.I)
        # Without a unit of the steps, or the model's size before them, it may be that size.
        sized = re.search(rf"(?<![a-z0-9.]){_SIZE}b-", parts.part[: steps.start()], re.I)
        if after and (steps["unit"] or sized):
            return _number(after)
    found = (re.search(pattern, parts.part, re.I) for pattern in _TOKENS)
    return next((_number(match) for match in found if match), None)


def _number(match: re.Match[str]) -> int:
    return round(float(match["number"]) * _UNIT[match["unit"].lower()])


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (0, p) for p in re.split(r"(\d+)", text)]
