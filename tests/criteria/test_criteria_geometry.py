"""FPGM against cdist, and against the geometric median itself; its memory is bounded."""

import resource
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from criteria_tables import rows
from prunus.criteria import criterion, geometry
from prunus.statistics import Statistics


def fpgm(table):
    return criterion("fpgm").score(rows(table), Statistics())


def weiszfeld(points, steps=500):
    """The geometric median by its fixed-point iteration."""
    median = points.mean(0)
    for _ in range(steps):
        weights = 1 / (points - median).norm(dim=1).clamp(min=1e-12)
        median = (weights[:, None] * points).sum(0) / weights.sum()
    return median


def test_distances_by_hand():
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert fpgm(corners).tolist() == [7.0, 8.0, 9.0]


@pytest.mark.parametrize("chunk", [1, 100, 1 << 22])
def test_scores_are_row_sums_of_the_distance_matrix(chunk, monkeypatch):
    monkeypatch.setattr(geometry, "CHUNK", chunk)
    units = torch.randn(33, 12, dtype=torch.float64)
    expected = (units[:, None] - units[None]).square().sum(-1).sqrt().sum(1)
    torch.testing.assert_close(fpgm(units), expected)


@pytest.mark.parametrize("seed", range(5))
def test_the_filter_nearest_the_geometric_median_goes_first(seed):
    torch.manual_seed(seed)
    scattered = torch.nn.functional.normalize(torch.randn(40, 3, dtype=torch.float64), dim=1) * 5
    median = weiszfeld(scattered)
    units = torch.cat([scattered, median[None] + 0.01])
    assert int((units - weiszfeld(units)).norm(dim=1).argmin()) == 40
    assert int(fpgm(units).argmin()) == 40
    assert int(criterion("l2").score(rows(units + 9), Statistics()).argmin()) != 40


def test_size_alone_says_nothing():
    units = torch.randn(9, 4, dtype=torch.float64)
    torch.testing.assert_close(fpgm(units + 100), fpgm(units))


def test_nearly_equal_filters_are_told_apart_in_float32():
    units = 100 + torch.arange(4.0)[:, None] * 2**-10 * torch.ones(4, 9)
    assert fpgm(units).tolist() == pytest.approx([6 * 3 * 2**-10, 4 * 3 * 2**-10, 4 * 3 * 2**-10, 6 * 3 * 2**-10])


@given(st.lists(st.integers(-6, 6).map(lambda n: n / 4) | st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_single_weights_by_sorting_are_the_row_sums_and_equal_ones_are_equal(values):
    units = torch.tensor(values, dtype=torch.float64)[:, None]
    scores = fpgm(units)
    torch.testing.assert_close(scores, (units - units.T).abs().sum(1), atol=1e-9, rtol=1e-9)
    for value in set(values):
        assert len({scores[i].item() for i, v in enumerate(values) if v == value}) == 1


def test_a_million_single_weights_take_no_million_squared():
    assert fpgm(torch.randn(1_000_000, 1)).argmin().numel() == 1


ONE_BY_ONE = """
import torch
from prunus.criteria import criterion
from prunus.granularity import Piece, granularity
from prunus.statistics import Statistics
units = granularity("filter").units(torch.Size((60_000, 2)))
print(len(criterion("fpgm").score(Piece.of("w", torch.randn(60_000, 2), units), Statistics())))
"""


@pytest.mark.slow
def test_sixty_thousand_units_take_no_more_memory_than_few():
    """60 000² distances are 14 GB; the process may have 6."""
    limit = 6 << 30
    run = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "60000\n", run.stderr[-300:]
