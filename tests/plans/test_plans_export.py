"""A thinned model, in the user's class or as a graph, goes wherever a model goes, and trains as the class would."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from axes.proving import assert_same, conv, generic_, images, outputs, removal
from prunus.axes import trace
from prunus.plans import GraphModel, Plan
from prunus.runtimes import export_onnx


class Mixed(nn.Module):
    """Convolution, norms, dropout, attention, a buffer that no file holds; `literal` makes only a graph fit."""

    def __init__(self, literal: bool) -> None:
        super().__init__()
        self.c, self.b, self.drop = conv(3, 8), nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.q, self.k, self.v, self.p = (nn.Linear(8, 8) for _ in range(4))
        self.e, self.literal = nn.Linear(8, 4), literal
        self.register_buffer("scale", torch.linspace(1, 2, 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.b(self.c(x)).relu()).flatten(2).transpose(1, 2) * self.scale
        q, k, v = (part(y).unsqueeze(1) for part in (self.q, self.k, self.v))
        z = self.p(nn.functional.scaled_dot_product_attention(q, k, v, scale=0.5).squeeze(1))
        return self.e(z.reshape(-1, 36, 8) if self.literal else z).mean(1)


def planned(model: nn.Module) -> Plan:
    graph = trace(model, images())
    return Plan.from_pruned(graph, removal(graph, 0.5, 0))


def thinned(form: str) -> nn.Module:
    model = generic_(Mixed(form == "graph")).eval()
    small = planned(model).apply(model)
    assert isinstance(small, GraphModel) == (form == "graph")
    assert small.c.weight.shape == (4, 3, 3, 3)
    return small


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def exported(model: nn.Module, **kwargs: Any) -> Callable[[Tensor], Tensor]:
    return torch.export.export(model, (images(),), **kwargs).module()


def dynamic(model: nn.Module) -> Callable[[Tensor], Tensor]:
    batch = {0: torch.export.Dim("batch", min=2)}
    # a graph takes `*args`, so that torch wants its positional arguments as one tuple
    return exported(model, dynamic_shapes=((batch,),) if isinstance(model, GraphModel) else (batch,))


def compiled(model: nn.Module, **kwargs: Any) -> Callable[[Tensor], Tensor]:
    torch.compiler.reset()
    return torch.compile(model, backend="eager", fullgraph=True, **kwargs)


WAYS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved,
    "export": exported,
    "strict export": lambda model: exported(model, strict=True),
    "export of any batch": dynamic,
    "compile": compiled,
    "compile of any batch": lambda model: compiled(model, dynamic=True),
    "jit.trace": lambda model: torch.jit.trace(model, images()),
}
ONE_BATCH = ("export", "strict export")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ["class", "graph"])
@pytest.mark.parametrize("way", WAYS)
def test_same_outputs_by_every_way_out(way: str, form: str) -> None:
    model = thinned(form)
    other = WAYS[way](model)
    torch.testing.assert_close(other(images()), model(images()))
    if way not in ONE_BATCH:
        x = torch.randn(5, 3, 6, 6)
        torch.testing.assert_close(other(x), model(x))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="inductor needs a compiler")
@pytest.mark.skipif(sys.platform == "win32", reason="inductor's flags are another compiler's")
@pytest.mark.parametrize("form", ["class", "graph"])
def test_inductor_compiles_it(form: str) -> None:
    model = thinned(form)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(images()), model(images()))


@pytest.mark.parametrize("form", ["class", "graph"])
def test_onnx_runtime_computes_the_same(form: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert export_onnx(thinned(form), images(), path=tmp_path / "m.onnx").max_rel < 1e-5


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copy_of_a_graph_shares_no_tensor_and_no_flag_with_it(way: str) -> None:
    model = thinned("graph")
    other = WAYS[way](model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.train()
    assert model(images()).abs().max() > 0
    assert not model.drop.training
    assert torch.equal(model(images()), model(images()))


def test_compiled_graph_follows_train_and_eval() -> None:
    model = thinned("graph")
    fast = compiled(model)
    assert torch.equal(fast(images()), fast(images()))
    model.train()
    assert not torch.equal(fast(images()), fast(images()))  # dropout
    model.eval()
    torch.testing.assert_close(fast(images()), model(images()))


class Normed(nn.Module):
    """A literal view, and a norm whose momentum is for the test to choose."""

    def __init__(self, momentum: float | None) -> None:
        super().__init__()
        self.c, self.b, self.e = conv(3, 8), nn.BatchNorm2d(8, momentum=momentum), nn.Linear(8 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.e(self.b(self.c(x)).relu().view(-1, 8 * 36))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_graph_trains_as_the_masked_class_does(momentum: float | None) -> None:
    """Same losses, same running statistics, same weights where both have them, over three steps."""
    model = generic_(Normed(momentum)).double().train()
    graph = trace(model, images().double())
    plan = Plan.from_pruned(graph, removal(graph, 0.5, 0))
    masked, small = plan.mask(model), plan.apply(model)
    assert isinstance(small, GraphModel)
    gone = {name: plan.mask(model).state_dict()[name] == 0 for name in model.state_dict()}
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (masked, small)]
    for step in range(3):
        x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step)).double()
        losses = []
        for net, optimizer in zip((masked, small), optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(net(x).square().mean())
            losses[-1].backward()
            optimizer.step()
        with torch.no_grad():
            for name, parameter in masked.named_parameters():
                parameter[gone[name]] = 0
        torch.testing.assert_close(losses[0], losses[1])
    kept = plan.kept["c"]
    for name in ("running_mean", "running_var"):
        want = getattr(masked.b, name)[kept]
        torch.testing.assert_close(getattr(small.b, name), want)
        assert not torch.allclose(want, getattr(model.b, name)[kept])
    assert int(small.b.num_batches_tracked) == int(masked.b.num_batches_tracked) == int(model.b.num_batches_tracked) + 3
    torch.testing.assert_close(small.c.weight, masked.c.weight[kept])


def test_flags_of_single_modules_reach_the_graph_and_work_there() -> None:
    """A frozen batch norm under a model that trains."""
    model = generic_(Mixed(True)).train()
    model.b.eval()
    small = planned(model).apply(model)
    assert isinstance(small, GraphModel)
    assert (small.training, small.b.training, small.drop.training) == (True, False, True)
    before = small.b.running_mean.clone()
    small(images())
    assert torch.equal(small.b.running_mean, before)
    small.drop.eval()
    assert torch.equal(small(images()), small(images()))


def test_graph_is_thinned_again() -> None:
    small = thinned("graph")
    plan = planned(small)
    smaller = plan.apply(small)
    assert smaller.c.weight.shape == (2, 3, 3, 3)
    assert_same(outputs(plan.mask(small), (images(),)), outputs(smaller, (images(),)))
