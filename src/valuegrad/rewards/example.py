"""A prompt with its right answer, as a reward reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """One prompt with its right answer.

    Attributes:
        prompt: the text before the answer, exactly as the policy reads it.
        answer: the text of the right answer, exactly as the policy should continue.
        columns: further fields of the row, handed to a reward function by name.
        stratum: the cell of a balanced design that the prompt stands for, "" where prompts are
            independent draws; standard errors go by it, measurements do not.
    """

    prompt: str
    answer: str
    columns: Mapping[str, object] = field(default_factory=dict)
    stratum: str = ""
