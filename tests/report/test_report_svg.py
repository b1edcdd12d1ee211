"""The charts' geometry: ticks, label spreading, and points where the data says."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunus.report import svg


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0.0, 8.0, [0.0, 2.0, 4.0, 6.0, 8.0]),
        (0.12, 0.9, [0.2, 0.4, 0.6, 0.8]),
        (3.0, 3.0, [3.0]),
    ],
)
def test_ticks_are_round_numbers_inside(low, high, expected):
    assert svg.ticks(low, high) == pytest.approx(expected)


def test_whole_ticks_never_fall_between_epochs():
    assert svg.ticks(0.5, 2.5, 10, whole=True) == [1.0, 2.0]


@given(st.lists(st.floats(0, 200), min_size=1, max_size=10))
def test_spread_labels_keep_order_and_distance_where_they_fit(wanted):
    placed = svg.spread(wanted, 15.0, 0.0, 200.0)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gaps = [placed[b] - placed[a] for a, b in pairwise(order)]
    assert all(gap >= 15.0 - 1e-9 for gap in gaps)
    assert all(-1e-9 <= place <= 200 + 1e-9 for place in placed)


def test_points_lie_where_the_axes_say():
    chart = svg.Chart("t", "x", (svg.Series("a", ((0.0, 0.0), (1.0, None), (2.0, 1.0))),), str, str, y_floor=0.0)
    drawing = svg.draw(chart)
    dots = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawing)]
    assert len(dots) == 2
    assert dots[0] == (svg.LEFT, chart.height - svg.BOTTOM)
    assert dots[1][0] > dots[0][0]
    assert dots[1][1] < dots[0][1]


def test_a_chart_without_points_is_empty():
    assert svg.draw(svg.Chart("t", "x", (svg.Series("a", ((0.0, None),)),), str, str)) == ""
