"""The plan: what will be kept, as plain data, from the decision to the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from prunus.axes import Graph, Group, Surgery, copied, facts_of, limits, units_of, unwrapped
from prunus.errors import InputError, NameNotFound, NothingToPrune, ProofError, naming
from prunus.plans.fold import Folding, find_folding
from prunus.plans.graph_model import thinned_graph
from prunus.plans.proof import Proof, apply_masks_, mask_
from prunus.plans.proving import class_surgery, prove_plan
from prunus.plans.record import Form, Record, Step, attach, describe_inputs, record_of
from prunus.plans.reference import is_inexact
from prunus.plans.surgery import check_same_model, thin_, thinned
from prunus.plans.tensors import cut, keep_mask


@dataclass(frozen=True)
class Plan:
    """Kept positions per group, masks per parameter, and where they came from.

    graph: the traced model. kept: group name -> int64 positions, ascending; groups that are absent keep all units.
    masks: parameter -> boolean, in the dense shape, False where an element is zero.
    provenance: how it was decided: criterion, ratio, seed; plain values.
    dropped: residual blocks, by module path, that are left out as a whole; see `Graph.blocks`.
    """

    graph: Graph
    kept: Mapping[str, Tensor]
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, positions in self.kept.items():
            _check_positions(name, positions, self.graph[name])
        for name, mask in self.masks.items():
            if name not in self.graph.trace.state:
                raise NameNotFound.of("parameter", name, self.graph.trace.state)
            shape = self.graph.trace.state[name].shape
            if mask.dtype != torch.bool or tuple(mask.shape) != shape:
                raise InputError(f"the mask of {name} is {mask.dtype} {tuple(mask.shape)}; it must be bool {shape}")
        for name in self.dropped:
            self.graph.block(name)
        for names in self.graph.equal:
            counts = {name: len(self.kept.get(name, range(self.graph[name].size))) for name in names}
            if len(set(counts.values())) > 1:
                raise InputError(f"one number cuts {names}, so they must keep equally many units, not {counts}")

    @classmethod
    def from_pruned(
        cls,
        graph: Graph,
        pruned: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        provenance: Mapping[str, Any] | None = None,
        dropped: Sequence[str] = (),
    ) -> Plan:
        """Make a plan from boolean vectors, True where a unit of the group goes.

        dropped: residual blocks that are left out as a whole.
        Raises NothingToPrune where neither a unit nor an element goes: the message lists what is frozen and why.
        """
        for name, flags in pruned.items():
            size = graph[name].size
            if flags.dtype != torch.bool or tuple(flags.shape) != (size,):
                raise InputError(f"pruned[{name!r}] is {flags.dtype} {tuple(flags.shape)}; it must be bool ({size},)")
        kept = {name: (~flags).nonzero().flatten().cpu() for name, flags in pruned.items() if bool(flags.any())}
        masks = {name: mask for name, mask in (masks or {}).items() if not bool(mask.all())}
        if not kept and not masks and not dropped:
            raise NothingToPrune(nothing_to_prune(graph))
        return cls(graph, kept, masks, provenance or {}, tuple(dropped))

    @property
    def sizes(self) -> dict[str, int]:
        """Units left in each group that loses some."""
        return {name: len(positions) for name, positions in self.kept.items()}

    def surgery(self) -> Surgery:
        """Return what the plan means tensor by tensor, in the user's own class."""
        return self._surgery

    @cached_property
    def _surgery(self) -> Surgery:
        return class_surgery(self.graph, self.kept, self.dropped)

    @cached_property
    def _cuts(self) -> Surgery:
        """The same but for what multiplies weights in the class, as masks and the captured graph want it."""
        return self.graph.surgery(self.kept, self.dropped)

    def mask(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` in which all that the plan removes is zero; shapes stay, dropped blocks go.

        Zeros alone keep no router from choosing an expert that is removed: its logit is 0 here, minus infinity in the
        proof.
        """
        model = unwrapped(model)
        check_same_model(model, self._shapes())
        masked = copied(model)
        with torch.no_grad():
            mask_(masked, self._cuts)
            apply_masks_(masked, self.masks)
            thin_(masked, Surgery({}, {}, dropped=self._cuts.dropped))
        return masked

    def keep_masks(self) -> dict[str, Tensor]:
        """Return what `mask` leaves of every tensor that it changes, bool in the dense shape."""
        state = self.graph.trace.state
        left = {name: keep_mask(torch.Size(state[name].shape), edit) for name, edit in self._cuts.zeroed.items()}
        return left | {name: mask & left[name] if name in left else mask for name, mask in self.masks.items()}

    def folding(self, model: nn.Module) -> Folding:
        """Say which groups leave constants that `fold_constants=True` folds into biases, and why the others do not."""
        check_same_model(model, self._shapes())
        return find_folding(self.graph, self.kept, model)

    def prove(self, model: nn.Module, *, fold_constants: bool = False) -> tuple[Proof, Form]:
        """Show that the thinned model computes what the masked one does.

        fold_constants: as in `apply`; *masked* then keeps the constants of the units that can be folded.
        Returns the proof and the form in which it holds: `class` where the user's own class runs with fewer units,
        `graph` where its forward holds fixed numbers, so that the captured graph has to take its place.
        Raises ProofError where neither does.
        """
        model = unwrapped(model)
        check_same_model(model, self._shapes())
        folding = self.folding(model) if fold_constants else None
        return prove_plan(model, self.graph, self.kept, self._surgery, self.masks, folding)

    def apply(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        also: Sequence[nn.Module] = (),
        inplace: bool = False,
        prove: bool = True,
        fold_constants: bool = False,
    ) -> nn.Module:
        """Return the thinned model: fewer channels, the same state-dict keys, in the user's own class.

        Where the class holds fixed numbers (a literal in `view`), the result is a `GraphModel` of the same operations.
        model: out of `torch.compile`, `nn.DataParallel` or `DistributedDataParallel` comes the plain module inside.
        optimizer: its state is cut along; only with `inplace`, since it belongs to this very model.
        also: models with the same tensors, such as an `AveragedModel`, that are cut alike; only with `inplace`.
        inplace: thin `model` itself instead of a copy. Parameters keep their identity.
        prove: compare thinned and masked first (see `Plan.prove`); an error leaves everything as it was. Without it the
            class is taken at its word.
        fold_constants: what removed units would still contribute as constants (biases, shifts of norms) goes into the
            biases of the layers that read them, where that is exact; see `folding`.
        """
        if (optimizer is not None or also) and not inplace:
            what = "an optimizer" if optimizer is not None else "also="
            raise InputError(f"{what} was given without inplace=True, but it belongs to the model, not to a copy")
        model = unwrapped(model, inplace=inplace)
        check_same_model(model, self._shapes())
        followers = [self._follower(i, each) for i, each in enumerate(also)]
        proof: Proof | None = None
        form: Form = "class"
        folding = self.folding(model) if fold_constants else None
        if prove:
            proof, form = prove_plan(model, self.graph, self.kept, self._surgery, self.masks, folding)
        if form == "graph" and inplace:
            raise ProofError(
                f"{type(model).__name__} holds fixed numbers, so it cannot be thinned in place; leave out inplace=True "
                "to get its graph"
            )
        record = self._record(proof, form).after(record_of(model))
        if folding:
            record = replace(record, provenance={**record.provenance, "folded": list(folding.folded)})
        result = model if inplace else copied(model)
        with folding.folded_(result) if folding else nullcontext():
            if form == "graph":
                apply_masks_(result, self.masks)
                result = thinned_graph(result, self.graph, self._cuts)
            else:
                thin_(result, self._surgery, optimizer, masks=self.thinned_masks(), also=followers)
        attach(result, record)
        return result

    def _follower(self, position: int, model: nn.Module) -> nn.Module:
        with naming(f"also[{position}]"):
            inner = unwrapped(model, inplace=True)
            check_same_model(inner, self._shapes())
        return inner

    def cut(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a state dict as `apply` leaves them: a checkpoint, a dict of averaged weights.

        state: dense tensors by the model's names, all or some of them; they are not touched.
        Raises NameNotFound for a name and InputError for a shape that the traced model does not have.
        """
        shapes, masks = self._shapes(), self.thinned_masks()
        gone = tuple(f"{name}." for name in self.dropped)
        out = {}
        for name, tensor in state.items():
            if name not in shapes:
                raise NameNotFound.of("tensor", name, shapes)
            if tuple(tensor.shape) != shapes[name]:
                raise InputError(f"{name} has shape {tuple(tensor.shape)} where the traced model had {shapes[name]}")
            if name.startswith(gone):
                continue
            out[name] = thinned(tensor.detach(), self._surgery, name)
            if name in masks:
                out[name].masked_fill_(~masks[name].to(tensor.device), 0)
        return out

    def thinned_masks(self) -> dict[str, Tensor]:
        """Return the element masks in the shapes that parameters have after `apply`."""
        edits = self._cuts.edits
        return {name: cut(mask, edits.get(name, {})) for name, mask in self.masks.items()}

    def _record(self, proof: Proof | None, form: Form) -> Record:
        """Keep of the plan what outlives its graph."""
        inputs = describe_inputs(self.graph) if form == "graph" else None
        surgery = self._cuts if form == "graph" else self._surgery
        step = Step(replace(surgery, kept={}), form, inputs, self.graph.context.inexact)
        return Record(
            steps=(step,),
            kept={name: tuple(positions.tolist()) for name, positions in self.kept.items()},
            sizes={name: self.graph[name].size for name in self.kept},
            shapes={name: self.graph.trace.state[name].shape for name in surgery.edits},
            masks=self.thinned_masks(),
            provenance=dict(self.provenance),
            proof=proof,
            inexact=is_inexact(self.graph, surgery.kept),
        )

    def explain(self, *, fold_constants: bool = False) -> str:
        """Say in words what is kept, what it saves, what could not be touched, and what can be folded."""
        before, after = self.graph.size(), self.graph.size(self.sizes, self.dropped)
        lines = [
            f"parameters {before.params:,} -> {after.params:,} ({before.params / max(after.params, 1):.2f}x fewer), "
            f"MACs {before.macs:,} -> {after.macs:,} ({before.macs / max(after.macs, 1):.2f}x fewer)"
        ]
        for group in self.graph.groups:
            left = self.sizes.get(group.name, group.size)
            what = f"{left} of {group.size} {units_of(group)}"
            lines.append(f"  {group.name}: keeps {what} ({facts_of(self.graph, group)})")
        lines.extend(f"  {name}: left out, its input is handed on" for name in self.dropped)
        for name, mask in self.masks.items():
            lines.append(f"  {name}: {1 - float(mask.float().mean()):.1%} of its elements are zero")
        lines.extend(f"  {line}" for line in limits(self.graph))
        lines.extend(str(self.folding(self.graph.model)).splitlines() if fold_constants else [])
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.explain()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: meta.shape for name, meta in self.graph.trace.state.items()}


def _check_positions(name: str, positions: Tensor, group: Group) -> None:
    size = group.size
    if positions.dtype != torch.int64 or positions.dim() != 1:
        raise InputError(f"kept positions of {name} must be a one-dimensional int64 tensor")
    if len(positions) == 0:
        raise InputError(f"the plan removes all {size} units of {name}; at least one must stay")
    if len(positions) < group.minimum:
        raise InputError(
            f"the plan keeps {len(positions)} of {size} {units_of(group)} of {name}, but the router chooses "
            f"{group.minimum}; keep as many"
        )
    if int(positions.min()) < 0 or int(positions.max()) >= size or not bool((positions.diff() > 0).all()):
        raise InputError(f"kept positions of {name} must be ascending and within 0..{size - 1}")


def nothing_to_prune(graph: Graph) -> str:
    """Explain why a request changes nothing: what is frozen and by what."""
    reasons = "; ".join(f"{f.param} dim {f.dim}: {f.reason}" for f in graph.frozen[:6])
    if graph.groups:
        return f"the plan keeps every unit of all {len(graph.groups)} groups; ask for a higher ratio"
    return f"no axis of the model can be pruned. {reasons or 'It has no weights with two dimensions.'}"
