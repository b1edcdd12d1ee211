"""A plan's proof: in the user's own class where that runs with fewer units, else as the captured graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunus.axes import Graph, Surgery, copied, trace
from prunus.errors import CaptureError, ProofError
from prunus.plans.float64 import float64_code, float64_inputs
from prunus.plans.fold import Folding
from prunus.plans.graph_model import thinned_graph
from prunus.plans.proof import Build, Proof, first_line, mask_, prove
from prunus.plans.record import Form
from prunus.plans.reference import is_inexact, reference
from prunus.plans.surgery import thin_


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
    Raises ProofError where neither the class nor the graph passes.
    """
    captured: list[Graph] = []

    def in_float64(dense: nn.Module) -> Graph:
        # captured anew, once: the first capture spells out the model's own dtype where code asks for it
        if not captured:
            with float64_code(graph.dtype):
                inputs = float64_inputs(dense, graph)
                captured.append(trace(dense, *inputs, inexact=graph.context.inexact))
        return captured[0]

    def masked(dense: nn.Module) -> nn.Module:
        if folding:
            folding.mask_(dense)
        else:
            mask_(dense, surgery)
        if not surgery.dropped and not is_inexact(graph, surgery.kept):
            return dense
        double = in_float64(dense)
        return reference(dense, double, double.surgery(kept).kept, surgery.dropped)

    def as_class(dense: nn.Module) -> nn.Module:
        if folding:
            folding.fold_(dense)
        thin_(dense, surgery)
        return dense

    def as_graph(dense: nn.Module) -> nn.Module:
        double = in_float64(dense)
        if folding:
            folding.fold_(dense)
        return thinned_graph(dense, double, double.surgery(kept))

    def as_its_graph(dense: nn.Module) -> nn.Module:
        return thinned_graph(dense, graph, surgery)

    try:
        proof = prove(model, graph, surgery, masks, as_class, masked)
        _check_stood_in(model, graph, as_class)
        return proof, "class"
    except ProofError as stiff:
        if graph.trace.concrete or surgery.dropped:  # one example's operations are no model; a graph has no blocks
            raise
        try:
            proof = prove(model, graph, surgery, masks, as_graph, masked)
            _check_stood_in(model, graph, as_its_graph)
            return proof, "graph"
        except (ProofError, CaptureError):
            raise stiff from None


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
