"""The reward `number`: what the last number of a text is, and GSM8K under it."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from valuegrad.rewards.number import last_number, number, readable
from valuegrad.tasks.jsonl import jsonl_task

# GSM8K's test split (Cobbe et al. 2021), MIT licence beside it.
GSM8K = Path(__file__).parents[1] / "data" / "gsm8k" / "test.jsonl"
# Problems of our own in its format.
ROWS = [
    ("A box holds 4 rows of 6 eggs. How many eggs?", "4 rows of 6 are 4*6=<<4*6=24>>24.\n#### 24"),
    ("A car of $21,500 loses $1,500. What is it worth?", "<<21500-1500=20000>>\n#### 20,000"),
    ("It was 3 degrees and fell by 8. What is it?", "3-8=<<3-8=-5>>-5.\n#### -5"),
    ("Half of 5 pies is how many?", "5/2=<<5/2=2.5>>2.5 pies.\n#### 2.5"),
    ("All 12 of 12 seats are taken. How many are free?", "12-12=<<12-12=0>>0\n#### 0"),
    ("A shop sells a $40 coat at 20% off. The price?", "40*.8=<<40*.8=32>>32 dollars\n#### $32"),
]


def rows_of_gsm8k():
    return [json.loads(line) for line in GSM8K.read_text("utf-8").splitlines()]


def ours():
    return [{"question": q, "answer": a} for q, a in ROWS]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", "18"),
        ("#### 18", "18"),
        ("It is 18.", "18"),
        ("12 or 13", "13"),
        ("so 7!", "7"),
        ("$18", "18"),
        ("US$1,234.50.", "1234.5"),
        (r"\$18", "18"),
        (r"1{,}234", "1234"),
        ("50%", "50"),
        (r"50\%", "50"),
        ("5 kg", "5"),
        ("5kg", "5"),
        ("1,000,000", "1000000"),
        ("3.0", "3"),
        (".5", ".5"),
        ("-.5", "-.5"),
        ("and so...5", "5"),
        ("v1.2.3", "3"),
        ("12,3456", "3456"),
        ("1,2", "2"),
        ("(1, 2, 3)", "3"),
        ("007", "7"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("x=-5", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("(-5)", "-5"),
        ("**-5**", "-5"),
        ("+5", "5"),
        ("16 - 3", "3"),
        ("16-3", "3"),
        ("x-3", "3"),
        ("(2)-3", "3"),
        ("$16-$3", "3"),
        ("10%-3", "3"),
        ("3–5", "5"),
        ("- 5", "5"),
        ("--5", "5"),
        ("1/2", "1/2"),
        ("-1/2", "-1/2"),
        ("2 1/2", "5/2"),
        ("-2 1/2", "-5/2"),
        ("1.5/2", "3/4"),
        (r"\frac{1}{2}", "1/2"),
        (r"-\dfrac{3}{4}", "-3/4"),
        (r"2\frac{1}{2}", "5/2"),
        ("9/11/2001", "2001"),
        ("1/0", "0"),
        ("0/0", "0"),
        ("10:30", "30"),
        ("2/4.", "1/2"),
        ("2e3", "2000"),
        ("2.5e-3", "1/400"),
        ("2e3x", "3"),
        ("1E2", "100"),
        ("none", None),
        ("", None),
        ("x - y.", None),
        ("about ½", "1/2"),
        ("1½ cups", "3/2"),
        ("-2 ¼", "-9/4"),
        ("so 12 500", "12500"),
        ("12\u00a0500 km", "12500"),
        ("1\u2009250\u2009000", "1250000"),
        ("12 500,75 EUR", "12500.75"),
        ("7'250.5", "7250.5"),
        ("7’250", "7250"),
        ("25_000", "25000"),
        (r"25\,000", "25000"),
        (r"25,\!000", "25000"),
        ("2.500.000", "2500000"),
        ("2.500,5", "2500.5"),
        ("₹2,50,000", "250000"),
        ("２５", "25"),
        ("２，５００", "2500"),
        ("٢٥", "25"),
        ("२५.५", "25.5"),
        ("it is –25", "-25"),
        ("it is ‑25.5", "-25.5"),
        (r"\frac38", "3/8"),
        (r"\tfrac{3}8", "3/8"),
        (r"\frac{-3}{8}", "-3/8"),
        ("2.5 × 10^3", "2500"),
        (r"2.5 \times 10^{-3}", "1/400"),
        ("2.5·10⁴", "25000"),
        ("5³", "125"),
        ("10⁻²", "1/100"),
        # No thousands: a list, a year beside a number, decimals.
        ("4 5 600", "600"),
        ("in 2024 300", "300"),
        ("3 125/1000", "25/8"),
        ("2.500", "2.5"),
        ("12,50", "50"),
    ],
)
def test_the_last_number_of_a_text(text, value):
    assert last_number(text) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "25",
            "#### 2,500",
            "25 kg",
            "$25",
            "25%",
            "–25",
            "½",
            "x = 25",
            "2 * 5 = 10",
            "it is 5.",
        ),
        *("25\u00a0000", "7'250", r"\frac38", "٢٥", "2\n3 apples\n#### 6", r"\boxed{25}", "1e3"),
    ],
)
def test_answers_that_are_one_number(answer):
    assert readable(answer)


@pytest.mark.parametrize(
    "answer",
    [
        *("", "blue", "25 000", "2, 3", "2 or 3", "2,3", "(2,3)", "12,50", "2-3", "2–3", "16:45"),
        *("24/12/1999", "v1.2.3", "10^2", "2*3", "2 + 3", "2.5 million", "5/0", "1e5000", "7 [2]"),
    ],
)
def test_answers_whose_last_number_is_a_part_of_them(answer):
    assert not readable(answer)


def test_values_are_compared_exactly_whatever_their_length():
    long = "7" * 9000
    assert number(
        [long, long[:-1] + "8", "0.1", "0.30000000000000004"], [long, long, "1/10", "0.3"]
    ) == [1, 0, 1, 0]
    assert last_number("1e999") == Fraction(10) ** 999
    assert number([f"{long} 1/2"], [f"{long}.5"]) == [1]


def test_no_text_takes_long():
    # Quadratic time would be minutes for these.
    for text in (
        "1" * 50_000,
        "1 " * 50_000,
        "1/" * 50_000,
        "-" * 50_000,
        "1.1" * 20_000,
        "1 000" * 9_999,
        "½" * 9_999,
    ):
        last_number(text)


def perturbed(value):
    """Numbers that are not this one, as a model would write them."""
    others = {value + 1, value - 1, 10 * value + 1, -value, value + Fraction(1, 10), value / 2}
    return [f"{float(v):.10g}" for v in others if v != value]


@pytest.mark.parametrize("rows", [ours, rows_of_gsm8k], ids=["ours", "gsm8k"])
def test_right_answers_score_1_and_others_0(rows):
    rows = rows()
    golds = [row["answer"] for row in rows]
    finals = [gold.split("####")[-1].strip().strip("$") for gold in golds]
    assert number(golds, golds) == [1.0] * len(rows)
    assert all(map(readable, golds))
    values = [Fraction(final.replace(",", "")) for final in finals]
    spellings = {
        "{0}": finals,
        "The answer is {0}.": finals,
        "so 3 * 4 + 1 = ${0} in total.": finals,
        "that makes {0} dollars": [f"{float(v):,.2f}" for v in values],
        r"thus \boxed{{{0}}}": [f"{v.numerator}/{v.denominator}" for v in values],
        "{0}%": [f"{float(v):g}" if abs(v) < 10**5 else str(v) for v in values],
    }
    right = 0
    for form, numbers in spellings.items():
        rewards = number([form.format(n) for n in numbers], golds)
        assert rewards == [1.0] * len(rows), form
        right += len(rewards)
    wrong = 0
    for gold, value in zip(golds, values, strict=True):
        head = gold.split("####")[0]
        texts = [f"{head}#### {other}" for other in perturbed(value)]
        assert number(texts, [gold] * len(texts)) == [0.0] * len(texts)
        wrong += len(texts)
    assert number([""] * len(rows), golds) == [0.0] * len(rows)
    expected = (6, 36, 33) if rows == ours() else (1319, 7914, 7877)
    assert (len(rows), right, wrong) == expected


def test_gsm8k_as_a_task():
    rows = rows_of_gsm8k()
    task = jsonl_task(
        GSM8K,
        prompt_field="question",
        reward="number",
        prompt_template="Question: {prompt}\nAnswer:",
    )
    examples = task.train + task.evaluation
    assert len(examples) == len({row["question"] for row in rows}) == 1319
    assert task.reward(examples, [e.answer for e in examples]) == [1.0] * 1319
    assert all(e.prompt.startswith("Question: ") for e in examples)
