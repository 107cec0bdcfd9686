"""Where the credit goes: against autograd at every site and token, and what the command shows."""

import copy
import dataclasses
import json
import math
import re
from itertools import pairwise

import pytest
import torch
from tests import oracles
from tests.conftest import ARCHITECTURES, SITES

from valuegrad.cli.app import run
from valuegrad.errors import RunError
from valuegrad.report.trace_figures import label_positions, trace_chart
from valuegrad.report.trace_text import finding
from valuegrad.theory.trace import trace

PROMPT, COMPLETION = "label = 'B'\nanswer = '", "B'\n"
KEYS = {
    *("checkpoint", "prompt", "completion", "advantage", "tokens", "sites", "total", "immediate"),
    *("transported", "transport_share", "credit_share", "carried_share"),
}
ADVANTAGE = -1.75


@pytest.fixture
def traced(policy):
    return lambda name, **kwargs: trace(policy(name), PROMPT, COMPLETION, **kwargs)


def own_and_later(model, tokens, first, site, position):
    """Gradients of the position's own log-probability and of those after it, one by one."""
    shift = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    with oracles.shifted(model, {site: shift}, position):
        log_p = model(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(1)
    gradients = []
    for scorers in ((position,), range(position + 1, len(tokens) - 1)):
        terms = [
            ADVANTAGE * log_p[i, tokens[i + 1]] for i in scorers if first <= i + 1 < len(log_p)
        ]
        (gradient,) = torch.autograd.grad(
            sum(terms, shift.sum() * 0), shift, retain_graph=True, materialize_grads=True
        )
        gradients.append(gradient)
    return gradients


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_are_autograd_s_at_every_site_and_token(policy, traced, architecture):
    found = traced(architecture, advantage=ADVANTAGE)
    chosen = policy(architecture)
    tokens = chosen.tokenizer(PROMPT + COMPLETION)["input_ids"]
    first = len(chosen.tokenizer(PROMPT)["input_ids"])
    assert [t.token for t in found.tokens] == tokens
    assert [t.in_completion for t in found.tokens] == [i >= first for i in range(len(tokens))]
    assert found.sites == SITES
    for s, site in enumerate(SITES):
        for i in range(len(tokens)):
            own, later = own_and_later(chosen.model, tokens, first, site, i)
            size = (own + later).norm().item()
            slack = 1e-9 * (own.norm() + later.norm()).item()
            assert found.total[s, i].item() == pytest.approx(size, rel=0, abs=slack)
            assert found.immediate[s, i].item() == pytest.approx(
                own.norm().item(), rel=0, abs=slack
            )
            carried = found.transported[s, i].item()
            assert carried == pytest.approx(later.norm().item(), rel=0, abs=slack)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probabilities_are_the_model_s(policy, traced, architecture):
    found, chosen = traced(architecture), policy(architecture)
    ids = [t.token for t in found.tokens]
    assert math.isnan(found.tokens[0].logp)
    for i in range(1, len(ids)):
        p = oracles.distribution(chosen.model, ids[:i])[ids[i]]
        assert found.tokens[i].logp == pytest.approx(p.log().item(), abs=1e-10)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_must_be_zero_is(traced, architecture):
    found = traced(architecture)
    first = next(t.position for t in found.tokens if t.in_completion)
    assert not found.immediate[:, : first - 1].any()
    assert found.immediate[:, first - 1 : -1].all()
    assert not found.transported[-1].any()
    assert not found.total[:, -1].any()
    # Below the last block every token of the prompt is heard; the block's output hears none.
    assert found.transported[:2, : first - 1].all()
    assert not found.total[2:, : first - 1].any()
    assert float(found.carried_share[2]) < 1e-12


def test_sizes_grow_with_the_advantage_and_shares_do_not(traced):
    one, more = traced("olmo2"), traced("olmo2", advantage=-3.0)
    for name in ("total", "immediate", "transported"):
        # The last block's transported sizes are rounding alone.
        assert torch.allclose(getattr(more, name), 3 * getattr(one, name), rtol=1e-9, atol=1e-12)
    assert torch.allclose(more.credit_share, one.credit_share, rtol=1e-12, atol=0)
    assert torch.allclose(one.credit_share.sum(1), torch.ones(4, dtype=torch.float64))
    assert finding(more) == finding(one)


def test_some_sites_are_rows_of_all(traced):
    whole, some = traced("gpt2"), traced("gpt2", sites=["1", "embedding"])
    assert some.sites == (1, "embedding")
    assert torch.allclose(some.total, whole.total[[2, 0]], rtol=1e-12, atol=0)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_a_completion_is_drawn_token_by_token(policy, architecture):
    chosen = policy(architecture)
    ids = chosen.tokenizer(PROMPT)["input_ids"]
    generator, expected = torch.Generator().manual_seed(3), list(ids)
    for _ in range(6):
        p = oracles.distribution(chosen.model, expected)
        expected.append(int(torch.multinomial(p, 1, generator=generator)))
    found = trace(chosen, PROMPT, max_tokens=6, seed=3)
    assert [t.token for t in found.tokens] == expected
    assert found.completion == chosen.tokenizer.decode(expected[len(ids) :])


def test_a_drawn_completion_ends_at_a_stop_token_or_with_the_context(policy, monkeypatch):
    chosen = policy("qwen3")
    free = [t.token for t in trace(chosen, PROMPT, max_tokens=99).tokens]
    assert len(free) == chosen.context
    stop = free[-20]
    monkeypatch.setattr(chosen.model.generation_config, "eos_token_id", [stop])
    ended = [t.token for t in trace(chosen, PROMPT, max_tokens=99).tokens]
    start = len(chosen.tokenizer(PROMPT)["input_ids"])
    assert ended == free[: free.index(stop, start) + 1]


def test_the_tokens_texts_are_the_text(traced):
    found = traced("olmo2")
    assert "".join(t.text for t in found.tokens) == PROMPT + COMPLETION


def test_the_sentence_names_the_token_with_the_most_transported_credit(traced):
    found = traced("olmo2")
    best = max(found.tokens, key=lambda t: float(found.transported[1, t.position]))
    assert f"(token {best.position})" in finding(found)
    assert "at block 0;" in finding(found)
    alone = traced("olmo2", sites=["final"])
    assert finding(alone).startswith("Attention carries no credit to the final site")


def test_the_figure_names_as_many_tokens_as_fit_most_credit_first(policy):
    found = trace(policy("gpt2"), PROMPT, max_tokens=99)
    assert label_positions(found, cell=20.0) == list(range(48))
    named = label_positions(found, cell=4.0)
    assert min(b - a for a, b in pairwise(named)) == 3
    credit = found.credit_share.sum(0)
    assert int(credit.argmax()) in named
    for i in range(48):
        assert any(abs(i - j) < 3 and credit[j] >= credit[i] for j in named)


def test_the_figure_draws_what_is_there_in_three_panels(traced):
    found = traced("llama")
    drawn = trace_chart(found).to_dict()
    assert drawn["title"]["text"] == finding(found)
    assert len(drawn["vconcat"]) == 3
    rows = max(drawn["datasets"].values(), key=len)
    assert len(rows) == int((found.total > 0).sum())
    for row in rows:
        s = [str(site) for site in SITES].index(row["site"].removeprefix("block "))
        expected = found.total[s, row["position"]] / found.total[s].sum()
        assert row["total_share"] == pytest.approx(expected.item(), rel=1e-12)
        parts = row["immediate_share"] + row["transported_share"]
        assert parts >= row["total_share"] * (1 - 1e-5)


def test_the_command_prints_one_document_and_writes_the_figure(checkpoint, tmp_path, capsys):
    folder, out = str(checkpoint("olmo2")), tmp_path / "t"
    words = ["trace", folder, "--prompt", PROMPT, "--completion", COMPLETION]
    assert run([*words, "--json", "--out", str(out), "--dtype", "float64"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) >= KEYS
    assert document == json.loads((out / "trace.json").read_text())
    assert {p.name for p in out.iterdir()} == {f"trace.{x}" for x in ("json", "svg", "png", "html")}
    count = len(document["tokens"])
    assert set(document["tokens"][0]) == {"position", "token", "text", "logp", "in_completion"}
    assert document["tokens"][0]["logp"] is None
    for name in ("total", "immediate", "transported", "transport_share"):
        assert [len(row) for row in document[name]] == [count] * 4
    svg = (out / "trace.svg").read_text()
    for text in ("label", "␣=", "⏎", "embedding", "final"):
        assert f">{text}</text>" in svg
    assert "Attention carries" in (out / "trace.html").read_text()


def test_the_command_prints_a_table(checkpoint, capsys):
    folder = str(checkpoint("gpt2"))
    words = ["trace", folder, "--prompt", PROMPT, "--max-tokens", "3", "--site", "0,final"]
    assert run(words) == 0
    printed = capsys.readouterr().out
    assert "label" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert run(words) == 0
    assert capsys.readouterr().out == printed
    assert "Of " not in printed
    assert run(["trace", folder, "--prompt", PROMPT, "--max-tokens", "99"]) == 0
    printed = capsys.readouterr().out
    assert "Of 48 tokens the 40 with the most credit at block 0" in " ".join(printed.split())
    assert sum(line.startswith("→") for line in printed.splitlines()) <= 40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--prompt"),
        (["--prompt", ""], "prompt: got '' of 0 tokens; wanted 1 to 47"),
        (["--prompt", "x" * 48], "prompt: got .* of 48 tokens; wanted 1 to 47"),
        (["--prompt", "x", "--completion", ""], "completion: got ''; wanted at least one token"),
        (["--prompt", "x", "--completion", "x" * 48], "completion: got 48 tokens .* at most 47"),
        (["--prompt", "la", "--completion", "bel"], "completion: got 'bel', which merges"),
        (["--prompt", "x", "--site", "9"], "site: got '9'; wanted one of embedding, 0, 1, final"),
        (["--prompt", "x", "--advantage", "0"], r"advantage: got 0\.0"),
        (["--prompt", "x", "--advantage", "inf"], "advantage: got inf"),
        (["--prompt", "x", "--max-tokens", "0"], "--max-tokens: got 0; wanted 1 or more"),
        (["--prompt", "x", "--dtype", "int4"], "dtype: got 'int4'"),
        (["--prompt", "x", "--out", "{}/config.json"], "--out: got .*a file; wanted a folder"),
    ],
)
def test_a_wrong_request_leaves_with_2_and_one_message(words, message, checkpoint, capsys):
    folder = str(checkpoint("olmo2"))
    assert run(["trace", folder, *(word.format(folder) for word in words)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(message, printed.err), printed.err


def test_a_pattern_of_several_checkpoints_is_refused(checkpoint, tmp_path, capsys):
    for i, name in enumerate(("olmo2", "gpt2")):
        (tmp_path / f"step{i}").symlink_to(checkpoint(name))
    assert run(["trace", str(tmp_path / "step*"), "--prompt", "x"]) == 2
    assert "2 checkpoints (step0, step1 …); wanted one checkpoint" in capsys.readouterr().err


def test_costates_that_are_not_finite_are_told_with_their_place(policy):
    chosen = dataclasses.replace(
        policy("llama", "float32"), model=copy.deepcopy(policy("llama", "float32").model)
    )
    with torch.no_grad():
        chosen.model.get_output_embeddings().weight.mul_(1e38)
    with pytest.raises(RunError, match=r"a costate that is not finite at site embedding, token 0"):
        trace(chosen, "label", " = total")
