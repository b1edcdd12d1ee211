"""Capture leaves the model as it was."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunus.axes import trace


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
