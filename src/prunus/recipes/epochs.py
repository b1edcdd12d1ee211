"""A stage of training, epoch by epoch: after each, everything that the next needs is on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunus.recipes.schema import Loop, Optimizer, Recipe
from prunus.recipes.session import Costing, Session, restore
from prunus.regularizers import Regularizers
from prunus.schedules import PruningScheduler
from prunus.training import Rate, build_optimizer, build_rate, reseed, train_epoch

Row = dict[str, Any]
DEFAULT_OPTIMIZER = Optimizer.model_validate({"name": "adam", "lr": 1e-3})


@dataclass(frozen=True)
class Stage:
    """A loop over epochs: its name in the history, its settings, and what it trains."""

    name: str
    settings: Loop
    model: nn.Module
    optimizer: torch.optim.Optimizer
    rate: Rate
    costing: Costing
    pruning: PruningScheduler | None = None
    regularizers: Regularizers | None = None

    def state_dict(self) -> dict[str, Any]:
        """Model, optimizer, rate, pruning and regularizers; random numbers are drawn anew at every epoch."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
            "pruning": None if self.pruning is None else self.pruning.state_dict(),
            "regularizers": None if self.regularizers is None else self.regularizers.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        restore(self.model, state["model"], self.name)
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        if self.pruning is not None:
            self.pruning.load_state_dict(state["pruning"])
        if self.regularizers is not None:
            self.regularizers.load_state_dict(state["regularizers"])


def make_optimizer(recipe: Recipe, stage: str, settings: Loop, model: nn.Module) -> torch.optim.Optimizer:
    """The stage's optimizer; without one in the recipe, the training's, after training with a tenth of its rate."""
    chosen = settings.optimizer or recipe.train.optimizer or DEFAULT_OPTIMIZER
    arguments = chosen.arguments
    if settings.optimizer is None and stage != "train":
        probe = build_optimizer(chosen.name, model, arguments)
        arguments = {**arguments, "lr": float(probe.defaults["lr"]) / 10}
    return build_optimizer(chosen.name, model, arguments)


def make_rate(session: Session, settings: Loop, optimizer: torch.optim.Optimizer) -> Rate:
    """The stage's learning-rate schedule over all its steps."""
    chosen = settings.lr_schedule
    steps = session.steps_per_epoch if settings.epochs else 1
    return build_rate(chosen.name, chosen.arguments, optimizer, epochs=settings.epochs, steps_per_epoch=steps)


def run_epochs(session: Session, stage: Stage) -> list[Row]:
    """Run what is left of a stage; returns one row per epoch, the earlier ones included.

    The model, and the pruning, are left as after the last epoch. A stage of no epochs leaves its checkpoint too.
    """
    entries = _resume(session, stage)
    total = stage.settings.epochs
    if len(entries) < total:
        steps = session.steps_per_epoch
        with session.reporter.bar(stage.name.replace("_", "-"), total * steps, done=len(entries) * steps) as bar:
            for epoch in range(len(entries) + 1, total + 1):
                row = _epoch(session, stage, epoch, lambda loss: bar.advance(1, f"loss {loss:.3f}"))
                events = [] if stage.pruning is None else list(stage.pruning.epoch_end(row["validation"]).events)
                entries.append({**row, "events": events})
                session.folder.save(stage.name, {"entries": entries, **stage.state_dict()})
                session.folder.log(entries[-1])
                _tell(session, row, events, total)
    return [{key: value for key, value in entry.items() if key != "events"} for entry in entries]


def _resume(session: Session, stage: Stage) -> list[Row]:
    """Go on where the checkpoint is, or leave a first one; returns the log's entries so far."""
    saved = session.folder.load(stage.name)
    if saved is None:
        session.folder.save(stage.name, {"entries": [], **stage.state_dict()})
        return []
    stage.load_state_dict(saved)
    for entry in saved["entries"]:
        # A kill may have come between the checkpoint and the log.
        session.folder.log(entry)
    return list(saved["entries"])


def _tell(session: Session, row: Row, events: list[Row], total: int) -> None:
    session.reporter.say(describe(row, total))
    for event in events:
        if "reason" in event:
            session.reporter.say(f"{event['event']}: {event['reason']}")
        if "latency" in event:
            session.reporter.say(f"pruned to {event['latency']}")


def _epoch(session: Session, stage: Stage, epoch: int, note: Any) -> Row:
    reseed(session.recipe.seed, stage.name, epoch, session.parts.data.train)
    rates: list[float] = []

    def after_step(loss: float) -> None:
        rates.append(float(stage.optimizer.param_groups[0]["lr"]))
        stage.rate.step_end()
        note(loss)

    result = train_epoch(
        stage.model,
        session.parts.data.train,
        stage.optimizer,
        session.parts.loss,
        where=f"{stage.name}, epoch {epoch}",
        device=session.parts.device,
        precision=stage.settings.precision,
        after_step=after_step,
        regularizers=stage.regularizers,
    )
    stage.rate.epoch_end()
    if stage.regularizers is not None:
        stage.regularizers.threshold_()
    validation = session.parts.evaluate(stage.model, "validation")
    return {
        "stage": stage.name,
        "epoch": epoch,
        "loss": result.loss,
        "terms": result.terms,
        "lr": rates[-1],
        "seconds": result.seconds,
        "validation": validation,
        "sparsity": stage.costing.sparsity(),
        "macs": stage.costing.macs(),
    }


def describe(row: Row, total: int) -> str:
    """`prune 2/5: loss 0.123, group_lasso 0.012, top1 0.912, sparsity 34 %, 1,234,567 MACs (12 s)`."""
    judged, value = next(iter(row["validation"].items()))
    zeros = f", sparsity {row['sparsity']:.1%}" if row["sparsity"] else ""
    terms = "".join(f", {name} {value:.4g}" for name, value in row["terms"].items())
    macs = "" if row["macs"] is None else f", {row['macs']:,} MACs"
    return (
        f"{row['stage'].replace('_', '-')} {row['epoch']}/{total}: loss {row['loss']:.4f}{terms}, {judged} {value:.4f} "
        f"(validation){zeros}{macs}, {row['seconds']:.1f} s"
    )
