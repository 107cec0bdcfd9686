"""Results as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.markup import escape
from rich.table import Table

from valuegrad.report.trace_text import shown, site_label
from valuegrad.theory.statement import Statement
from valuegrad.theory.trace import Trace

Row = Mapping[str, Any]
TABLE_ROWS = 40  # tokens of a trace that are read in one sitting


def score_table(scores: Sequence[Row]) -> Table:
    """The scores in order of rank, with the standard error of the prediction.

    Args:
        scores: the objects of ``valuegrad score --json``, best first.

    Returns:
        A table to print.
    """
    # What fits 80 columns whole; the JSON holds everything.
    columns = ("reward_before", "probe_step", "±", "headroom", "p_alignment")
    rows = [{**s, "±": s["standard_errors"].get("probe_step")} for s in scores]
    return table(("rank", "label", *columns), [{"rank": i, **r} for i, r in enumerate(rows, 1)])


def train_table(runs: Sequence[Row]) -> Table:
    """The rewards before and after each budget, and their means where there are several seeds.

    Args:
        runs: the objects of ``valuegrad train --json``.

    Returns:
        A table to print; ± is the standard deviation of the gain over seeds.
    """
    columns = ["label", "seed", "updates", "reward_before", "reward_after", "gain"]
    groups: dict[tuple[str, int], list[Row]] = {}
    for run in runs:
        groups.setdefault((run["label"], run["updates"]), []).append(run)
    if all(len(group) == 1 for group in groups.values()):
        return table(columns, runs)
    rows: list[Row] = []
    for label in dict.fromkeys(run["label"] for run in runs):
        rows += [run for run in runs if run["label"] == label]
        rows += [_mean(group) for (name, _), group in groups.items() if name == label]
    return table([*columns, "±"], rows)


def _mean(runs: Sequence[Row]) -> Row:
    names = ("reward_before", "reward_after", "gain")
    means = {name: fmean(run[name] for run in runs) for name in names}
    deviation = stdev(run["gain"] for run in runs) if len(runs) > 1 else math.nan
    return {**runs[0], **means, "seed": "mean", "±": deviation}


def study_table(document: Row) -> Table:
    """The checkpoints in order of predicted gain, with the measured gain where there is one.

    Args:
        document: the document of ``valuegrad study``.

    Returns:
        A table to print.
    """
    by_name = {c["checkpoint"]: c for c in document["checkpoints"]}
    columns = ["rank", "label", "reward_before", "probe_step", "P(best)"]
    columns += ["gain_mean", "gain_deviation"] if document["trained"] else []
    rows = [
        {"rank": i, "P(best)": probability, **by_name[name]}
        for i, (name, probability) in enumerate(
            zip(document["ranking"], document["best_probability"], strict=True), 1
        )
    ]
    return table(columns, rows)


def predictor_table(document: Row) -> Table:
    """Every predictor's rank correlation with the gain, highest first.

    Args:
        document: the document of a study that ran RL.

    Returns:
        A table to print.
    """
    found = [{"predictor": name, **values} for name, values in document["predictors"].items()]
    for row in found:
        row["interval"] = " … ".join(map(_text, row["spearman_gain_interval"]))
        row["partial"] = row["partial_given_reward"]
    found.sort(key=lambda row: -math.inf if row["spearman_gain"] is None else row["spearman_gain"])
    # Short enough for 80 columns; the page and the JSON say the names in full.
    columns = ("predictor", "spearman_gain", "interval", "p_value", "partial", "regret")
    return table(columns, found[::-1])


def verify_table(statements: Sequence[Statement]) -> Table:
    """Both sides of every statement, and whether it holds.

    Args:
        statements: from `verify`.

    Returns:
        A table to print.
    """
    result = Table(box=None, header_style="bold", pad_edge=False)
    result.add_column("statement", ratio=1)
    result.add_column("source", max_width=13)
    for name in ("left", "right", "error"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("holds", no_wrap=True)
    for statement in statements:
        paper = statement.form == "paper"
        if statement.holds:
            verdict = "[green]yes[/green]"
        else:
            verdict = "[yellow]no (paper)[/yellow]" if paper else "[bold red]NO[/bold red]"
        result.add_row(
            escape(statement.name),
            escape(statement.source),
            _text(statement.left),
            _text(statement.right),
            f"{statement.error:.0e}" if statement.relation == "=" else "",
            verdict,
        )
    return result


def bound_table(summary: Row) -> Table:
    """The medians of gap and bounds by checkpoint.

    Args:
        summary: from `summarise_bounds`.

    Returns:
        A table to print.
    """
    columns = ("checkpoint", "entropy", "gap", "bound_linear", "bound_paper", "tighter")
    rows = [
        {**row, "checkpoint": str(row["checkpoint"]).rsplit("/", 1)[-1]}
        for row in summary["checkpoints"]
    ]
    return table(columns, rows)


def trace_table(trace: Trace, rows: int = TABLE_ROWS) -> Table:
    """Every token's share of the credit at some sites, in percent.

    Args:
        trace: from `trace`.
        rows: the most tokens shown; those with the most credit at the middle site are.

    Returns:
        A table to print; `transported` is the transport share at the middle site.
    """
    chosen, middle = table_sites(trace), trace.middle
    order = trace.total[middle].argsort(descending=True, stable=True).tolist()
    result = Table(box=None, header_style="bold", pad_edge=False)
    sites = [site_label(trace.sites[s]) for s in chosen]
    for name in ("", "", "token", "logp", *sites, "transported"):
        result.add_column(name, justify="left" if name == "token" else "right", no_wrap=True)
    share, carried = trace.credit_share, trace.transport_share
    for i in sorted(order[:rows]):
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


def table_sites(trace: Trace) -> list[int]:
    """Which sites fit a table: the middle one and five or four others, spread evenly."""
    last = len(trace.sites) - 1
    return sorted({trace.middle, *(round(last * i / 4) for i in range(5))})


def table(columns: Sequence[str], rows: Sequence[Row]) -> Table:
    """A plain table of some columns of some rows; numbers on the right, undefined ones as –."""
    result = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        number = any(isinstance(row.get(name), int | float) for row in rows)
        result.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        result.add_row(*(_text(row.get(name)) for name in columns))
    return result


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
