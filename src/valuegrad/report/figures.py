"""The figures of a study by name, in reading order. Wall-clock times enter none of them."""

from altair.typing import ChartType

from valuegrad.report.component_figures import budgets, components
from valuegrad.report.gain_figures import gain, scatter
from valuegrad.report.predictor_figure import predictors
from valuegrad.report.ranking_figure import ranking
from valuegrad.report.readiness_figure import readiness
from valuegrad.report.theme import themed
from valuegrad.report.z_score_figure import z_scores
from valuegrad.study.result import StudyResult

TRAINED = (predictors, ranking, gain, scatter, readiness, budgets, z_scores)
UNTRAINED = (ranking, readiness, components)


def figures(result: StudyResult) -> dict[str, ChartType]:
    """Draw every figure that a study has the measurements for."""
    charts = TRAINED if result.trained else UNTRAINED
    return {chart.__name__: themed(chart(result)) for chart in charts}
