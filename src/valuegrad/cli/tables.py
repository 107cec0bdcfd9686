"""Results as tables for the terminal."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.markup import escape
from rich.table import Table

from valuegrad.checkpoints.names import labels
from valuegrad.report.findings import sorted_predictors
from valuegrad.report.trace_text import shown, site_label, site_name
from valuegrad.study.result import StudyResult
from valuegrad.theory.statement import Statement
from valuegrad.theory.trace import Trace

Row = Mapping[str, Any]
TABLE_ROWS = 40  # tokens of a trace that are read in one sitting


def score_table(scores: Sequence[Row]) -> Table:
    """Scores, best first, with the standard error of the prediction: what fits 80 columns."""
    columns = ("reward_before", "probe_step", "±", "headroom", "p_alignment")
    rows = [{**s, "±": s["standard_errors"].get("probe_step")} for s in scores]
    return table(("rank", "label", *columns), [{"rank": i, **r} for i, r in enumerate(rows, 1)])


def train_table(runs: Sequence[Row]) -> Table:
    """Rewards before and after each budget; of several seeds their mean and deviation as well."""
    columns = ["label", "seed", "updates", "reward_before", "reward_after", "gain"]
    groups: dict[tuple[str, int], list[Row]] = {}
    for run in runs:
        groups.setdefault((run["checkpoint"], run["updates"]), []).append(run)
    if all(len(group) == 1 for group in groups.values()):
        return table(columns, runs)
    rows: list[Row] = []
    for checkpoint in dict.fromkeys(run["checkpoint"] for run in runs):
        rows += [run for run in runs if run["checkpoint"] == checkpoint]
        rows += [_mean(group) for (name, _), group in groups.items() if name == checkpoint]
    return table([*columns, "±"], rows)


def _mean(runs: Sequence[Row]) -> Row:
    names = ("reward_before", "reward_after", "gain")
    means = {name: fmean(run[name] for run in runs) for name in names}
    deviation = stdev(run["gain"] for run in runs) if len(runs) > 1 else math.nan
    return {**runs[0], **means, "seed": "mean", "±": deviation}


def study_table(result: StudyResult) -> Table:
    """The checkpoints in order of predicted gain, with the measured gain where there is one."""
    by_name = {found.checkpoint: found for found in result.checkpoints}
    columns = ["rank", "label", "reward_before", "probe_step", "P(best)"]
    columns += ["gain_mean", "gain_deviation"] if result.trained else []
    ranking = zip(result.ranking, result.best_probability, strict=True)
    rows = [
        {"rank": i, "P(best)": chance, **by_name[name].score, **vars(by_name[name])}
        for i, (name, chance) in enumerate(ranking, 1)
    ]
    return table(columns, rows)


def predictor_table(result: StudyResult) -> Table:
    """Every predictor's rank correlation with the gain, highest first."""
    # Names short enough for 80 columns; the page and the JSON write them in full.
    columns = ("predictor", "spearman", "interval", "p_value", "|reward", "|step", "regret")
    rows = [
        {
            "predictor": name,
            **vars(found),
            "spearman": found.spearman_gain,
            "interval": " … ".join(map(_text, found.spearman_gain_interval)),
            "|reward": found.partial_given_reward,
            "|step": found.partial_given_step,
        }
        for name, found in sorted_predictors(result).items()
    ]
    return table(columns, rows)


def predictor_legend(result: StudyResult) -> str:
    """What the columns of `predictor_table` are over."""
    test = next((p.test for p in result.predictors.values() if p.test), "")
    return (
        "interval: 95%, over seeds of RL, for these checkpoints and held-out prompts. "
        + (f"p_value: {test}. " if test else "")
        + "|reward, |step: partial, given the reward before RL and given the step. "
        + "regret: against the checkpoint that half of the seeds choose."
    )


def verify_table(statements: Sequence[Statement]) -> Table:
    """Both sides of every statement, and whether it holds: as a check, or as a bound with slack."""
    result = Table(box=None, header_style="bold", pad_edge=False)
    result.add_column("statement", ratio=1)
    result.add_column("source", max_width=13)
    for name in ("left", "right", "error, ×"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("holds", no_wrap=True)
    for statement in statements:
        fails = "[yellow]no (paper)[/]" if statement.form == "paper" else "[bold red]NO[/]"
        holds = "[cyan]bound[/]" if statement.kind == "bound" else "[green]yes[/]"
        slack = "" if math.isnan(statement.slack) else f"×{statement.slack:.3g}"
        result.add_row(
            escape(statement.name),
            escape(statement.source),
            _text(statement.left),
            _text(statement.right),
            f"{statement.error:.0e}" if statement.relation == "=" else slack,
            holds if statement.holds else fails,
        )
    return result


def bound_table(summary: Row) -> Table:
    """The medians of gap and bounds by checkpoint."""
    bounds = ("bound_covariance", "bound_linear", "bound_paper")
    columns = ("checkpoint", "entropy", "gap", *bounds, "tighter")
    rows, short = summary["checkpoints"], labels([r["checkpoint"] for r in summary["checkpoints"]])
    named = zip(rows, short, strict=True)
    return table(columns, [{**row, "checkpoint": label} for row, label in named])


def trace_table(trace: Trace) -> Table:
    """The percentage of the credit at some sites that goes to each token; see `trace_legend`."""
    chosen, middle = _table_sites(trace), trace.middle
    order = trace.total[middle].argsort(descending=True, stable=True).tolist()
    result = Table(box=None, header_style="bold", pad_edge=False)
    sites = [site_label(trace.sites[s]) for s in chosen]
    for name in ("", "", "token", "logp", *sites, "transported"):
        result.add_column(name, justify="left" if name == "token" else "right", no_wrap=True)
    share, carried = trace.credit_share, trace.transport_share
    for i in sorted(order[:TABLE_ROWS]):
        token = trace.tokens[i]
        cells = [100 * float(share[s, i]) for s in chosen]
        result.add_row(
            "→" if token.in_completion else "",
            str(i),
            escape(shown(token.text, 12)),
            "–" if math.isnan(token.logp) else f"{token.logp:.2f}",
            *("" if cell < 1e-4 else f"{cell:.1f}" for cell in cells),
            "" if carried[middle, i].isnan() else f"{float(carried[middle, i]):.0%}",
        )
    return result


def trace_legend(trace: Trace) -> str:
    """What is left out of a table of a trace, and what its columns are."""
    place, count = site_name(trace.sites[trace.middle]), len(trace.tokens)
    shown, sites = len(_table_sites(trace)), len(trace.sites)
    left_out = f"Of {sites} sites {shown}; --site chooses, --json has all. "
    kept = f"Of {count} tokens the {TABLE_ROWS} with the most credit at {place}; --json has all. "
    return (
        (kept if count > TABLE_ROWS else "")
        + (left_out if shown < sites else "")
        + "Columns of sites: a token's share of the credit there, in percent. →: the completion. "
        + f"transported: of the credit at {place}, ‖transported‖ / ‖total‖."
    )


def _table_sites(trace: Trace) -> list[int]:
    """Which sites fit a table: the middle one and five or four others, spread evenly."""
    last = len(trace.sites) - 1
    return sorted({trace.middle, *(round(last * i / 4) for i in range(5))})


def table(columns: Sequence[str], rows: Sequence[Row]) -> Table:
    """A plain table of some columns of some rows; numbers on the right, undefined ones as –.

    Texts that are too wide go on in the next line: what is cut off may be all that differs.
    """
    result = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        number = any(isinstance(row.get(name), int | float) for row in rows)
        result.add_column(
            name, justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    for row in rows:
        result.add_row(*(_text(row.get(name)) for name in columns))
    return result


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
