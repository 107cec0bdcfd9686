"""What the page says beside the figures: the variables and filters of its template."""

import json
import math
from typing import Any

import numpy as np

from valuegrad.report import findings, numbers
from valuegrad.study.predictors import meaning
from valuegrad.study.result import LawResult, StudyResult

NUMBERS = "fixed number share p_value rank_interval correlation_interval duration"
FILTERS = {name: getattr(numbers, name) for name in NUMBERS.split()}
FILTERS |= {"reason": findings.reason, "meaning": meaning}
FORMS = {
    "affine": "gain = a + b · {}",
    "proportional": "gain = kappa · {}",
    "saturating": "log-odds of the reward rise by c · updates · rate({})",
}
"""What each law says, by the first part of its name."""


def contents(result: StudyResult) -> dict[str, Any]:
    """The variables of the template."""
    return {
        "result": result,
        "ranked": findings.ranked(result),
        "chosen": findings.chosen(result),
        "best": findings.best_measured(result),
        "values": findings.measurements(result, result.ranked_by),
        "rewards": findings.measurements(result, "reward_before"),
        "predictors": findings.sorted_predictors(result),
        "laws": _laws(result),
        "neighbours": max((law.neighbours for law in result.laws.values()), default=0),
        "explain_gap": _gap_needs_explaining(result),
        "settings": _settings(result),
        "config": json.dumps(result.config, indent=2, sort_keys=True),
    }


def _laws(result: StudyResult) -> list[tuple[str, str, LawResult]]:
    """Name, what it says and fit of each law, the smallest error first, undefined ones last."""
    rows = []
    for name, law in result.laws.items():
        kind, _, predictor = name.rstrip(")").partition("(")
        rows.append((name, FORMS.get(kind, "").format(predictor), law))
    return sorted(rows, key=lambda row: np.nan_to_num(row[2].leave_one_out_error, nan=math.inf))


def _gap_needs_explaining(result: StudyResult) -> bool:
    """Whether p_gap is never positive, under the method that makes it so (correction E)."""
    gaps = findings.measurements(result, "p_gap")
    grpo = any(found.score["method"] == "grpo" for found in result.checkpoints)
    return grpo and not np.isnan(gaps).all() and bool(np.nanmax(gaps) <= 0)


def _settings(result: StudyResult) -> dict[str, str]:
    budget, score = result.config["budget"], result.checkpoints[0].score
    count, available = score["n_prompts"], score.get("n_prompts_available") or 0
    reward = result.config.get("task", {}).get("reward") or ""
    unseen = f"{reward}; what it reads as it runs, such as files or the network, is not checked"
    return {
        "task": score["task"],
        **({"reward": unseen} if ":" in reward else {}),
        "held-out prompts": f"{count:,}" + (f" of {available:,}" if available > count else ""),
        "method": score["method"],
        "site": str(score["site"]),
        "learning rate": f"{score['learning_rate']:g}",
        "updates": ", ".join(f"{k:,}" for k in score["updates"]),
        **({"seeds": f"{budget['seeds']:,}"} if result.trained else {}),
        "prompts an update": f"{budget['prompts_per_update']:,}",
        "actions a prompt": f"{score['group_size']:,}",
        "arithmetic": result.config["dtype"],
    }
