"""What would fail after an hour fails now: one batch through everything, before a file is written."""

from __future__ import annotations

import contextlib

from torch import nn

from prunus.axes import Graph
from prunus.batches import first_batch
from prunus.criteria import collect_for, criterion
from prunus.errors import NothingToPrune, naming
from prunus.granularity import find_targets, unpermuted
from prunus.recipes.epochs import make_optimizer
from prunus.recipes.policies import build_scheduler
from prunus.recipes.session import Session
from prunus.recipes.stages import find_structure, make_regularizers, permute
from prunus.statistics import Calibration, Statistics
from prunus.training import check_batch, evaluate


def rehearse(session: Session) -> None:
    """Send one batch through a model, the loss and the metrics; build every optimizer and policy on it.

    Raises what the run itself would: TrainingError, CaptureError, NameNotFound, InputError.
    """
    parts = session.parts
    model = parts.build_model()
    check_batch(model, parts.data.train, parts.loss, device=parts.device)
    metrics = _first_metrics(session, model)
    if parts.data.test is not None:
        # Only whether there is one: the test split is read for the report alone.
        first_batch(parts.data.test, "data.test")
    model, graph = permute(session, model, find_structure(session, model))
    _find_sensitivity_targets(session, model, graph)
    for stage in ("train", "prune"):
        with naming(f"{stage}.regularizers"):
            make_regularizers(getattr(session.recipe, stage), model, graph)
    make_optimizer(session.recipe, "train", session.recipe.train, model)
    optimizer = make_optimizer(session.recipe, "prune", session.recipe.prune, model)
    scheduler = build_scheduler(session, model, optimizer, graph, metrics)
    with contextlib.suppress(NothingToPrune):  # its time is yet to come
        scheduler.close()
    _observe_a_batch(session, model, graph)


def _first_metrics(session: Session, model: nn.Module) -> dict[str, float]:
    """The named metrics on one validation batch; the user's own, which read whole loaders, count as 0."""
    parts, guard = session.parts, session.recipe.prune.guard
    named = [metric for metric in parts.metrics if isinstance(metric, str) and metric != "loss"]
    batch = first_batch(parts.data.validation, "data.validation")
    found = evaluate(model, [batch], parts.loss, metrics=[*named, "loss"], name="data.validation", device=parts.device)
    has_own = len(named) < len(parts.metrics)
    return {guard.metric: 0.0, **found} if guard is not None and has_own else found


def _observe_a_batch(session: Session, model: nn.Module, graph: Graph | None) -> None:
    """Let every criterion observe one training batch, for which it may need the loss, or gradients of a layer."""
    policies = [words for words in session.recipe.prune.policies if criterion(words.criterion).needs]
    if not policies:
        return
    one = Calibration([first_batch(session.parts.data.train, "data.train")], session.parts.loss)
    for words in policies:
        targets = find_targets(model, unpermuted(words.granularity), words.targets, graph)
        collect_for(model, criterion(words.criterion), targets, one, Statistics())


def _find_sensitivity_targets(session: Session, model: nn.Module, graph: Graph | None) -> None:
    wanted = session.recipe.sensitivity
    if wanted is None:
        return
    with naming("sensitivity"):
        find_targets(model, wanted.granularity, wanted.targets, graph)
