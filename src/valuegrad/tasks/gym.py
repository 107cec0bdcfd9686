"""Tasks of reasoning-gym: ``gym:NAME`` is its data set of that name, as it is configured there.

reasoning-gym draws item i of seed s from the seed s + i, so neighbouring seeds share almost all of
their items, and small data sets repeat questions. Here every question counts once and its text
alone decides its split. Its scores are not binary either: many verifiers give part of the credit,
or 0.01 for anything at all. A completion is right from a threshold on, by default the full score.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

from valuegrad.errors import RunError, UserError, suggestion
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.rewards.worker import Worker
from valuegrad.tasks.task import HELD_OUT, Task, apply_template, check_counts, check_template, split

PREFIX = "gym:"
TEMPLATE = "{prompt}\nAnswer:"
# Seeds so far apart share no item.
STRIDE = 1_000_000
# Items drawn before a data set counts as used up, per item of this split that they should hold.
ATTEMPTS = 20
CHUNK = 32
_LIBRARY = "reasoning_gym"
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_WORKER = Worker(_LIBRARY)


def gym_task(
    name: str,
    *,
    prompts: int = 256,
    train_prompts: int = 1024,
    seed: int = 0,
    threshold: float = 1.0,
    prompt_template: str = TEMPLATE,
) -> Task:
    r"""A task of questions that reasoning-gym generates and verifies.

    Where every answer is one line, a line break ends a completion.

    Args:
        name: of the data set.
        prompts: number of held-out questions to measure on.
        train_prompts: number of questions that RL draws from.
        seed: of the questions; different seeds share none by construction of the data set.
        threshold: the verifier's score from which an answer is right, in (0, 1].
        prompt_template: a format string with ``{prompt}``, where the question goes.

    Returns:
        The task. An answer that the data set leaves open is an empty text.

    Raises:
        UserError: reasoning-gym is missing, has no such data set or cannot make it; too few
            different questions; counts below 1; a threshold out of range.

    Example:
        ``gym_task("leg_counting", prompts=64, train_prompts=256)``
    """
    check_counts(prompts=prompts, train_prompts=train_prompts)
    if not 0 < threshold <= 1:
        raise UserError("threshold", str(threshold), "above 0 and at most 1", "use 1")
    check_template("prompt_template", prompt_template, "prompt")
    limit = int(max(ATTEMPTS * train_prompts / (1 - HELD_OUT), ATTEMPTS * prompts / HELD_OUT))
    entries: list[dict[str, Any]] = []
    drawn = _examples(name, seed * STRIDE, limit, entries)
    sides = split(drawn, HELD_OUT, train_prompts, prompts)
    counts = {"train_prompts": train_prompts, "prompts": prompts}
    for side, (argument, count) in zip(sides, counts.items(), strict=True):
        if len(side) < count:
            wanted = f"at most {len(side)}, the different questions of this split among {limit}"
            raise UserError(argument, str(count), f"{wanted} of {PREFIX}{name}", "ask for fewer")
    train, evaluation = (apply_template(prompt_template, side) for side in sides)
    verifier = GymVerifier(name, seed * STRIDE, threshold, entries)
    identity = f"{verifier!r} reasoning-gym {version('reasoning-gym')}"
    # No colon in the name: that marks the functions of the user's.
    reward = FunctionReward(f"reasoning-gym {name}", verifier, binary=True, version=identity)
    one_line = not any("\n" in e.answer for e in (*train, *evaluation))
    return Task(f"{PREFIX}{name}", train, evaluation, reward, stop="\n" if one_line else None)


@dataclass(frozen=True)
class GymVerifier:
    """Reward 1 where the data set's verifier gives a completion the threshold or more, else 0."""

    name: str
    seed: int
    threshold: float
    entries: Sequence[dict[str, Any]] = field(repr=False, compare=False)  # by column `index`

    def __call__(self, completions: list[str], index: list[int], **_: object) -> list[float]:
        """A reward for each completion."""
        # The answer is what stands in the last tag, or the whole completion.
        items = [
            (self.name, self.seed, (_TAGGED.findall(text) or [text])[-1].strip(), self.entries[i])
            for text, i in zip(completions, index, strict=True)
        ]
        return [float(score >= self.threshold) for score in _WORKER.scores(_score, items)]


def _examples(name: str, seed: int, limit: int, entries: list[dict[str, Any]]) -> Iterator[Example]:
    """The questions of a data set in order, the same in every process; adds their `entries`."""
    _check_name(name)
    maker = Worker(_LIBRARY)
    try:
        for start in range(0, limit, CHUNK):
            for entry in maker.call(_items, name, seed, limit, range(limit)[start : start + CHUNK]):
                answer = "" if entry["answer"] is None else str(entry["answer"])
                entries.append(entry)
                yield Example(str(entry["question"]).strip(), answer, {"index": len(entries) - 1})
    except RunError as error:
        got = f"'{PREFIX}{name}', which cannot be made ({error})"
        wanted = "a data set that needs no configuration"
        raise UserError("task", got, wanted, "choose another") from error
    finally:
        maker.close()


def _check_name(name: str) -> None:
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        got = f"'{PREFIX}{name}' without reasoning-gym ({error})"
        fix = "pip install 'valuegrad[gym]'"
        raise UserError("task", got, "the extra that holds it", fix) from error
    if name not in DATASETS:
        wanted = f"one of the {len(DATASETS)} data sets of reasoning-gym"
        fix = suggestion(name, DATASETS, "one is leg_counting")
        raise UserError("task", f"'{PREFIX}{name}'", wanted, fix)


@cache
def _dataset(name: str, seed: int, size: int) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, size=size, seed=seed)


def _items(name: str, seed: int, size: int, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Items to be asked for in order, in a process whose hash seed orders sets of texts alike."""
    import numpy as np

    dataset = _dataset(name, seed, size)
    # Some data sets draw from the global generators.
    random.seed(seed + indices[0])
    np.random.seed((seed + indices[0]) % 2**32)
    return [dataset[index] for index in indices]


def _score(name: str, seed: int, answer: str, entry: dict[str, Any]) -> float:
    try:
        return float(_dataset(name, seed, 1).score_answer(answer, entry))
    except Exception:
        # Some verifiers raise on text that is no answer of their form.
        return 0.0
