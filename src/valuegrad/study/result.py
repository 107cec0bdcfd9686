"""What a study found, in memory and as the JSON document that holds it: NaN is null there.

n checkpoints · S seeds · K numbers of updates
"""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from valuegrad.checkpoints.names import labels


def _parted(found: Any) -> Any:
    """A checkpoint's object of the document, with the keys of its score put together."""
    if not isinstance(found, dict):
        return found
    own = {f.name for f in fields(CheckpointResult)} - {"checkpoint", "label", "step"}
    return {**found, "score": {k: v for k, v in found.items() if k not in own}}


Number = Annotated[float, BeforeValidator(lambda found: math.nan if found is None else found)]
"""A number of the document, NaN for its null."""


@dataclass(frozen=True)
class PredictorResult:
    """A predictor against the mean gain over n checkpoints; `reasons` says why a value is NaN."""

    spearman_gain: Number
    spearman_gain_interval: tuple[Number, Number]  # over seeds, for these checkpoints and prompts
    p_value: Number  # of the `test`
    partial_given_reward: Number
    spearman_after: Number
    spearman_by_updates: tuple[Number, ...]
    regret: Number  # reward units
    reasons: dict[str, str]
    partial_given_step: Number = math.nan
    test: str = ""


@dataclass(frozen=True)
class LawResult:
    """A fitted `Law`: gains (n,) in reward units, `left_out` without the checkpoint in the fit.

    Nor are its `neighbours` on either side in it, where the checkpoints are those of one run.
    """

    constants: dict[str, Number]
    leave_one_out_error: Number
    fitted: tuple[Number, ...]
    left_out: tuple[Number, ...]
    reason: str
    neighbours: int = 0


@dataclass(frozen=True)
class CheckpointResult:
    """A checkpoint's score, and the gains (S, K) of RL from it where RL was run."""

    checkpoint: str
    label: str
    step: int | None
    score: dict[str, Any]
    """The object of ``valuegrad score --json``, with every key that its version wrote."""
    verdicts: dict[str, int]
    """How many prompts are ready, solved and out of reach."""
    gain_mean: Number = math.nan
    gain_deviation: Number = math.nan  # over seeds, of the mean over the numbers of updates
    gain_by_updates: dict[int, Number] = field(default_factory=dict)
    gains: tuple[tuple[Number, ...], ...] = ()
    reward_after_mean: Number = math.nan
    train_seconds: float = 0.0


@dataclass(frozen=True)
class PromptResult:
    """A held-out prompt: its reward before RL, signal × headroom, and whether it is ready."""

    prompt: str
    reward: Number
    readiness: Number
    verdict: str


@dataclass(frozen=True)
class Seconds:
    """Wall-clock time of all scores and of all RL runs."""

    score: float
    train: float


@dataclass(frozen=True)
class StudyResult:
    """The conclusions of a study; without RL, predictors, laws and combination are empty."""

    ranking: tuple[str, ...]
    best: str
    rank_intervals: tuple[tuple[Number, Number], ...]  # in the ranking's order, as the next, and
    # over held-out prompts, given each checkpoint's update
    best_probability: tuple[Number, ...]
    ranked_by: str
    trained: bool
    predictors: dict[str, PredictorResult]
    laws: dict[str, LawResult]
    combination: dict[str, Number]
    failures: dict[str, str]
    seconds: Seconds
    config: dict[str, Any]
    prompts: tuple[PromptResult, ...]  # of the best checkpoint
    checkpoints: tuple[Annotated[CheckpointResult, BeforeValidator(_parted)], ...]


OUTDATED = "of an earlier version; run the study again, its records are kept"


def _current(found: PredictorResult) -> PredictorResult:
    """Without what earlier versions, which name no test, meant something else by."""
    if found.test or math.isnan(found.spearman_gain):
        return found
    fields = ("interval", "p_value", "regret", "partial_given_step")
    return replace(
        found,
        spearman_gain_interval=(math.nan, math.nan),
        p_value=math.nan,
        regret=math.nan,
        reasons=found.reasons | dict.fromkeys(fields, OUTDATED),
    )


def study_document(result: StudyResult) -> dict[str, Any]:
    """The JSON document of ``valuegrad study``, but for its paths: `to_json` makes it text."""
    rows = []
    for checkpoint in result.checkpoints:
        row = asdict(checkpoint)
        score = row.pop("score")
        rows.append({**score, **row} if result.trained else {**score, "verdicts": row["verdicts"]})
    return {**asdict(result), "checkpoints": rows}


def study_result(document: Any) -> StudyResult:
    """Read the document back; ValueError with the key that is missing or of the wrong kind."""
    try:
        result = TypeAdapter(StudyResult).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    result = replace(result, predictors={n: _current(p) for n, p in result.predictors.items()})
    found = result.checkpoints
    if len({checkpoint.label for checkpoint in found}) == len(found):
        return result
    # Earlier versions gave two checkpoints of different runs one label.
    named = zip(found, labels([checkpoint.checkpoint for checkpoint in found]), strict=True)
    return replace(result, checkpoints=tuple(replace(c, label=label) for c, label in named))
