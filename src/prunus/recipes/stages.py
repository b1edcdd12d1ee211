"""The stages of a run, each a function: what is finished is read, what is left is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from prunus.axes import Graph, trace
from prunus.costs import macs as dense_macs
from prunus.costs import nonzeros, parameters
from prunus.errors import CaptureError, InputError, naming
from prunus.granularity import COUPLED
from prunus.masks import MaskSet
from prunus.permuting import permuted
from prunus.plans import Plan, record_of
from prunus.recipes.epochs import Row, Stage, make_optimizer, make_rate, run_epochs
from prunus.recipes.policies import build_scheduler, calibration, permuting
from prunus.recipes.schema import RegularizedLoop, Sensitivity
from prunus.recipes.session import TRACED, Costing, Session
from prunus.regularizers import Regularizers, regularizer
from prunus.sensitivity import Curves, perform_sensitivity_analysis
from prunus.training import recalibrate_, reseed


def train(session: Session) -> tuple[nn.Module, list[Row]]:
    """Train the dense model; with no epochs it is what the model function returned."""
    model = session.parts.build_model()
    settings = session.recipe.train
    optimizer = make_optimizer(session.recipe, "train", settings, model)
    rate = make_rate(session, settings, optimizer)
    costing = Costing(lambda: sparsity(model), lambda: dense_macs(model, session.one_example))
    terms = make_regularizers(settings, model, structure_for(session, settings, model))
    return model, run_epochs(session, Stage("train", settings, model, optimizer, rate, costing, regularizers=terms))


def structure_for(session: Session, settings: RegularizedLoop, model: nn.Module) -> Graph | None:
    """Trace the model where a regularizer's units are coupled groups."""
    kinds = {regularizer(words).granularity for words in settings.regularizers}
    return find_structure(session, model) if kinds & set(COUPLED) else None


def make_regularizers(settings: RegularizedLoop, model: nn.Module, graph: Graph | None) -> Regularizers | None:
    """The terms of a loop's loss, or None; raises InputError where targets match nothing."""
    return Regularizers(model, settings.regularizers, graph=graph) if settings.regularizers else None


def find_structure(session: Session, model: nn.Module) -> Graph | None:
    """Trace the model.

    Raises CaptureError when it cannot be captured and a policy prunes filters or channels, or permutes them; recipes
    that prune elements alone go on without a structure, and say so.
    """
    policies = session.recipe.prune.policies
    coupled = [p for p in policies if p.granularity in COUPLED] + permuting(policies)
    model.eval()
    try:
        return trace(model, session.example, inexact=session.recipe.prune.inexact)
    except CaptureError as error:
        if coupled:
            raise
        session.reporter.say(f"the structure is unknown ({error}); zeros need none, so the run goes on")
        return None


def permute(session: Session, model: nn.Module, graph: Graph | None) -> tuple[nn.Module, Graph | None]:
    """Put channels in an order in which n:m keeps more, where a policy asks for it; the model computes what it did."""
    for words in permuting(session.recipe.prune.policies):
        assert graph is not None
        targets, seen = words.targets, calibration(session)
        model, found = permuted(graph, words.granularity, criterion=words.criterion, targets=targets, data=seen)
        session.reporter.say(f"permuted: {found.summary}")
        graph = find_structure(session, model)
    return model, graph


def sensitivity(session: Session, model: nn.Module, graph: Graph | None) -> Curves | None:
    """Prune each target alone and judge it on validation data; every finished cell is kept."""
    wanted = session.recipe.sensitivity
    return None if wanted is None else measure_curves(session, model, graph, wanted, "sensitivity.jsonl")


@dataclass(frozen=True)
class Effort:
    """How an analysis is measured; see `prunus.perform_sensitivity_analysis`."""

    workers: int = 1
    part: str | None = None
    approximate: float | None = None


def measure_curves(
    session: Session,
    model: nn.Module,
    graph: Graph | None,
    wanted: Sensitivity,
    store: str,
    effort: Effort | None = None,
) -> Curves:
    """Analyse a model; its costs are those of one sample. store: the file of cells in the run's folder."""
    effort = effort or Effort()
    # How many cells there are is known at the first of them.
    with session.reporter.bar("sensitivity", 1) as bar:
        curves = perform_sensitivity_analysis(
            model,
            session.parts.evaluation("validation"),
            granularity=wanted.granularity,
            levels=wanted.levels,
            criterion=wanted.criterion,
            targets=wanted.targets,
            graph=graph,
            store=session.folder.path(store),
            data=calibration(session),
            progress=bar.at,
            workers=effort.workers,
            part=effort.part,
            approximate=effort.approximate,
        )
    session.reporter.say(str(curves).rstrip())
    if wanted.timed_on is not None and effort.part is None:
        curves = _timed(session, curves, graph, wanted.timed_on)
    return curves if curves.costs is None else replace(curves, costs=replace(curves.costs, samples=TRACED))


def _timed(session: Session, curves: Curves, graph: Graph | None, on: str) -> Curves:
    """Estimate the latency of what the curves may come to."""
    if graph is None:
        raise InputError("sensitivity: a latency needs the model's structure, which could not be captured")
    with naming("sensitivity"), session.reporter.bar(f"latency on {on}", 1) as bar:
        return curves.timed(graph, on, progress=bar.at)


@dataclass(frozen=True)
class Pruned:
    """What the pruning stage left: a model with zeros, and which units and elements they are.

    units: group -> bool (size,), True where pruned. masks: parameter -> bool, True where kept.
    """

    model: nn.Module
    units: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    rows: list[Row]


def prune(session: Session, model: nn.Module, graph: Graph | None, dense: Mapping[str, float]) -> Pruned:
    """Fine-tune while the policies prune.

    dense: the dense model's validation metrics, which the guard compares with. The model is changed.
    Raises NothingToPrune, with the reasons, when no policy ever pruned anything.
    """
    settings = session.recipe.prune
    optimizer = make_optimizer(session.recipe, "prune", settings, model)
    with build_scheduler(session, model, optimizer, graph, dense) as scheduler:
        costing = Costing(lambda: sparsity(model), lambda: macs(graph, scheduler.pruned_units()))
        rate = make_rate(session, settings, optimizer)
        terms = make_regularizers(settings, model, graph)
        name = f"{session.prefix}prune"
        rows = run_epochs(session, Stage(name, settings, model, optimizer, rate, costing, scheduler, terms))
        units = {name: pruned.clone() for name, pruned in scheduler.pruned_units().items()}
        masks = {name: mask.clone() for name, mask in scheduler.masks.masks.items()}
    return Pruned(model, units, masks, rows)


def thin(session: Session, pruned: Pruned, graph: Graph | None) -> nn.Module:
    """Remove pruned units physically, prove it, and measure batch norm anew.

    Without structure, or where the recipe says `thin: false`, the zeros stay and the masks are kept beside them.
    Raises NothingToPrune where the policies pruned nothing.
    """
    finish = session.recipe.finish
    if graph is None:
        return pruned.model
    plan = make_plan(graph, pruned, thin=finish.thin)
    small = plan.apply(pruned.model, prove=finish.verify)
    if finish.recalibrate and plan.kept:
        reseed(session.recipe.seed, "recalibrate", 0, session.parts.data.train)
        count = recalibrate_(small, session.parts.data.train, device=session.parts.device)
        session.reporter.say(f"recalibrated {count} batch norms")
    return small


def make_plan(graph: Graph, pruned: Pruned, *, thin: bool) -> Plan:
    """The plan of what is pruned; masks that thinning makes whole are left out."""
    if not thin:
        return Plan.from_pruned(graph, {}, pruned.masks)
    whole = Plan.from_pruned(graph, pruned.units, pruned.masks)
    left = {name: mask for name, mask in whole.thinned_masks().items() if not bool(mask.all())}
    return Plan.from_pruned(graph, pruned.units, {name: pruned.masks[name] for name in left})


def fine_tune(session: Session, model: nn.Module, masks: Mapping[str, Tensor], graph_macs: int | None) -> list[Row]:
    """Train the small model further; zeros among its weights stay zero."""
    settings = session.recipe.fine_tune
    if settings is None or settings.epochs == 0:
        return []
    optimizer = make_optimizer(session.recipe, "fine_tune", settings, model)
    held = MaskSet(model)
    held.set_("pruned", masks)
    held.attach(optimizer)
    costing = Costing(lambda: sparsity(model), lambda: graph_macs)
    rate = make_rate(session, settings, optimizer)
    try:
        return run_epochs(session, Stage(f"{session.prefix}fine_tune", settings, model, optimizer, rate, costing))
    finally:
        held.detach()


@dataclass(frozen=True)
class Small:
    """A pruned model, thinned and fine-tuned, with the pruning it came from and the rows of its fine-tuning."""

    model: nn.Module
    pruned: Pruned
    rows: list[Row]


def make_small(session: Session, model: nn.Module, graph: Graph | None, dense: Mapping[str, float]) -> Small:
    """Prune, thin and fine-tune a dense model, which is changed."""
    pruned = prune(session, model, graph, dense)
    small = thin(session, pruned, graph)
    record = record_of(small)
    masks = pruned.masks if record is None else record.masks
    return Small(small, pruned, fine_tune(session, small, masks, macs(graph, pruned.units)))


def sparsity(model: nn.Module) -> float:
    """The share of zeros among all parameters."""
    return 1.0 - nonzeros(model) / parameters(model)


def macs(graph: Graph | None, pruned: Mapping[str, Tensor]) -> int | None:
    """Multiply-accumulates of one sample after thinning, or None where the structure is unknown."""
    if graph is None:
        return None
    left = {name: int((~units).sum()) for name, units in pruned.items()}
    return graph.size(left).macs // TRACED
