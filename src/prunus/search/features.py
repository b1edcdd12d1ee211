"""What a layer looks like to AMC's agent: n, c, h, w, stride, k, also for groups that many layers share.

A group is described by the operation that makes its units first; a weight by its own layer.

n       units of the group, or elements of the weight
c       inputs of the layer: the weight's elements per output and kernel position
h, w    height and width of what the layer reads; 1 for layers that read vectors, and where no module is called
stride  of a convolution; 1 elsewhere
k       height of the kernel; 1 elsewhere
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.axes import Graph
from prunus.granularity import Part, Target
from prunus.plans import named_state

NUM_FEATURES = 6


def features_of(graph: Graph, targets: Sequence[Target]) -> dict[str, tuple[float, ...]]:
    """Return target -> (n, c, h, w, stride, k), read off the weights and one forward pass of the traced example."""
    tensors, sizes = named_state(graph.model), _input_sizes(graph)
    return {target.name: _features(graph.model, target, tensors, sizes) for target in targets}


def _features(
    model: nn.Module, target: Target, tensors: Mapping[str, Tensor], sizes: Mapping[str, tuple[int, int]]
) -> tuple[float, ...]:
    part = _maker(target)
    weight, path = tensors[part.param], part.param.rpartition(".")[0]
    kernel = weight.shape[2] if weight.dim() > 2 else 1
    stride = getattr(model.get_submodule(path), "stride", 1)
    stride = stride[0] if isinstance(stride, tuple) else stride
    inputs = weight.shape[1] if weight.dim() > 1 else 1
    height, width = sizes.get(path, (1, 1))
    return (float(target.num_units), float(inputs), float(height), float(width), float(stride), float(kernel))


def _maker(target: Target) -> Part:
    """Return the part that makes the units, or the first that is scored where none does."""
    return next((part for part in target.parts if part.role == "out"), target.scored[0])


def _input_sizes(graph: Graph) -> dict[str, tuple[int, int]]:
    """Return module path -> (height, width) of what it reads first; the length of a sequence counts as height."""
    sizes: dict[str, tuple[int, int]] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            shape = next((tuple(x.shape) for x in inputs if isinstance(x, Tensor)), ())
            if len(shape) > 2 and path not in sizes:
                sizes[path] = (shape[2], shape[3]) if len(shape) > 3 else (shape[1], 1)

        return hook

    model = graph.model
    leaves = [(path, module) for path, module in model.named_modules() if not any(module.children())]
    handles = [module.register_forward_pre_hook(note(path)) for path, module in leaves]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            model(*graph.trace.args, **dict(graph.trace.kwargs))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return sizes
