"""What the theory's commands ask for; apart from what computes it, so that flags need no torch."""

from typing import Literal

from valuegrad.settings import Count, Positive, settings

MAX_TOKENS = 32
"""The most tokens of a completion that is drawn to be traced."""
PROMPT = "label = 'B'\nanswer = '"
"""The text whose completion the statements are verified on."""


@settings
class BoundSettings:
    """Where the sampling gap is held against its bounds.

    Attributes:
        positions: measured in each prompt, the last one where the answer is sampled.
        examples: held-out prompts.
        temperature: of the relaxation, above 0.
        seed: of which held-out prompts.
        dtype: float32 or float64.
    """

    positions: Count = 4
    examples: Count = 8
    temperature: Positive = 1.0
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
