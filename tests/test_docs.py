"""docs/theory.md against the code: every file is there and names its equation, names resolve."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest

import valuegrad
from valuegrad.theory.verify import verify

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "valuegrad"
NUMBER = r"(?:\d+|[A-H]\b)"
LABEL = re.compile(
    rf"\b(Eq|Prop|Def|Thm|Theorem|Lemma|Corollary|[Cc]orrection)s?\.? "
    rf"({NUMBER}(?:(?:, | and | to |–){NUMBER})*)"
)


def labels(text):
    """The equations and statements that a text names, ranges written out."""
    found = set()
    for kind, numbers in LABEL.findall(text):
        kind = {"Theorem": "Thm"}.get(kind, kind.capitalize())
        for part in re.split(", | and ", numbers):
            first, *last = re.split(" to |–", part)
            end = last[0] if last else first
            if first.isdigit():
                found |= {(kind, str(n)) for n in range(int(first), int(end) + 1)}
            else:
                found |= {(kind, chr(n)) for n in range(ord(first), ord(end) + 1)}
    return found


def rows():
    """Every row of a table with a column of files, its cells by the table's own headings."""
    headings = None
    for line in (ROOT / "docs" / "theory.md").read_text().splitlines():
        if not line.startswith("|"):
            headings = None
        elif headings is None:
            headings = [cell.strip() for cell in line.strip("|").split("|")]
        elif not line.startswith("|---"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == len(headings), line
            yield dict(zip(headings, cells, strict=True))


ROWS = list(rows())
INDEX = [row for row in ROWS if "statement" in row]
VERIFIED, ORACLE = "in `verify`", "oracle in `tests/`"


def code(cell):
    return re.findall("`([^`]+)`", cell)


def results():
    """The public classes: what functions of the package return."""
    public = (getattr(valuegrad, name) for name in valuegrad.__all__)
    return [x for x in public if inspect.isclass(x)]


def has(owner, name):
    fields = {f.name for f in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else ()
    return name in fields or hasattr(owner, name)


def test_the_tables_are_found_and_each_has_files():
    assert len(ROWS) > 60
    assert [row for row in ROWS if not code(row["file"])] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row.values())[:50])
def test_files_exist_and_name_their_equations_at_once(row):
    paths = [SOURCE / name for name in code(row["file"])]
    assert [path for path in paths if not path.is_file()] == []
    first_lines = "\n".join("\n".join(path.read_text().splitlines()[:3]) for path in paths)
    asked = {k: v for k, v in row.items() if k not in ("file", VERIFIED, ORACLE)}
    assert labels(" ".join(asked.values())) <= labels(first_lines)


NAMES = [(name, row["file"]) for row in ROWS for name in code(row.get("name in the code", ""))]


@pytest.mark.parametrize(("name", "files"), NAMES)
def test_names_resolve(name, files):
    """A public name, with its arguments or what it returns; or an attribute of a public result."""
    match = re.fullmatch(r"(\w*)(?:\((.*)\))?(?:\.(\w+))?", name)
    assert match, name
    called, arguments, attribute = match.groups()
    owners = results()
    for file in code(files):
        module = importlib.import_module("valuegrad." + file.removesuffix(".py").replace("/", "."))
        owners += [
            x
            for x in vars(module).values()
            if inspect.isclass(x) and x.__module__.startswith("valuegrad")
        ]
    if called and (arguments is not None or called in valuegrad.__all__):
        function = getattr(valuegrad, called)
        wanted = [a.removesuffix("=").strip() for a in (arguments or "").split(",")]
        if arguments not in (None, "..."):
            assert set(wanted) <= set(inspect.signature(function).parameters)
    elif called:
        assert any(has(owner, called) for owner in owners), f"no result has {called}"
    if attribute:
        assert any(has(owner, attribute) for owner in owners), f"no result has .{attribute}"


@pytest.mark.parametrize("document", ["theory.md", "corrections.md"])
def test_files_that_the_text_cites_exist(document):
    text = (ROOT / "docs" / document).read_text()
    for cited in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|md))`", text):
        places = (SOURCE, ROOT, ROOT / "tests")
        assert any((place / cited).is_file() for place in places), cited


def test_ranges_and_lists_of_labels_are_written_out():
    found = labels("Eqs. 24 to 26, Prop. 2 (Def. 2, Eq. 14) corrections A to C, Props. 3 and 4")
    assert found == {
        *(("Eq", n) for n in ("24", "25", "26", "14")),
        *(("Prop", n) for n in ("2", "3", "4")),
        ("Def", "2"),
        *(("Correction", n) for n in "ABC"),
    }


def test_every_correction_is_in_the_index():
    text = (ROOT / "docs" / "corrections.md").read_text()
    letters = set(re.findall(r"^\*\*([A-H])\. ", text, re.MULTILINE))
    indexed = labels(" ".join(row["statement"] for row in INDEX))
    assert letters == {number for kind, number in indexed if kind == "Correction"}


def test_every_source_of_verify_is_in_the_index_and_every_one_there_is_a_source(policy):
    sources = {statement.source for statement in verify(policy("gpt2"))}
    named = [re.findall('"([^"]+)"', row[VERIFIED].replace('`"final"`', "")) for row in INDEX]
    assert {source for row in named for source in row} == sources
    for row, given in zip(INDEX, named, strict=True):
        assert given or row[VERIFIED].startswith("–"), row
    corrections = (ROOT / "docs" / "corrections.md").read_text()
    shown = re.findall(r'"((?:Eq|Prop|Thm|Correction|Corollary|Lemma|Theory)\b[^"]*)"', corrections)
    assert len(shown) > 10
    assert set(shown) <= sources


def test_every_statement_of_the_index_has_an_oracle_in_the_tests():
    for row in INDEX:
        files = code(row[ORACLE])
        assert files, row
        assert all((ROOT / "tests" / name).is_file() for name in files), row


def test_every_statement_of_the_paper_is_in_the_index_or_said_to_state_nothing():
    text = (ROOT / "docs" / "theory.md").read_text()
    closing = " ".join(text[text.index("What one model cannot show") :].split())
    found = labels(" ".join(row["statement"] for row in INDEX)) | labels(closing)
    assert {int(number) for kind, number in found if kind == "Eq"} == set(range(1, 32))
    for kind, numbers in {"Prop": "123", "Def": "12", "Lemma": "1", "Thm": "1"}.items():
        assert {number for k, number in found if k == kind} == set(numbers)
    assert ("Corollary", "1") in found
