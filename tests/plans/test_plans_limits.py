"""What is known not to hold yet: each test states the promise, its mark the reason; and what files must remember."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune as torch_prune

from axes.proving import Net, conv, generic_, images, removal
from prunus.axes import trace
from prunus.errors import ProofError, PrunusError
from prunus.plans import Plan, load, save
from prunus.plans.proof import distances


def half(model: nn.Module, x: Tensor, **kwargs: Any) -> nn.Module:
    graph = trace(model, x)
    return Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model, **kwargs)


class Versioned(nn.Conv2d):
    """Like torchvision's MNASNet: refuses a state dict that does not say which version wrote it."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: dict[str, Any], *rest: Any) -> None:
        if metadata.get("version") != 2:
            raise ValueError("no version")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_modules_that_ask_for_their_version_load(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(Versioned(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))

    small = half(build(), images()).eval()
    assert torch.equal(load(save(small, tmp_path / "m.prunus"), build)(images()), small(images()))


def test_head_that_runs_in_training_alone_still_fits() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.c(x)
        return self.e(self.d(y)) + (self.aux(y) if self.training else 0)

    model = Net(forward, c=conv(3, 8), d=conv(8, 8), aux=conv(8, 4), e=conv(8, 4))
    small = half(generic_(model), images()).train()
    small(images())
    assert (small.c.out_channels, small.d.out_channels) == (8, 4)


def test_what_training_reads_stays_where_values_decide_what_runs() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.c(x)
        if self.training and bool(y.isfinite().all()):
            y = y * self.gate  # a constant of the model, as wide as y
        return self.e(self.d(y))

    model = Net(forward, c=conv(3, 8), d=conv(8, 8), e=conv(8, 4))
    model.__dict__["gate"] = torch.ones(8, 1, 1)
    small = half(generic_(model), images()).train()
    small(images())
    assert (small.c.out_channels, small.d.out_channels) == (8, 4)


def test_model_pruned_by_torch_is_thinned_or_refused_in_our_words() -> None:
    model = Net(lambda s, x: s.e(s.c(x)), c=conv(3, 8), e=conv(8, 4))
    torch_prune.l1_unstructured(model.c, "weight", amount=0.5)
    try:
        half(model, images())
    except PrunusError:
        return


def test_tie_by_shared_memory_survives() -> None:
    model = Net(lambda s, x: s.b(s.a(x)), a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    first = Net(lambda s, x: s.e(s.m(s.k(x))), k=nn.Linear(4, 8), m=model, e=nn.Linear(8, 4))
    model.b.weight.data = model.a.weight.data
    small = half(generic_(first), torch.randn(2, 4), inplace=True)  # a deepcopy unties such memory by itself
    assert small.m.a.weight.data_ptr() == small.m.b.weight.data_ptr()


def test_forward_that_is_random_in_eval_mode_is_named_as_that() -> None:
    """functional.dropout trains by default, whatever the module does."""
    model = generic_(Net(lambda s, x: s.b(functional.dropout(s.a(x))), a=nn.Linear(4, 8), b=nn.Linear(8, 4)))
    with pytest.raises(ProofError, match=r"other outputs each time it runs in eval mode.*functional\.dropout"):
        half(model, torch.randn(2, 4))


def test_numbers_drawn_beside_the_units_do_not_hinder_the_proof() -> None:
    model = generic_(Net(lambda s, x: s.b(s.a(x[torch.randperm(2)])), a=nn.Linear(4, 8), b=nn.Linear(8, 4)))
    before = torch.random.get_rng_state()
    assert half(model, torch.randn(2, 4, generator=torch.Generator())).a.out_features == 4
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rounding_that_a_deep_model_amplifies_is_no_difference_and_a_wrong_index_still_is() -> None:
    """Thirty-four steps of the logistic map: the last bit of a weight moves the output by more than 1e-10."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.b(torch.tanh(self.a(x))))
        for _ in range(34):
            y = 3.9 * y * (1 - y)
        return y

    model = generic_(Net(forward, a=nn.Linear(4, 64), b=nn.Linear(64, 3)))
    graph = trace(model, torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    plan = Plan.from_pruned(graph, removal(graph, 0.5, 0))
    proof, form = plan.prove(model)
    assert form == "class"
    assert proof.passed
    assert 1e-10 < proof.tolerance < 1e-5


def test_each_output_is_held_to_its_own_scale() -> None:
    """Boxes of 500 beside scores of 1e-9: a wrong score must not hide behind the boxes."""
    boxes, scores = torch.full((3,), 500.0, dtype=torch.float64), torch.full((3,), 1e-9, dtype=torch.float64)
    assert distances([boxes, scores], [boxes, 1.5 * scores]) == pytest.approx([0.0, 0.5])
    assert distances([boxes, 0 * scores], [boxes, scores]) == pytest.approx([0.0, 1e-9 / 500])
    assert distances([boxes], [boxes, scores]) == [float("inf")]


def test_an_output_that_is_all_rounding_does_not_hinder_the_proof() -> None:
    def forward(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.b(torch.tanh(self.a(x)))
        return y, (y + 1.1) - y - 1.1  # zero, but for the last bits

    model = generic_(Net(forward, a=nn.Linear(4, 64), b=nn.Linear(64, 3)))
    graph = trace(model, torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    proof, _ = Plan.from_pruned(graph, removal(graph, 0.5, 0)).prove(model)
    assert proof.passed
    assert proof.max_rel <= 1e-10
