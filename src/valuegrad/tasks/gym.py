"""Tasks of reasoning-gym: ``gym:NAME`` is its data set of that name, as it is configured there.

reasoning-gym draws item i of seed s from the seed s + i, so neighbouring seeds share almost all of
their items, and small data sets repeat questions. Here every question counts once and its text
alone decides its split. Its scores are not binary either: many verifiers give part of the credit,
or 0.01 for anything at all. A completion counts as right from a threshold on, by default the full
score, and earns 1 or 0.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from valuegrad.errors import RunError, UserError
from valuegrad.rewards.example import Example
from valuegrad.rewards.function import FunctionReward
from valuegrad.rewards.isolation import Isolated
from valuegrad.tasks.task import HELD_OUT, Task, held_out
from valuegrad.tasks.template import apply_template, check_template

PREFIX = "gym:"
TEMPLATE = "{prompt}\nAnswer:"
# Seeds so far apart share no item.
STRIDE = 1_000_000
# Items drawn before a data set counts as used up, per item of this split that they should hold.
ATTEMPTS = 20
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_JUDGES = Isolated("reasoning_gym")
CHUNK = 32


@dataclass(frozen=True)
class GymVerifier:
    """Reward 1 where the data set's verifier gives a completion the threshold or more, else 0.

    The answer is what stands in the last ``<answer></answer>``, or the whole completion, stripped.
    A verifier that an answer keeps busy for more than `isolation.SECONDS`, or that raises on it,
    gives 0.

    Attributes:
        name: of the data set.
        seed: of the data set.
        threshold: the score from which an answer is right.
        entries: the items, by the index that the column of this name holds.
    """

    name: str
    seed: int
    threshold: float
    entries: Mapping[int, dict[str, Any]] = field(repr=False, compare=False)

    def __call__(
        self, completions: Sequence[str], index: Sequence[int], **_: object
    ) -> list[float]:
        """A reward for each completion."""
        rewards = []
        for completion, i in zip(completions, index, strict=True):
            tagged = _TAGGED.findall(completion)
            answer = (tagged[-1] if tagged else completion).strip()
            score = _JUDGES("gym_score", self.name, self.seed, answer, self.entries[i])
            rewards.append(float((score or 0.0) >= self.threshold))
        return rewards


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
    for argument, count in (("prompts", prompts), ("train_prompts", train_prompts)):
        if count < 1:
            raise UserError(argument, str(count), "1 or more", "raise it")
    if not 0 < threshold <= 1:
        raise UserError("threshold", str(threshold), "above 0 and at most 1", "use 1")
    check_template("prompt_template", prompt_template, "prompt")
    wanted = {False: train_prompts, True: prompts}
    shares = {False: 1 - HELD_OUT, True: HELD_OUT}
    limit = max(int(ATTEMPTS * wanted[side] / shares[side]) for side in wanted)
    entries: dict[int, dict[str, Any]] = {}
    splits: dict[bool, dict[str, Example]] = {False: {}, True: {}}
    for index, entry in enumerate(_items(name, seed * STRIDE, limit)):
        question = str(entry["question"]).strip()
        side = held_out(question, HELD_OUT)
        if question not in splits[side] and len(splits[side]) < wanted[side]:
            answer = "" if entry["answer"] is None else str(entry["answer"])
            splits[side][question] = Example(question, answer, {"index": index})
            entries[index] = entry
        if all(len(splits[side]) == wanted[side] for side in wanted):
            break
    for side, argument in ((True, "prompts"), (False, "train_prompts")):
        if len(splits[side]) < wanted[side]:
            raise UserError(
                argument,
                str(wanted[side]),
                f"at most {len(splits[side])}, the different questions of this split among "
                f"{limit} of {PREFIX}{name}",
                "ask for fewer",
            )
    train, evaluation = (apply_template(prompt_template, splits[s].values()) for s in (False, True))
    verifier = GymVerifier(name, seed * STRIDE, threshold, entries)
    # No colon in the name: that marks the functions of the user's.
    reward = FunctionReward(f"reasoning-gym {name}", verifier, binary=True, timeout=None)
    one_line = not any("\n" in e.answer for e in (*train, *evaluation))
    return Task(f"{PREFIX}{name}", train, evaluation, reward, stop="\n" if one_line else None)


def _items(name: str, seed: int, limit: int) -> Iterator[dict[str, Any]]:
    """The items of a data set in order, made in a process that makes the same ones every time."""
    _check_name(name)
    maker = Isolated("reasoning_gym", seconds=0.0)
    try:
        for start in range(0, limit, CHUNK):
            yield from maker("gym_items", name, seed, limit, start, min(start + CHUNK, limit))
    except RunError as error:
        raise UserError(
            "task",
            f"'{PREFIX}{name}', which cannot be made ({error})",
            "a data set that needs no configuration",
            "choose another",
        ) from error
    finally:
        maker.close()


def _check_name(name: str) -> None:
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(
            "task",
            f"'{PREFIX}{name}' without reasoning-gym ({error})",
            "the extra that holds it",
            "pip install 'valuegrad[gym]'",
        ) from error
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=3)
        fix = f"did you mean {', '.join(near)}?" if near else f"one is {PREFIX}leg_counting"
        wanted = f"one of the {len(DATASETS)} data sets of reasoning-gym"
        raise UserError("task", f"'{PREFIX}{name}'", wanted, fix)
