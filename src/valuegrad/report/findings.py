"""What a study found, read off its document: the prediction, the ranks, the best checkpoint.

A document is ``study.json`` as read from disk: plain values, None where something is undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """Predicted gains in reward units, one a checkpoint in the document's order.

    Attributes:
        gains: the predictions, None where undefined.
        law: the law that made them, each without the checkpoint it is for; "" where no law could
            be fitted and the predictor itself, a reward change, is the prediction.
        error: the law's leave-one-out error in reward units, None without a law.
    """

    gains: tuple[float | None, ...]
    law: str
    error: float | None


def prediction(document: Document) -> Prediction:
    """Predict every checkpoint's gain from the predictor that the ranking goes by.

    Args:
        document: of a study.

    Returns:
        The left-out predictions of its law with the lowest leave-one-out error; the predictor
        itself where RL was not run or no law has an error.
    """
    laws = [
        (law["leave_one_out_error"], name)
        for name, law in document["laws"].items()
        if name.endswith(f"({document['ranked_by']})") and law["leave_one_out_error"] is not None
    ]
    if not laws:
        return Prediction(column(document, document["ranked_by"]), "", None)
    error, name = min(laws)
    return Prediction(tuple(document["laws"][name]["left_out"]), name, error)


def column(document: Document, name: str) -> tuple[Any, ...]:
    """Read one measurement of all checkpoints, in the document's order; None where undefined."""
    return tuple(checkpoint.get(name) for checkpoint in document["checkpoints"])


def ranked(document: Document) -> list[int]:
    """Place the ranking's checkpoints in the document's order: the predicted best first."""
    places = {c["checkpoint"]: i for i, c in enumerate(document["checkpoints"])}
    return [places[name] for name in document["ranking"]]


def ranks(values: Sequence[float | None]) -> list[float | None]:
    """Rank values from the highest, 1, down; ties share their mean rank.

    Args:
        values: any numbers, None where undefined.

    Returns:
        The ranks in the same order, None where the value is.

    Example:
        >>> ranks([0.5, None, 0.9, 0.5])
        [2.5, None, 1.0, 2.5]
    """
    known = [value for value in values if value is not None]
    return [
        None
        if value is None
        else sum(other > value for other in known) + (known.count(value) + 1) / 2
        for value in values
    ]


def sorted_predictors(document: Document) -> dict[str, dict[str, Any]]:
    """Sort a document's predictors by correlation with the gain, undefined ones last.

    Args:
        document: of a study that ran RL.

    Returns:
        The entries of ``predictors``; of equal ones the one that the ranking goes by comes first.
    """

    def key(item: tuple[str, dict[str, Any]]) -> tuple[float, bool]:
        rho = item[1]["spearman_gain"]
        return (2.0 if rho is None else -rho, item[0] != document["ranked_by"])

    return dict(sorted(document["predictors"].items(), key=key))


def best_measured(document: Document) -> int | None:
    """Find the checkpoint with the highest measured mean gain; None where none is defined."""
    gains = column(document, "gain_mean")
    known = [(gain, -place) for place, gain in enumerate(gains) if gain is not None]
    return -max(known)[1] if known else None


def seed_range(checkpoint: Document) -> tuple[float | None, float | None]:
    """Give the lowest and highest gain of a seed, the mean over budgets; None where undefined."""
    if not checkpoint.get("gains") or any(None in seed for seed in checkpoint["gains"]):
        return None, None
    means = [sum(seed) / len(seed) for seed in checkpoint["gains"]]
    return min(means), max(means)


def why_undefined(reasons: dict[str, str], *fields: str) -> str:
    """Say why a value is undefined, from the reasons recorded beside it."""
    found = [reasons[name] for name in fields if reasons.get(name)]
    return found[0] if found else "a value that it is made from is undefined"
