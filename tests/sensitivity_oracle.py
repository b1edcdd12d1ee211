"""The naive loop as a judge: every number of an analysis must be its number, bit for bit."""

from __future__ import annotations

import struct
import warnings

import torch
from torch import nn

from prunus.criteria import criterion
from prunus.granularity import find_targets
from prunus.sensitivity import perform_sensitivity_analysis
from prunus.sensitivity.cells import Cell, Cutter
from prunus.sensitivity.naive import measure
from prunus.statistics import Statistics

LEVELS = (0.3, 0.7)


def bits(value: float) -> bytes:
    return struct.pack("d", value)


def naive_table(model, evaluate, granularity="element", levels=LEVELS, targets="*", graph=None):
    """(target, level) -> metrics, by one evaluation each."""
    cutter = Cutter(model, criterion("l1"), Statistics())
    chosen = find_targets(model, granularity, targets, graph)
    cells = [Cell(None, 0.0), *(Cell(target, level) for target in chosen for level in levels)]
    return {cell.key: measure(model, evaluate, cutter, cell) for cell in cells}


def table(curves):
    """(target, level) -> metrics, of curves."""
    found = {("", 0.0): dict(curves.dense)}
    for target in curves.table:
        for number, level in enumerate(curves.levels):
            found[target, level] = {metric: curves.values[metric][target][number] for metric in curves.values}
    return found


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for key, metrics in wanted.items():
        assert {k: bits(v) for k, v in found[key].items()} == {k: bits(v) for k, v in metrics.items()}, key


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}


def assert_untouched(model, before):
    for key, value in state(model).items():
        assert torch.equal(value.reshape(-1).view(torch.uint8), before[key].reshape(-1).view(torch.uint8)), key
    assert "forward" not in model.__dict__


def check(model: nn.Module, evaluate, *, reason: str | None = None, levels=LEVELS, **options) -> None:
    """Analyse and compare with the naive loop; a fallback must be said for this reason, or not be needed."""
    before = state(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        curves = perform_sensitivity_analysis(model, evaluate, levels=levels, **options)
    said = [str(w.message) for w in caught if str(w.message).startswith("sensitivity of")]
    if reason is None:
        assert not said, said
    else:
        assert any(reason in text for text in said), said
    assert_untouched(model, before)
    assert_same(table(curves), naive_table(model, evaluate, levels=curves.levels, **options))


def judge(*batches, target=None):
    """An evaluation of one's own: sums of the outputs' sines, sensitive to every bit."""

    @torch.no_grad()
    def evaluate(model):
        model.eval()
        total, largest = 0.0, 0.0
        for batch in batches:
            output = model(*batch) if isinstance(batch, tuple) else model(batch)
            output = output if isinstance(output, torch.Tensor) else output[0]
            total += float(output.double().sin().sum())
            largest = max(largest, float(output.abs().max()))
        return {"total": total, "largest": largest}

    return evaluate


def batch(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


class Net(nn.Module):
    """Two linear layers; what is done between them is the test's."""

    def __init__(self, between=torch.relu):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("count", torch.zeros(6))
        self.between, self.kept = between, None

    def forward(self, x):
        return self.b(self.between(self, self.a(x)) if self.between is not torch.relu else torch.relu(self.a(x)))


@torch.no_grad()
def seeded(model):
    torch.manual_seed(0)
    return sum(float(model(x).double().sin().sum()) for x in batch(3, 8, 6))
