"""Numbers in print."""

import math

import pytest

from valuegrad.report.numbers import (
    UNDEFINED,
    correlation_interval,
    duration,
    fixed,
    number,
    p_value,
    rank_interval,
    share,
)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (number(0.03452), "0.0345"),
        (number(-2.887e-06), "−2.89·10⁻⁶"),
        (number(123456.0), "1.23·10⁵"),
        (number(0.0), "0"),
        (fixed(0.917, sign=True), "+0.92"),
        (fixed(-0.5), "−0.50"),
        (fixed(-0.001), "0.00"),
        (share(0.598), "60%"),
        (share(0.0), "< 1%"),
        (share(0.999), "> 99%"),
        (share(1.0), "100%"),
        (p_value(0.0002), "< 0.001"),
        (p_value(0.0342), "0.034"),
        (rank_interval((1.0, 3.0)), "1 to 3"),
        (rank_interval((2.5, 2.5)), "2.5"),
        (correlation_interval((-0.5, 0.917)), "−0.50 to 0.92"),
        (duration(17.77), "17.8 s"),
        (duration(93.2), "1 min 33 s"),
        (duration(4000.0), "1 h 7 min"),
    ],
)
def test_a_number_is_written_for_reading(found, text):
    assert found == text


@pytest.mark.parametrize("write", [number, fixed, share, p_value])
def test_an_undefined_number_is_a_dash(write):
    assert write(math.nan) == UNDEFINED


@pytest.mark.parametrize("write", [rank_interval, correlation_interval])
def test_an_interval_with_an_undefined_end_is_a_dash(write):
    assert write((math.nan, 1.0)) == write((1.0, math.nan)) == UNDEFINED
