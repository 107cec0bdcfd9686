"""Small study documents of the shape that is written to study.json, and their results."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from valuegrad.study.predictors import DEFAULT, PREDICTORS
from valuegrad.study.result import StudyResult, study_result

HOSTILE = "<script>alert(1)</script>\"'&]]>"
LAW = f"affine({DEFAULT})"
COMPONENTS = (
    "sigma",
    "lambda_conditional",
    "lambda_sample",
    "alignment",
    "headroom",
    "headroom_pooled",
    "p_alignment",
    "entropy",
    "reward_variance",
    "pass_at_k",
    "gradient_norm",
)


def checkpoint(i: int, trained: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "checkpoint": f"runs/step{10 * i}",
        "label": f"step{10 * i}",
        "step": 10 * i,
        "revision": None,
        "tokens": None,
        "task": "label-copy",
        "method": "grpo",
        "site": "final",
        "alpha": 5.0,
        "n_prompts": 8,
        "group_size": 4,
        "learning_rate": 2e-4,
        "updates": [10, 20],
        "reward_before": 0.01 * i,
        "probe_step": 0.03 * i,
        "p_gap": -(10.0 ** (i - 8)),
        "p_gap_conditional": -(10.0 ** (i - 9)),
        "p_gap_population": -(10.0 ** (i - 8)),
        "p_gap_conditional_population": -(10.0 ** (i - 9)),
        "seconds": 1.25 * i,
        **dict.fromkeys(COMPONENTS, 10.0 ** (i - 7)),
        "standard_errors": {"probe_step": 0.001},
    }
    found["verdicts"] = {"ready": i, "solved": 1, "out of reach": 2}
    if trained:
        gains = [[0.1 * i, 0.12 * i], [0.11 * i, 0.13 * i]]
        found |= {
            "gain_mean": 0.115 * i,
            "gain_deviation": 0.007 * i,
            "gain_by_updates": {"10": 0.105 * i, "20": 0.125 * i},
            "gains": gains,
            "reward_after_mean": 0.125 * i,
            "train_seconds": 7.75 * i,
        }
    return found


def document(n: int = 5, trained: bool = True) -> dict[str, Any]:
    checkpoints = [checkpoint(i, trained) for i in range(1, n + 1)]
    names = [c["checkpoint"] for c in checkpoints][::-1]
    rho = None if n < 4 else 1.0
    predictor = {
        "spearman_gain": rho,
        "spearman_gain_interval": [None, None] if n < 4 else [0.9, 1.0],
        "p_value": None if n < 4 else 0.0002,
        "partial_given_reward": None,
        "spearman_after": rho,
        "spearman_by_updates": [rho, rho],
        "regret": 0.0,
        "reasons": {"spearman": "fewer than 4 checkpoints"} if n < 4 else {},
        "partial_given_step": None,
        "test": "" if n < 4 else "permutations of checkpoints",
    }
    predictors = {name: deepcopy(predictor) for name in PREDICTORS}
    if n >= 4:
        for name in (n for n in PREDICTORS if n.startswith("p_gap")):
            predictors[name] |= {"spearman_gain": -1.0, "spearman_gain_interval": [-1.0, -0.9]}
            predictors[name]["regret"] = 0.46
    law = {
        "constants": {"a": None if n < 4 else 0.01, "b": None if n < 4 else 3.8},
        "leave_one_out_error": None if n < 4 else 0.02,
        "fitted": [None if n < 4 else 0.11 * i for i in range(1, n + 1)],
        "left_out": [None if n < 4 else 0.12 * i for i in range(1, n + 1)],
        "reason": "",
        "neighbours": n // 4 if n >= 4 else 0,
    }
    laws = {LAW: law, "affine(p_gap)": {**law, "leave_one_out_error": 0.001}}
    return {
        "ranking": names,
        "best": names[0],
        "rank_intervals": [[max(i - 1.0, 1.0), min(i + 1.0, float(n))] for i in range(1, n + 1)],
        "best_probability": [0.75, 0.25, *[0.0] * (n - 2)] if n > 1 else [1.0],
        "ranked_by": DEFAULT,
        "trained": trained,
        "predictors": predictors if trained else {},
        "laws": laws if trained else {},
        "combination": {DEFAULT: rho, "p_gap": None} if trained else {},
        "failures": {},
        "seconds": {"score": 18.75, "train": 116.25 if trained else 0.0},
        "config": {"budget": {"prompts_per_update": 4, "seeds": 2}, "dtype": "float32"},
        "prompts": [
            {"prompt": "label = 'B'", "reward": 0.25, "readiness": 0.01, "verdict": "ready"},
            {"prompt": "x" * 80, "reward": 0.01, "readiness": 0.0, "verdict": "out of reach"},
        ],
        "checkpoints": checkpoints,
    }


def without_numbers(value: Any) -> Any:
    """The same document with every measured number undefined."""
    if isinstance(value, dict):
        keep = ("seconds", "train_seconds", "config", "learning_rate")
        return {k: v if k in keep else without_numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_numbers(v) for v in value]
    return None if isinstance(value, float) else value


def result(n: int = 5, trained: bool = True) -> StudyResult:
    return study_result(document(n, trained))


def values_of(spec: Any) -> set[Any]:
    """Every string and number in the data of a specification."""
    rows = [row for values in spec["datasets"].values() for row in values]
    return {value for row in rows for value in row.values()}


def rows_of(spec: Any) -> list[dict[str, Any]]:
    """The longest of the data sets of a specification."""
    longest: list[dict[str, Any]] = max(spec["datasets"].values(), key=len)
    return longest
