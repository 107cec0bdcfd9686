"""Tokens and sites in print."""

from valuegrad.report.trace_text import quoted, shown, site_name


def test_white_space_of_a_token_is_visible_and_long_ones_are_cut():
    assert (shown(" width"), shown("\n\n"), shown("\t\x00")) == ("␣width", "⏎⏎", "⇥�")
    assert (shown("-" * 40, 5), shown("-" * 5, 5)) == ("----…", "-----")


def test_a_token_in_a_sentence_is_quoted():
    assert quoted("a\n") == repr("a\n")
    assert quoted("x" * 30, 4) == "'xxx…'"


def test_sites_are_named():
    assert [site_name(site) for site in (3, "final")] == ["block 3", "the final site"]
