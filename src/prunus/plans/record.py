"""What a thinned model remembers of how it was made, so that it can be saved and rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes import Graph, Inexact, Scale, Surgery
from prunus.plans.proof import Proof
from prunus.plans.tensors import cut

_ATTRIBUTE = "_prunus_record"
Form = Literal["class", "graph"]


@dataclass(frozen=True)
class Step:
    """One thinning, as `load` repeats it: what it cut, in which form, and what a graph needs to be captured again.

    surgery: the plan's consequences by tensor name, in the sizes that the model had before.
    inputs: of a graph, the form of the example inputs. policy: that under which the plan was made.
    """

    surgery: Surgery
    form: Form = "class"
    inputs: Mapping[str, Any] | None = None
    policy: Inexact = "forbid"


@dataclass(frozen=True)
class Record:
    """Plans that have been applied, without their graphs.

    steps: what was done, one after the other; cuts of the class in a row are one.
    kept: group -> kept positions; sizes: group -> units before: of the last plan, since names of groups change meaning
        from one trace to the next. What became of the original is in `surgery`, by tensor.
    shapes: dense shape of every tensor that is cut. masks: parameter -> boolean in the thinned shape.
    proof: None where the user turned it off.
    inexact: whether a statistic or a router runs over fewer units than the masked model has, which zeros alone do not
        show.
    """

    steps: tuple[Step, ...]
    kept: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    masks: Mapping[str, Tensor]
    provenance: Mapping[str, Any]
    proof: Proof | None
    inexact: bool = False

    @cached_property
    def surgery(self) -> Surgery:
        """All steps as one, from the original to what is left."""
        return reduce(_composed, (step.surgery for step in self.steps))

    @property
    def form(self) -> Form:
        """Whether the model is the user's class or a graph."""
        return "graph" if any(step.form == "graph" for step in self.steps) else "class"

    def after(self, before: Record | None) -> Record:
        """Say what became of the original, where the model was thinned `before`."""
        if before is None:
            return self
        masks = {name: cut(mask, self.surgery.edits.get(name, {})) for name, mask in before.masks.items()}
        masks.update({name: mask & masks[name] if name in masks else mask for name, mask in self.masks.items()})
        return replace(
            self,
            steps=_chained(before.steps, self.steps),
            shapes={**self.shapes, **before.shapes},
            masks=masks,
            inexact=before.inexact or self.inexact,
        )


def _chained(first: tuple[Step, ...], second: tuple[Step, ...]) -> tuple[Step, ...]:
    if first[-1].form == second[0].form == "class":
        both = Step(_composed(first[-1].surgery, second[0].surgery))
        return (*first[:-1], both, *second[1:])
    return first + second


def _composed(first: Surgery, second: Surgery) -> Surgery:
    """Return one surgery that does what two do, one after the other."""
    edits = {name: dict(edit) for name, edit in first.edits.items()}
    for name, edit in second.edits.items():
        own = edits.setdefault(name, {})
        for dim, positions in edit.items():
            own[dim] = own[dim][positions] if dim in own else positions
    attributes = {**second.attributes, **first.attributes}
    for name in first.attributes.keys() & second.attributes.keys():
        attributes[name] = (first.attributes[name][0], second.attributes[name][1])
    scales = dict(first.scales)
    for name, scale in second.scales.items():
        dense = first.edits.get(name, {}).get(scale.dim)
        rows = scale.rows if scale.rows is None or dense is None else dense[scale.rows]
        before = scales.get(name, Scale(1.0, scale.offset, scale.dim, rows))
        scales[name] = replace(before, factor=before.factor * scale.factor)
    dropped = {**first.dropped, **second.dropped}
    return Surgery(edits, attributes, scales, dropped, spared=first.spared | second.spared)


def describe_inputs(graph: Graph) -> dict[str, Any]:
    """Describe example inputs as plain values: nesting, and shape and dtype of every tensor."""
    leaves, spec = pytree.tree_flatten((graph.trace.args, dict(graph.trace.kwargs)))

    def describe(x: Any) -> Any:
        return {"shape": list(x.shape), "dtype": str(x.dtype).removeprefix("torch.")} if isinstance(x, Tensor) else x

    return {"spec": pytree.treespec_dumps(spec), "leaves": [describe(x) for x in leaves]}


def example_inputs(described: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make inputs of the described form, filled with zeros."""

    def make(x: Any) -> Any:
        return torch.zeros(x["shape"], dtype=getattr(torch, x["dtype"])) if isinstance(x, dict) else x

    spec = pytree.treespec_loads(described["spec"])
    args, kwargs = pytree.tree_unflatten([make(x) for x in described["leaves"]], spec)
    return args, kwargs


def attach(model: nn.Module, record: Record) -> None:
    """Hang a record on a model; it is no parameter, no buffer, and survives deepcopy."""
    object.__setattr__(model, _ATTRIBUTE, record)


def record_of(model: nn.Module) -> Record | None:
    """Return the record of a model that Prunus thinned, or None."""
    found = getattr(model, _ATTRIBUTE, None)
    return found if isinstance(found, Record) else None


def as_arrays(edits: Mapping[str, Mapping[str, list[int]]]) -> dict[str, dict[int, np.ndarray[Any, Any]]]:
    """Read edits back from plain data."""
    return {name: {int(d): np.asarray(p, dtype=np.int64) for d, p in edit.items()} for name, edit in edits.items()}
