"""What a trace says in one sentence, and its tokens and sites in print."""

from valuegrad.model.policy import Site
from valuegrad.report.numbers import share
from valuegrad.theory.trace import Trace

SMALLEST = 0.005  # of the credit: what a percentage would show as none
_MARKS = str.maketrans({" ": "␣", "\n": "⏎", "\r": "⏎", "\t": "⇥"})


def finding(trace: Trace) -> str:
    """How much credit attention carries at the middle site, and what gets most: one sentence."""
    place = site_name(trace.sites[trace.middle])
    carried = float(trace.carried_share[trace.middle])
    if not carried >= SMALLEST:
        return f"Attention carries no credit to {place}: every token has its own alone"
    by_token = trace.transported[trace.middle]
    best = int(by_token.argmax())
    part = float(by_token[best] / by_token.sum())
    token = trace.tokens[best]
    where = "completion" if token.in_completion else "prompt"
    much = "most of that" if part > 0.5 else "the largest part"
    return (
        f"Attention carries {share(carried)} of the credit at {place}; {much} ({share(part)}) "
        f"reaches {quoted(token.text)} in the {where} (token {token.position})"
    )


def site_name(site: Site) -> str:
    """A site in a sentence."""
    return site_label(site) if isinstance(site, int) else f"the {site} site"


def site_label(site: Site) -> str:
    """A site beside its row or above its column."""
    return f"block {site}" if isinstance(site, int) else site


def quoted(text: str, most: int = 24) -> str:
    """A token in a sentence, as Python writes a text."""
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def shown(text: str, most: int = 16) -> str:
    """A token with its white space visible (␣width, ⏎⏎), cut at `most` characters (----…)."""
    text = "".join(c if c.isprintable() else "�" for c in text.translate(_MARKS))
    return text if len(text) <= most else text[: most - 1] + "…"
