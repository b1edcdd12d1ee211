"""Numbers as text: literals worked out by hand, with the edges where rounding changes the unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.report import formats


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (formats.count, 912, "912"),
        (formats.count, 0, "0"),
        (formats.count, 1_234_567, "1.23 M"),
        (formats.count, 431_080, "431 k"),
        (formats.count, 999_700, "1.00 M"),
        (formats.count, 4_090_000_000, "4.09 G"),
        (formats.count, None, "not measured"),
        (formats.size, 45_100, "45.1 kB"),
        (formats.size, 17, "17 B"),
        (formats.joules, 1.5e-5, "15.0 µJ"),
        (formats.joules, 3.7e-12, "4 pJ"),
        (formats.milliseconds, 1.234, "1.23 ms"),
        (formats.milliseconds, 0.0042, "4.20 µs"),
        (formats.seconds, 93, "1 min 33 s"),
        (formats.seconds, 3725, "1 h 2 min"),
        (formats.ratio, 3.4, "3.40×"),
        (formats.ratio, 9.996, "10.0×"),
        (formats.percent, 0.9012, "90.12 %"),
        (formats.points, -0.0031, "−0.31 points"),
        (formats.points, 0.0031, "+0.31 points"),
        (formats.points, -0.00001, "±0.00 points"),
        (formats.signed, 0.0058, "+0.0058"),
        (formats.signed, -12.0, "−12"),
    ],
)
def test_a_number_reads_as_written_by_hand(show, value, text):
    assert show(value) == text


@given(st.floats(min_value=1e-6, max_value=1e15))
def test_three_digits_are_within_half_a_percent(value):
    assert float(formats.significant(value)) == pytest.approx(value, rel=5e-3)
