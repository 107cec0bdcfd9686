"""What the page says, as text that is ready for reading: the verdict, the tables, the settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from valuegrad.report.findings import (
    Document,
    Prediction,
    best_measured,
    column,
    prediction,
    ranked,
    sorted_predictors,
    why_undefined,
)
from valuegrad.report.theme import fixed, number, p_value, rank_interval, share
from valuegrad.study.predictors import MEANING

FORMS = {
    "affine": "gain = a + b · {}",
    "proportional": "gain = kappa · {}",
    "saturating": "log-odds of the reward rise by c · updates · rate({})",
}
"""What each law says, by the first part of its name."""

READINESS = (
    "A group whose completions all earn the same teaches nothing. Where that is more likely than "
    "not, a prompt is solved or out of reach; the rest is ready. Every prompt of every checkpoint "
    "is in readiness.parquet, those that RL can learn most from first."
)


@dataclass(frozen=True)
class Cell:
    """A value on the page, or the reason why there is none.

    Attributes:
        text: the value.
        why: the reason, "" where the value is defined.
    """

    text: str
    why: str = ""


def contents(document: Document) -> dict[str, Any]:
    """Gather everything the page shows beside the figures.

    Args:
        document: ``study.json`` as read from disk.

    Returns:
        The variables of the template.
    """
    predicted = prediction(document)
    return {
        "trained": document["trained"],
        "ranked_by": document["ranked_by"],
        "verdict": _verdict(document, predicted),
        "law": predicted.law,
        "law_error": number(predicted.error, 2),
        "predictors": [_predictor(document, name) for name in sorted_predictors(document)],
        "ranking": _ranking(document, predicted),
        "laws": _laws(document, predicted),
        "combination": _combination(document),
        "explain_gap": _gap_needs_explaining(document),
        "readiness_note": READINESS,
        "failures": document["failures"],
        "settings": _settings(document),
        "config": json.dumps(document["config"], indent=2, sort_keys=True),
    }


def duration(seconds: float | int) -> str:
    """Write a wall-clock time.

    Args:
        seconds: how long.

    Returns:
        The text, in the largest units that suit.

    Example:
        >>> duration(17.77), duration(93.2), duration(4000)
        ('17.8 s', '1 min 33 s', '1 h 7 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {round(seconds % 3600 / 60)} min"


def _cell(text: str, value: object, why: str) -> Cell:
    return Cell(text) if value is not None else Cell(text, why or "undefined")


def _verdict(document: Document, predicted: Prediction) -> dict[str, Any]:
    """Say which checkpoint to train, what was predicted and measured, and what it cost."""
    first = ranked(document)[0]
    chosen, most = document["checkpoints"][first], best_measured(document)
    seconds = document["seconds"]
    found: dict[str, Any] = {
        "label": chosen["label"],
        "defined": document["best_probability"][0] is not None,
        "chance": share(document["best_probability"][0]),
        "count": len(document["checkpoints"]),
        "reward_before": number(chosen["reward_before"]),
        "predicted": _predicted(document, predicted, first),
        "score_seconds": duration(seconds["score"]),
        "train_seconds": duration(seconds["train"]),
    }
    if not document["trained"]:
        return found
    entry = document["predictors"][document["ranked_by"]]
    rho, regret = entry["spearman_gain"], entry["regret"]
    return found | {
        "measured": _measured(chosen),
        "most": None if most is None else document["checkpoints"][most]["label"],
        "most_gain": _measured(document["checkpoints"][most or 0]),
        "is_most": most == first or regret == 0,
        "spearman": _cell(fixed(rho), rho, why_undefined(entry["reasons"], "spearman")),
        "interval": [fixed(end) for end in entry["spearman_gain_interval"] if end is not None],
        "regret": _cell(number(regret, 2), regret, _no_regret()),
        "ratio": fixed(seconds["train"] / seconds["score"], 1) if seconds["score"] else "",
    }


def _predicted(document: Document, predicted: Prediction, place: int) -> Cell:
    value = predicted.gains[place]
    why = f"{document['ranked_by']} is undefined for this checkpoint"
    if predicted.law:
        why = document["laws"][predicted.law]["reason"] or why
    return _cell(fixed(value, 3, sign=True), value, why)


def _measured(checkpoint: dict[str, Any]) -> dict[str, Cell]:
    gain, deviation = checkpoint["gain_mean"], checkpoint["gain_deviation"]
    one = "one seed has no spread" if len(checkpoint["gains"]) < 2 else "a gain is undefined"
    return {
        "gain": _cell(fixed(gain, 3, sign=True), gain, "a run's reward is undefined"),
        "deviation": _cell(fixed(deviation, 3), deviation, one),
    }


def _predictor(document: Document, name: str) -> dict[str, Any]:
    entry = document["predictors"][name]
    reasons = entry["reasons"]
    rho, partial, regret = (
        entry[key] for key in ("spearman_gain", "partial_given_reward", "regret")
    )
    low = entry["spearman_gain_interval"][0]
    return {
        "name": name,
        "meaning": MEANING.get(name, ""),
        "spearman": _cell(fixed(rho), rho, why_undefined(reasons, "spearman")),
        "interval": _cell(
            " to ".join(fixed(end) for end in entry["spearman_gain_interval"]),
            low,
            why_undefined(reasons, "interval", "spearman"),
        ),
        "p": _cell(p_value(entry["p_value"]), entry["p_value"], why_undefined(reasons, "p_value")),
        "partial": _cell(fixed(partial), partial, why_undefined(reasons, "partial_given_reward")),
        "after": _cell(
            fixed(entry["spearman_after"]),
            entry["spearman_after"],
            why_undefined(reasons, "spearman"),
        ),
        "regret": _cell(number(regret, 2), regret, _no_regret()),
    }


def _no_regret() -> str:
    return "a gain is undefined, or the predictor is for every checkpoint"


def _ranking(document: Document, predicted: Prediction) -> list[dict[str, Any]]:
    rows = []
    for place, i in enumerate(ranked(document)):
        checkpoint = document["checkpoints"][i]
        reward, interval = checkpoint["reward_before"], document["rank_intervals"][place]
        chance = document["best_probability"][place]
        why = f"{document['ranked_by']} is undefined"
        row = {
            "rank": place + 1,
            "label": checkpoint["label"],
            "checkpoint": checkpoint["checkpoint"],
            "reward_before": _cell(number(reward), reward, "the score has no reward"),
            "predicted": _predicted(document, predicted, i),
            "interval": _cell(rank_interval(interval), interval[0], why),
            "chance": _cell(share(chance), chance, why),
        }
        if document["trained"]:
            row |= {"measured": _measured(checkpoint), "best": i == best_measured(document)}
        rows.append(row)
    return rows


def _laws(document: Document, predicted: Prediction) -> list[dict[str, Any]]:
    def key(item: tuple[str, dict[str, Any]]) -> tuple[bool, float]:
        error = item[1]["leave_one_out_error"]
        return (error is None, error or 0.0)

    rows = []
    for name, law in sorted(document["laws"].items(), key=key):
        kind, _, predictor = name.rstrip(")").partition("(")
        error = law["leave_one_out_error"]
        rows.append(
            {
                "name": name,
                "form": FORMS.get(kind, "").format(predictor),
                "constants": [
                    (symbol, _cell(number(value), value, law["reason"]))
                    for symbol, value in law["constants"].items()
                ],
                "error": _cell(fixed(error, 3), error, law["reason"]),
                "used": name == predicted.law,
            }
        )
    return rows


def _combination(document: Document) -> list[tuple[str, Cell]]:
    why = "fewer than 4 checkpoints, a constant or an undefined value"
    return [(name, _cell(fixed(rho), rho, why)) for name, rho in document["combination"].items()]


def _gap_needs_explaining(document: Document) -> bool:
    """Whether p_gap is there and never positive, under the method that makes it so."""
    gaps = [gap for gap in column(document, "p_gap") if gap is not None]
    return bool(gaps) and max(gaps) <= 0 and "grpo" in column(document, "method")


def _settings(document: Document) -> list[tuple[str, str]]:
    config = document["config"]
    budget, first = config["budget"], document["checkpoints"][0]
    settings = [
        ("task", first["task"]),
        ("held-out prompts", f"{first['n_prompts']:,}"),
        ("method", first["method"]),
        ("site", str(first["site"])),
        ("learning rate", f"{first['learning_rate']:g}"),
        ("updates", ", ".join(f"{k:,}" for k in first["updates"])),
        ("prompts an update", f"{budget['prompts_per_update']:,}"),
        ("actions a prompt", f"{first['group_size']:,}"),
        ("arithmetic", config["dtype"]),
    ]
    if document["trained"]:
        settings.insert(6, ("seeds", f"{budget['seeds']:,}"))
    return settings
