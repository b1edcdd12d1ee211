"""Capture leaves the model as it was."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from axes.proving import Net, conv, generic_, images, removal
from prunus.axes import trace
from prunus.axes.capture import capture
from prunus.plans import Plan, record_of


class Hooking(nn.Module):
    """Hangs a hook on its layer at the first forward, and notes that it has, as transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.hooked, self.seen = False, []

    def forward(self, x: Tensor) -> Tensor:
        if not self.hooked:
            self.a.register_forward_hook(lambda *_: self.seen.append(1))
            self.hooked = True
        self.seen.clear()
        y = self.b(self.a(x))
        assert len(self.seen) == 1
        return y


def test_hooks_that_a_forward_hangs_on_go_with_the_note_of_them() -> None:
    model = Hooking()
    trace(model, torch.randn(2, 4))
    assert not model.hooked
    assert not model.a._forward_hooks
    model(torch.randn(2, 4))


def test_statistics_of_batches_stay_where_a_model_cannot_train_on_its_example() -> None:
    squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))  # one value per channel
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), squeeze)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trace(model, torch.randn(1, 3, 6, 6))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_averages_over_all_batches_stay_while_training_is_captured_and_the_graph_is_proved() -> None:
    """What counts its batches reads a value, so export gives up and the example runs: on copies of the buffers."""
    parts = {"c": conv(3, 8), "b": nn.BatchNorm2d(8, momentum=None), "e": nn.Linear(288, 4)}
    model: nn.Module = generic_(Net(lambda s, x: s.e(s.b(s.c(x)).relu().view(2, -1, 36).reshape(2, 288)), **parts))
    for left in (4, 2):
        before = copy.deepcopy(model.state_dict())
        trained = capture(model, images(), training=True)
        assert trained.concrete
        graph = trace(model, images())
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        model = Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model)
        assert model.get_parameter("c.weight").shape[0] == left
        record = record_of(model)
        assert record is not None
        assert record.proof is not None
        assert max(record.proof.max_rel, record.proof.generic) < 1e-14
        assert record.form == "graph"
