"""The commands that check the theory: what holds, and what --out keeps."""

import json
import shutil

from valuegrad.cli.app import run
from valuegrad.theory.statement import inequality
from valuegrad.theory.verify import PARTS


def test_verify_prints_every_statement_and_what_holds(checkpoint, tmp_path, capsys):
    folder = str(checkpoint("gpt2"))
    assert run(["verify", folder, "--json", "--out", str(tmp_path / "v")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == json.loads((tmp_path / "v" / "verify.json").read_text())
    keys = {"name", "source", "left", "right", "error", "holds", "slack", "form"}
    assert all(set(row) >= keys for row in rows)
    assert all(row["holds"] for row in rows if row["form"] == "corrected")
    assert run(["verify", folder]) == 0
    assert "0 fail; of 5 forms as in the paper 5 fail here" in capsys.readouterr().out


def test_verify_leaves_with_1_where_a_corrected_statement_fails(checkpoint, capsys, monkeypatch):
    def wrong(case):
        yield inequality("two ≤ one", "arithmetic", 2.0, 1.0)

    monkeypatch.setitem(PARTS, "Theorem 1", wrong)
    assert run(["verify", str(checkpoint("gpt2"))]) == 1
    assert "fails: two ≤ one (arithmetic)" in capsys.readouterr().err


def test_bound_ends_with_its_summary_and_draws(checkpoint, flags, tmp_path, capsys):
    folders = [str(checkpoint(name)) for name in ("olmo2", "gpt2")]
    words = ["bound", *folders, *flags[:2], "--examples", "3", "--positions", "2"]
    assert run([*words, "--json", "--out", str(tmp_path / "b")]) == 0
    *points, summary = json.loads(capsys.readouterr().out)
    assert {p["checkpoint"] for p in points} == set(folders)
    assert (summary["summary"], summary["points"], summary["violations"]) == (True, 12, 0)
    assert len({p["prompt"] for p in points}) == 3
    kinds = {path.name for path in (tmp_path / "b").iterdir()}
    assert kinds == {"bound.json", "bound.svg", "bound.png", "bound.html", "records"}
    assert run([*words, "--dtype", "float64"]) == 0
    assert "12 points, 0 violations" in capsys.readouterr().out


def test_bound_leaves_out_a_damaged_checkpoint_and_goes_on_where_it_stopped(
    checkpoint, flags, tmp_path, capsys
):
    for i, name in enumerate(("olmo2", "gpt2", "llama")):
        shutil.copytree(checkpoint(name), tmp_path / f"step{i}")
    weights = tmp_path / "step1" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    out = tmp_path / "out"
    words = ["bound", str(tmp_path / "step*"), *flags[:2], "--examples", "2", "--positions", "2"]
    words += ["--out", str(out), "--json"]
    assert run(words) == 1
    printed = capsys.readouterr()
    *points, _ = json.loads(printed.out)
    left = [str(tmp_path / f"step{i}") for i in (0, 2)]
    assert list(dict.fromkeys(p["checkpoint"] for p in points)) == left
    assert f"{tmp_path / 'step1'} failed and was left out" in printed.err
    weights.write_bytes(whole)
    assert run(words) == 0
    printed = capsys.readouterr()
    assert "2 results were in" in printed.err
    *again, _ = json.loads(printed.out)
    assert [p for p in again if p["checkpoint"] in left] == points
    assert len(list((out / "records").glob("bound-*"))) == 3
    assert run([*words, "--temperature", "2"]) == 0
    assert "already" not in capsys.readouterr().err
    assert len(list((out / "records").glob("bound-*"))) == 6
