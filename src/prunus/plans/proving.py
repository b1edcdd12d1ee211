"""A plan's proof: in the user's own class where that runs with fewer units, else as the captured graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, combinations

import torch
from torch import Tensor, nn

from prunus.axes import Graph, Surgery, copied, trace
from prunus.errors import CaptureError, ProofError
from prunus.plans.culprits import culprits, naming_culprits
from prunus.plans.float64 import float64_code, float64_inputs
from prunus.plans.fold import Folding
from prunus.plans.graph_model import thinned_graph
from prunus.plans.proof import Build, Proof, first_line, mask_, prove
from prunus.plans.record import Form
from prunus.plans.reference import is_inexact, reference
from prunus.plans.surgery import thin_
from prunus.plans.tensors import named_state


def class_surgery(graph: Graph, kept: Mapping[str, Tensor], dropped: Sequence[str] = ()) -> Surgery:
    """Return the surgery by which the user's own class gets thinner.

    Where attention is spelled out, code may compute its scale from the size of a head, anew at every run, or keep a
    number. When heads get narrower both are tried on the dense model, for each class of modules; queries or keys then
    make up for a scale that follows. `inexact="forbid"` leaves every weight as it is, so nothing is tried there.
    """
    plain = graph.surgery(kept, dropped)
    classes = () if graph.context.inexact == "forbid" else graph.followers(kept)
    state = named_state(graph.model)
    if not classes or any(name not in state or state[name].shape != m.shape for name, m in graph.trace.state.items()):
        return plain
    for count in dict.fromkeys((0, len(classes), 1, len(classes) - 1)):
        for follows in combinations(classes, count):
            surgery = graph.surgery(kept, dropped, follows=chain.from_iterable(follows))
            with suppress(ProofError):
                _Sides(graph.model, graph, kept, surgery, {}, None).proved("class")
                return surgery
    return plain


def prove_plan(
    model: nn.Module,
    graph: Graph,
    kept: Mapping[str, Tensor],
    surgery: Surgery,
    masks: Mapping[str, Tensor],
    folding: Folding | None,
) -> tuple[Proof, Form]:
    """Show that the thinned model computes what the masked one does, and in which form it runs.

    folding: constants of removed units that go into biases; *masked* keeps them.
    Raises ProofError where neither the class nor the graph passes, naming the groups it is about where the rest does.
    """
    sides = _Sides(model, graph, kept, surgery, masks, folding)
    try:
        return sides.proved("class"), "class"
    except ProofError as stiff:
        if graph.trace.concrete or surgery.dropped:  # one example's operations are no model; a graph has no blocks
            raise _blaming(stiff, sides) from stiff.__cause__
        try:
            return sides.proved("graph"), "graph"
        except (ProofError, CaptureError):
            raise _blaming(stiff, sides) from stiff.__cause__


def _blaming(error: ProofError, sides: _Sides) -> ProofError:
    """Return the error with the groups that the class cannot have with fewer units, where the rest is right."""
    if sides.folding or sides.surgery.dropped:
        return error

    def holds(kept: Mapping[str, Tensor]) -> bool:
        try:
            replace(sides, kept=kept, surgery=class_surgery(sides.graph, kept)).proved("class")
        except ProofError:
            return False
        return True

    return naming_culprits(error, culprits(sides.graph, sides.kept, holds))


@dataclass
class _Sides:
    """What is compared: the masked model, and the thinned one as its class or as its graph.

    Its functions make them out of dense copies in float64.
    """

    model: nn.Module
    graph: Graph
    kept: Mapping[str, Tensor]
    surgery: Surgery
    masks: Mapping[str, Tensor]
    folding: Folding | None
    double: Graph | None = None

    def proved(self, form: Form) -> Proof:
        """Compare; raises ProofError where they differ."""
        build = self.as_class if form == "class" else self.as_graph
        proof = prove(self.model, self.graph, self.surgery, self.masks, build, self.masked)
        _check_stood_in(self.model, self.graph, self.as_class if form == "class" else self.as_its_graph)
        return proof

    def masked(self, dense: nn.Module) -> nn.Module:
        """Zero what goes, or keep what is folded of it; where statistics count units, take a graph that knows which."""
        if self.folding:
            self.folding.mask_(dense)
        else:
            mask_(dense, self.surgery)
        if not self.surgery.dropped and not is_inexact(self.graph, self.surgery.kept):
            return dense
        double = self.in_float64(dense)
        return reference(dense, double, double.surgery(self.kept).kept, self.surgery.dropped)

    def as_class(self, dense: nn.Module) -> nn.Module:
        """Thin the user's own class."""
        if self.folding:
            self.folding.fold_(dense)
        thin_(dense, self.surgery)
        return dense

    def as_graph(self, dense: nn.Module) -> nn.Module:
        """Thin the graph as captured in float64."""
        double = self.in_float64(dense)
        if self.folding:
            self.folding.fold_(dense)
        return thinned_graph(dense, double, double.surgery(self.kept))

    def as_its_graph(self, dense: nn.Module) -> nn.Module:
        """Thin the graph as it is."""
        return thinned_graph(dense, self.graph, self.graph.surgery(self.kept))

    def in_float64(self, dense: nn.Module) -> Graph:
        """Capture anew, once: the first capture spells out the model's own dtype where code asks for it."""
        if self.double is None:
            with float64_code(self.graph.dtype):
                inputs = float64_inputs(dense, self.graph)
                self.double = trace(dense, *inputs, inexact=self.graph.context.inexact)
        return self.double


@torch.no_grad()
def _check_stood_in(model: nn.Module, graph: Graph, build: Build) -> None:
    """Run the thinned model in its own dtype where the proof put a stand-in in the place of one of its operations.

    Raises ProofError where the operation itself does not take the new sizes.
    """
    own = next((p.dtype for p in model.parameters()), None)
    stood_in = any(node.kind == "op" and "grouped_mm" in node.op for node in graph.trace.nodes)
    if not stood_in or own is torch.float64:  # in float64 the model itself does not run
        return
    thinned = build(copied(model)).eval()
    try:
        thinned(*graph.trace.args, **graph.trace.kwargs)
    except Exception as error:
        raise ProofError(
            f"{type(model).__name__} cannot run with these sizes in its own dtype: {first_line(error)}; keep "
            "multiples of 8 units (round_to=8), which grouped products of experts ask for"
        ) from error
