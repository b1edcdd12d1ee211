"""What the tests of axes and plans share: random weights, random removals, and a comparison of our own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes import Graph, trace
from prunus.plans import Plan


def generic_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every floating parameter and buffer random values, so that no shift is zero and no scale is one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                fan = max(1, tensor.shape[1:].numel()) if tensor.dim() > 1 else 1
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise / fan**0.5)
    return model


def removal(graph: Graph, ratio: float, seed: int) -> dict[str, Tensor]:
    """Choose random units of every group to go; groups that must stay equal lose equally many, experts stay."""
    generator = torch.Generator().manual_seed(seed)
    counts = {group.name: max(1, round(group.size * ratio)) for group in graph.groups if group.kind != "expert"}
    counts = {name: min(count, graph[name].size - 1) for name, count in counts.items()}
    for names in graph.equal:
        counts.update(dict.fromkeys(names, min(counts[n] for n in names)))
    pruned = {}
    for name, count in counts.items():
        flags = torch.zeros(graph[name].size, dtype=torch.bool)
        flags[torch.randperm(graph[name].size, generator=generator)[:count]] = True
        pruned[name] = flags
    return pruned


def outputs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> list[Tensor]:
    """Run a float64 copy in eval mode and return its tensors."""
    double = copy.deepcopy(model).double().eval()
    args, kwargs = pytree.tree_map(
        lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, (args, dict(kwargs or {}))
    )
    with torch.no_grad():
        return [t for t in pytree.tree_leaves(double(*args, **kwargs)) if isinstance(t, Tensor)]


def redrawn(args: Any, seed: int) -> Any:
    """Return inputs of the same kind with other values: the plan must hold beyond its examples."""
    generator = torch.Generator().manual_seed(seed)
    return pytree.tree_map(
        lambda x: torch.randn(x.shape, generator=generator) if isinstance(x, Tensor) and x.is_floating_point() else x,
        args,
    )


def assert_same(masked: list[Tensor], thinned: list[Tensor]) -> None:
    """Compare outputs to 1e-10 of the largest element, and make sure that there is something to compare."""
    assert masked
    assert [t.shape for t in masked] == [t.shape for t in thinned]
    assert max(float(t.double().abs().max()) for t in masked) > 0
    for a, b in zip(masked, thinned, strict=True):
        scale = float(a.double().abs().max())
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * max(scale, 1.0))


def thin(graph: Graph, model: nn.Module, ratio: float, seed: int = 0) -> tuple[Plan, nn.Module]:
    """Remove random units of every group, and hold the result against the masked model on new inputs."""
    plan = Plan.from_pruned(graph, removal(graph, ratio, seed))
    small = plan.apply(model)
    args, kwargs = redrawn((graph.trace.args, dict(graph.trace.kwargs)), seed + 1)
    assert_same(outputs(plan.mask(model), args, kwargs), outputs(small, args, kwargs))
    removed = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in small.parameters())
    assert removed > 0
    assert graph.size(plan.sizes).params == sum(p.numel() for p in small.parameters())
    return plan, small


def check(model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None, *, own_class: bool = True) -> Graph:
    """Trace a model with random weights, thin it at 0.3 and 0.5 by random index sets, compare; return the graph.

    own_class: the thinned model must be of the user's class, not a rewritten graph.
    """
    graph = trace(generic_(model), args, kwargs)
    for seed, ratio in enumerate((0.3, 0.5, 0.5)):
        _, small = thin(graph, model, ratio, seed)
        assert not own_class or type(small) is type(model)
    return graph


class Net(nn.Module):
    """A module made of a function and its parts: `Net(lambda self, x: self.b(self.a(x)), a=…, b=…)`."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        if hasattr(function, "__code__"):  # torch records the source lines of functions called `forward`, no others
            function.__code__ = function.__code__.replace(co_name="forward")
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def conv(inputs: int, outputs: int, **kwargs: Any) -> nn.Conv2d:
    """A 3x3 convolution that keeps the extent."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, **kwargs)


def images(channels: int = 3, extent: int = 6) -> Tensor:
    """Two random images."""
    return torch.randn(2, channels, extent, extent, generator=torch.Generator().manual_seed(7))


def groups(graph: Graph) -> dict[str, tuple[int, set[str]]]:
    """Return each group as (size, {'fc.weight:0', …}), to be compared with one written by hand."""
    return {g.name: (g.size, {f"{m.param}:{m.dim}" for m in g.members}) for g in graph.groups}
