"""A thinned model as its captured graph, for classes whose forward holds fixed numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes import Graph, Surgery
from prunus.axes.propagate import shares_memory
from prunus.axes.rules.pointwise import base_name
from prunus.axes.trace import GETITEM, Node, Ref, Trace
from prunus.errors import InputError
from prunus.plans.rewrite import FACTORIES, SizeOf, input_axes, is_assertion, rewritten
from prunus.plans.surgery import thin_
from prunus.plans.tensors import named_state

# Operations that ask whether the model trains, and the position of the argument that says so.
TRAINING = {
    "dropout": 2, "feature_dropout": 2, "alpha_dropout": 2, "batch_norm": 5, "instance_norm": 5, "rrelu": 3,
    "lstm": 6, "gru": 6, "rnn_tanh": 6, "rnn_relu": 6,
}  # fmt: skip


@dataclass(frozen=True)
class DtypeOf:
    """The dtype that tensor `index` of the model has when the graph runs: that of constants made in the model's own."""

    index: int


class Place(nn.Module):
    """Holds a module's tensors under its path, and its flag; what trains is called through it, so that a trace tells.

    cumulative: whether it was a batch norm that averages over all batches (momentum None), which only a count can tell.
    """

    cumulative = False

    def forward(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Run one operation."""
        return target(*args, **kwargs)


@dataclass(frozen=True)
class Step:
    """One operation: its number in the graph, the operator, arguments with `Ref` for earlier results.

    training: position of the argument that says whether the model trains, or None. owner: the module whose flag tells.
    rebinds: an earlier result that this one replaces, where an operation wrote into it.
    """

    index: int
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    training: int | None
    owner: GraphModel | Place
    rebinds: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the operator by its name, since torch does not pickle operators."""
        target = self.target
        if isinstance(target, torch._ops.OpOverload):
            target = (target._schema.name, target._overloadname)
        rest = (self.args, dict(self.kwargs), self.training, self.owner, self.rebinds)
        return _step_from, (self.index, target, *rest)

    def run(self, values: Mapping[int, Any]) -> Any:
        """Return the result, computed from earlier ones."""
        keywords = {name: _resolve([arg], values)[0] for name, arg in self.kwargs.items()}
        if isinstance(self.owner, Place):
            return self.owner(self.target, *self.arguments(values), **keywords)
        return self.target(*self.arguments(values), **keywords)

    def arguments(self, values: Mapping[int, Any]) -> list[Any]:
        """Return the positional arguments, as they are while the module that owns the step trains or does not."""
        own = _resolve(self.args, values)
        if self.training is None or not self.owner.training:
            return own
        own[self.training] = True
        counter = getattr(self.owner, "num_batches_tracked", None)
        if counter is not None:  # the module counts outside of the operation that was captured
            counter.add_(1)
            if self.owner.cumulative:
                own[self.training + 1] = 1 / float(counter)
        return own


def _step_from(index: int, target: Any, *rest: Any) -> Step:
    if isinstance(target, tuple):
        namespace, _, name = target[0].partition("::")
        target = getattr(getattr(getattr(torch.ops, namespace), name), target[1])
    return Step(index, target, *rest)


class Shared:
    """Something immutable that copies of a model share."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self


class GraphModel(nn.Module):
    """The operations of a captured model, with sizes changed by a plan; state-dict keys are the original's.

    It trains (dropout and batch norm follow `train()` and `eval()`, each by the flag of its own module), moves, copies,
    pickles, compiles and exports like any module. It is what ran in eval mode: what the class does in training alone,
    such as auxiliary heads or stochastic depth, is not in it.
    Batch sizes other than the example's work unless the original wrote them into its arithmetic. After a cast, zeros
    and other constants in the model's dtype follow; other dtypes that the example met stay.
    """

    cumulative = False  # as in `Place`, where the whole model is one batch norm

    def __init__(self, model: nn.Module, graph: Graph, surgery: Surgery) -> None:
        """Take over the tensors of `model`, which has been cut already, and the operations of `graph`."""
        super().__init__()
        ctx, trace = graph.context, graph.trace
        _adopt(self, model)
        varying = input_axes(ctx)
        self._sources = [(n.index, *_home(self, n.target)) for n in trace.nodes if n.kind in ("parameter", "buffer")]
        self._inputs = [n.index for n in trace.nodes if n.kind == "input"]
        self._constants = {n.index: trace.constants[n.target] for n in trace.nodes if n.kind == "constant"}
        self._names = list(trace.kwargs)
        self._num_args = len(trace.args)
        self._out_spec = Shared(trace.out_spec)
        self._outputs = trace.nodes[-1].args[0]
        originals = dict(model.named_modules())
        own = _tensor_in(trace, graph.dtype)
        self._steps = []
        for node in trace.nodes:
            if node.kind == "op" and not is_assertion(node):
                made = _castable(own, graph.dtype, *rewritten(ctx, node, surgery.kept, varying))
                self._steps.append(_out_of_place(trace, node, _step(self, originals, node, *made)))
        self._last_use = _last_uses(self._steps, self._outputs)
        for path, module in self.named_modules():
            module.training = originals.get(path, model).training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take what the original's forward took, in the form of the example inputs; return what it returned."""
        values = self._bind(args, kwargs)
        for step in self._steps:
            values[step.index] = step.run(values)
            if step.rebinds is not None:
                values[step.rebinds] = values[step.index]
            for index in self._last_use.get(step.index, ()):
                del values[index]
        return pytree.tree_unflatten(_resolve(self._outputs, values), self._out_spec.value)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, Any]:
        if len(args) != self._num_args or set(kwargs) != set(self._names):
            raise InputError(
                f"this graph takes {self._num_args} positional arguments and {self._names or 'no'} keywords, "
                f"as the example inputs had; got {len(args)} and {sorted(kwargs) or 'none'}"
            )
        leaves = pytree.tree_leaves((args, {name: kwargs[name] for name in self._names}))
        values: dict[int, Any] = dict(zip(self._inputs, leaves, strict=True))
        values.update({index: getattr(module, attribute) for index, module, attribute in self._sources})
        if self._constants:
            device = next((t.device for t in self.parameters()), torch.device("cpu"))
            values.update({i: c.to(device) if isinstance(c, Tensor) else c for i, c in self._constants.items()})
        return values


def thinned_graph(model: nn.Module, graph: Graph, surgery: Surgery) -> GraphModel:
    """Cut `model` in place and return its graph over the cut tensors."""
    thin_(model, surgery)
    return GraphModel(model, graph, surgery)


def _tensor_in(trace: Trace, dtype: torch.dtype) -> int | None:
    """Return the first of the model's own tensors that has a dtype."""
    state = ((n.index, trace.state[n.target].dtype) for n in trace.nodes if n.kind in ("parameter", "buffer"))
    return next((index for index, own in state if own is dtype), None)


def _castable(
    own: int | None, dtype: torch.dtype, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, tuple[Any, ...], Mapping[str, Any]]:
    """Let a constant in the model's `dtype` take that of its tensor `own` whenever the graph runs."""
    if own is None or base_name(target) not in FACTORIES or kwargs.get("dtype") is not dtype:
        return target, args, kwargs
    return target, args, {**kwargs, "dtype": DtypeOf(own)}


def _step(
    root: GraphModel,
    originals: Mapping[str, nn.Module],
    node: Node,
    target: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Step:
    name = base_name(target) if target is not GETITEM else ""
    position = TRAINING.get(name)
    if position is None or len(args) <= position or args[position] is not False:
        return Step(node.index, target, args, dict(kwargs), None, root)
    original = originals.get(node.module)
    if original is None:
        return Step(node.index, target, args, dict(kwargs), position, root)
    owner = _module_at(root, node.module)
    assert isinstance(owner, (GraphModel, Place))
    averages = isinstance(original, nn.modules.batchnorm._BatchNorm) and original.momentum is None
    owner.cumulative = averages or bool(getattr(original, "cumulative", False))
    return Step(node.index, target, args, dict(kwargs), position, owner)


def _out_of_place(trace: Trace, node: Node, step: Step) -> Step:
    """Let an operation that writes into a result of its own make a new one: autograd may need the old."""
    target = step.target
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable or not step.args:
        return step
    written = step.args[0]
    twin = getattr(torch.ops.aten, base_name(target), None)
    twin = getattr(twin, target._overloadname, None)
    if not isinstance(written, Ref) or twin is None or shares_memory(trace, written, node):
        return step
    return replace(step, target=twin, rebinds=written.index)


def _module_at(root: nn.Module, path: str) -> nn.Module:
    """Return what stands at `path`, making places on the way where there are none."""
    module = root
    for part in filter(None, path.split(".")):
        if part not in module._modules:
            module.add_module(part, Place())
        module = module.get_submodule(part)
    return module


def _resolve(args: Sequence[Any], values: Mapping[int, Any]) -> list[Any]:
    """Put results in the place of references, also within lists, as operators take them."""
    return [
        values[arg.index] if type(arg) is Ref
        else values[arg.index].shape[arg.dim] if type(arg) is SizeOf
        else values[arg.index].dtype if type(arg) is DtypeOf
        else _resolve(arg, values) if isinstance(arg, (list, tuple))
        else arg
        for arg in args
    ]  # fmt: skip


def _home(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    owner, _, attribute = path.rpartition(".")
    return root.get_submodule(owner), attribute


def _last_uses(steps: list[Step], outputs: Any) -> dict[int, list[int]]:
    """List, per step, the results that nobody reads after it, so that activations are freed as in the original."""
    kept = {r.index for r in pytree.tree_leaves(outputs, is_leaf=lambda x: isinstance(x, Ref)) if isinstance(r, Ref)}
    last: dict[int, int] = {}
    for step in steps:
        for leaf in pytree.tree_leaves((step.args, step.kwargs), is_leaf=lambda x: isinstance(x, Ref)):
            if isinstance(leaf, (Ref, SizeOf, DtypeOf)):
                last[leaf.index] = step.index
    out: dict[int, list[int]] = {}
    for index, step_index in last.items():
        if index not in kept:
            out.setdefault(step_index, []).append(index)
    return out


def _adopt(target: nn.Module, model: nn.Module) -> None:
    """Register the model's parameters and buffers under their own paths, ties staying ties."""
    persistent = set(model.state_dict())
    for name, tensor in named_state(model).items():
        owner, _, attribute = name.rpartition(".")
        module = _module_at(target, owner)
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(attribute, tensor)
        else:
            module.register_buffer(attribute, tensor, persistent=name in persistent)
