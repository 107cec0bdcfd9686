"""The command that shows where the credit of a completion goes: ``trace``."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from valuegrad.cli.console import print_json, stdout
from valuegrad.cli.settings import COMMON, CommonFlags
from valuegrad.cli.tables import TABLE_ROWS, table_sites, trace_table
from valuegrad.cli.theory import Flat, one_policy
from valuegrad.files import to_json, write_atomically
from valuegrad.report.trace_text import finding, site_name
from valuegrad.theory.trace import MAX_TOKENS, Trace, trace, trace_document


def trace_command(
    checkpoint: Annotated[str, Parameter(name="CHECKPOINT")],
    /,
    *,
    prompt: str,
    completion: str | None = None,
    site: str | None = None,
    advantage: float = 1.0,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
    dtype: str = "float32",
    common: Annotated[CommonFlags, Flat] = COMMON,
) -> int:
    """Show where the credit of a completion goes: costates by token and site, and what carries it.

    With --out a heat map as HTML, SVG and PNG.
    Example: ``valuegrad trace runs/demo/pretrain/step600 --prompt "label = 'B'" --out runs/trace``

    Args:
        checkpoint: a folder, or one revision of a repository.
        prompt: text that the completion follows.
        completion: text that is credited; left out, one is drawn from the policy.
        site: sites to show, such as embedding,1,final; left out, all of them.
        advantage: of every token of the completion.
        max_tokens: the most that are drawn.
        seed: of the drawing.
        dtype: float32, float64, bfloat16 or float16.
        common: shared flags.
    """
    with one_policy(checkpoint, common, dtype) as (policy, _):
        found = trace(
            policy,
            prompt,
            completion,
            sites=None if site is None else site.split(","),
            advantage=advantage,
            max_tokens=max_tokens,
            seed=seed,
        )
    document = trace_document(found)
    paths = _write(common, found, document)
    if common.json:
        print_json(document)
        return 0
    stdout.print(finding(found), markup=False, highlight=False)
    stdout.print(trace_table(found))
    stdout.print(_legend(found))
    for path in paths:
        stdout.print(path, soft_wrap=True)
    return 0


def _legend(found: Trace) -> str:
    place, count = site_name(found.sites[found.middle]), len(found.tokens)
    shown, sites = len(table_sites(found)), len(found.sites)
    left_out = f"Of {sites} sites {shown}; --site chooses, --json has all. "
    kept = f"Of {count} tokens the {TABLE_ROWS} with the most credit at {place}; --json has all. "
    return (
        (kept if count > TABLE_ROWS else "")
        + (left_out if shown < sites else "")
        + "Columns of sites: a token's share of the credit there, in percent. →: the completion. "
        + f"transported: of the credit at {place}, ‖transported‖ / ‖total‖."
    )


def _write(common: CommonFlags, found: Trace, document: dict[str, Any]) -> list[str]:
    if common.out is None:
        return []
    from valuegrad.report.page import draw
    from valuegrad.report.trace_figures import trace_chart

    data = common.out / "trace.json"
    write_atomically(data, to_json(document))
    return [str(data), *draw(trace_chart(found), common.out, "trace")]
