"""What removed units would still have contributed as constants, folded into the biases of the layers that read them.

With its incoming weights at zero, a unit still carries its bias, or what a norm and an activation make of it: a
constant c. A linear map W that reads it adds W c to its result, whatever the input is; so may its bias. The claim

    thinned(x) = the dense model with the incoming weights of the removed units at zero, all else as it was

is checked in numbers before a group is folded, and proved like any other plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from prunus.axes import Graph, Group, Member, copied
from prunus.axes.rules.pointwise import base_name
from prunus.axes.trace import Node, Ref
from prunus.plans.float64 import double_
from prunus.plans.proof import TOLERANCE, distance, mask_, randomise_, run
from prunus.plans.tensors import named_state

PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Folding:
    """Which groups of a plan leave constants that can be folded, and why the others cannot.

    kept: group -> kept positions, as in the plan. left: group -> why its removed units are zeroed as a whole.
    """

    graph: Graph
    kept: Mapping[str, Tensor]
    left: Mapping[str, str]

    @property
    def folded(self) -> tuple[str, ...]:
        """Names of the groups whose constants are folded."""
        return tuple(name for name in self.kept if name not in self.left)

    def __str__(self) -> str:
        lines = [f"  {name}: what its removed units carry is folded into biases" for name in self.folded]
        return "\n".join(lines + [f"  {name} is not folded: {reason}" for name, reason in self.left.items()])

    @torch.no_grad()
    def mask_(self, model: nn.Module) -> None:
        """Zero the incoming weights of folded units, and all that belongs to the removed units of other groups."""
        state = named_state(model)
        for name in self.folded:
            for member in self.graph[name].members:
                if member.role == "out" and member.is_parameter and state[member.param].dim() > 1:
                    gone = self._positions(name, member).to(state[member.param].device)
                    state[member.param].data.index_fill_(member.dim, gone, 0)
        mask_(model, self.graph.surgery({name: self.kept[name] for name in self.left}))

    @torch.no_grad()
    def fold_(self, model: nn.Module) -> None:
        """Add to the dense model's biases what the removed units contribute; the columns that read them may go then."""
        masked = double_(copied(model))
        self.mask_(masked)
        weights, state = named_state(masked), named_state(model)
        for weight, inputs in _inputs(masked, self.graph, self._read).items():
            positions = self._read[weight].to(inputs[0].device)
            constant = inputs[0][:, positions].mean(0)
            kernel = weights[weight].t() if _is_transposed(_owner(masked, weight)) else weights[weight]
            matrix = kernel.flatten(2).sum(2) if kernel.dim() > 2 else kernel
            change = matrix[:, positions] @ constant
            taker, sign = _taker(self.graph, weight)
            state[taker].data.add_(sign * change.to(state[taker]))

    @contextmanager
    def folded_(self, model: nn.Module) -> Iterator[None]:
        """Fold, and put everything back if what follows fails."""
        before = {t: t.detach().clone() for t in named_state(model).values() if t.dim() == 1}
        try:
            self.fold_(model)
            yield
        except BaseException:
            for tensor, value in before.items():
                tensor.data.copy_(value)
            raise

    @cached_property
    def _read(self) -> dict[str, Tensor]:
        """Weights that read folded units -> the positions of these along their inputs."""
        found: dict[str, list[Tensor]] = {}
        for name in self.folded:
            for member in _readers(self.graph[name]):
                found.setdefault(member.param, []).append(self._positions(name, member))
        # unique: a position may go with its head and with its place in the head
        return {weight: torch.from_numpy(np.unique(torch.cat(positions))) for weight, positions in found.items()}

    def _positions(self, name: str, member: Member) -> Tensor:
        gone = torch.ones(self.graph[name].size, dtype=torch.bool)
        gone[self.kept[name]] = False
        return member.index[gone].flatten()

    def varying(self, model: nn.Module) -> dict[str, str]:
        """Return the groups whose removed units carry something that is not constant, with the layer that sees it."""
        masked = double_(copied(model))
        self.mask_(masked)
        seen = _inputs(masked, self.graph, self._read)
        found = {}
        for name in self.folded:
            for member in _readers(self.graph[name]):
                if member.param not in seen:
                    found[name] = f"{member.param} reads it, and runs more than once or not at all"
                    continue
                x = torch.cat(seen[member.param])
                carried = x[:, self._positions(name, member).to(x.device)]
                if not float((carried - carried[:1]).abs().max()) <= TOLERANCE * float(x.abs().max()):
                    found[name] = f"what its removed units carry to {member.param} depends on the input or the place"
        return found

    def agrees(self, model: nn.Module) -> bool:
        """Tell whether folding keeps the outputs of a float64 model: the constants reach nothing else."""
        masked, folded = copied(model), copied(model)
        self.mask_(masked)
        self.fold_(folded)
        mask_(folded, self.graph.surgery(self.kept))
        return distance(run(masked, self.graph, noise=True), run(folded, self.graph, noise=True))[1] <= TOLERANCE


@torch.no_grad()
def find_folding(graph: Graph, kept: Mapping[str, Tensor], model: nn.Module) -> Folding:
    """Decide which of a plan's groups can be folded, by their layers and by numbers with random weights.

    Random weights, because a bias that happens to be zero would hide that its constant is not constant.
    """
    generic = double_(copied(model))
    randomise_(generic)
    reasons = {name: _unfit(generic, graph, graph[name]) for name in kept}
    left = {name: reason for name, reason in reasons.items() if reason is not None}
    folding = Folding(graph, kept, left)
    folding = replace(folding, left={**left, **folding.varying(generic)})
    if folding.agrees(generic):
        return folding
    why = "biases alone cannot take its constants up: something else reads them too, or a reader shares its tensors"
    alone = {name: replace(folding, left={n: why for n in kept if n != name}) for name in folding.folded}
    return replace(folding, left={**folding.left, **{n: why for n, one in alone.items() if not one.agrees(generic)}})


def _readers(group: Group) -> list[Member]:
    return [member for member in group.members if member.role == "in" and member.is_parameter]


def _unfit(model: nn.Module, graph: Graph, group: Group) -> str | None:
    """Say why a layer that reads a group cannot take up a constant, or that none does."""
    if group.kind == "expert":
        return "no router chooses what is removed, so nothing of it is carried on"
    if not _readers(group):  # places within heads of queries and keys
        return "no map reads its removed units, so no bias takes up what they carry"
    for member in _readers(group):
        owner, _, attribute = member.param.rpartition(".")
        module = model.get_submodule(owner)
        plain = type(module) in PLAIN or _is_transposed(module)
        if not plain or attribute != "weight" or getattr(module, "groups", 1) != 1:
            return f"{member.param} reads it, and is no plain linear map or convolution"
        if isinstance(module, nn.modules.conv._ConvNd) and _pads_with_zeros(module):
            return f"{owner} reads it and pads with zeros, so it sees 0 at the border and the constant elsewhere"
        if not _taker(graph, member.param)[0]:
            return f"{owner} reads it and has neither a bias nor a batch norm behind it to take the constant up"
    return None


def _owner(model: nn.Module, weight: str) -> nn.Module:
    return model.get_submodule(weight.rpartition(".")[0])


def _is_transposed(module: nn.Module) -> bool:
    """Tell whether a layer is transformers' Conv1D: a linear map whose weight is (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def _pads_with_zeros(conv: nn.modules.conv._ConvNd) -> bool:
    if isinstance(conv.padding, str):
        padded = conv.padding == "same" and any(size > 1 for size in conv.kernel_size)
    else:
        padded = any(conv.padding)
    return padded and conv.padding_mode == "zeros"


def _inputs(model: nn.Module, graph: Graph, weights: Iterable[str]) -> dict[str, list[Tensor]]:
    """Run a float64 model on the example inputs and on noise; return what each layer got, as (rows, channels).

    Layers that do not run exactly once are left out.
    """
    seen: dict[str, list[Tensor]] = {weight: [] for weight in weights}

    def record(module: nn.Module, args: tuple[Tensor, ...], weight: str) -> None:
        rank = len(graph.trace.state[weight].shape)
        channels = args[0].movedim(1 - rank if rank > 2 else -1, -1)
        seen[weight].append(channels.reshape(-1, channels.shape[-1]).detach().clone())

    handles = [_owner(model, weight).register_forward_pre_hook(partial(record, weight=weight)) for weight in seen]
    try:
        run(model, graph)
        run(model, graph, noise=True)
    finally:
        for handle in handles:
            handle.remove()
    return {weight: inputs for weight, inputs in seen.items() if len(inputs) == 2}


def _taker(graph: Graph, weight: str) -> tuple[str, int]:
    """Return what takes up a constant behind a layer, and with which sign: its bias, or a batch norm's running mean.

    The name is empty where there is neither.
    """
    bias = f"{weight.rpartition('.')[0]}.bias"
    if bias in graph.trace.state:
        return bias, 1
    made = [node for node in _uses(graph, weight) if node.kind == "op"]
    behind = [node for node in graph.trace.nodes if made and Ref(made[0].index) in node.refs()]
    if len(behind) == 1 and behind[0].kind == "op" and base_name(behind[0].target) == "batch_norm":
        mean = behind[0].args[3]
        name = str(graph.trace.nodes[mean.index].target) if isinstance(mean, Ref) else ""
        if name and len(_uses(graph, name)) == 1:
            return name, -1
    return "", 1


def _uses(graph: Graph, name: str) -> list[Node]:
    """Return the operations that read a parameter or buffer."""
    own = {
        Ref(node.index) for node in graph.trace.nodes if node.kind in ("parameter", "buffer") and node.target == name
    }
    return [node for node in graph.trace.nodes if own & set(node.refs())]
