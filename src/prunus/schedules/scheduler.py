"""The scheduler: runs policies while a model is trained, stops, guards the accuracy, resumes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from prunus.axes import Graph, unwrapped
from prunus.criteria import collect_for, criterion
from prunus.errors import InputError, NothingToPrune
from prunus.masks import MaskSet
from prunus.plans import named_state
from prunus.schedules.constants import fold_constants_
from prunus.schedules.courses import check_criteria, check_first_metric, courses_of
from prunus.schedules.decide import Course, choose, masks_of
from prunus.schedules.figures import Figures, check_quantities
from prunus.schedules.guard import AccuracyGuard, Snapshot, check_metrics
from prunus.schedules.mending import mended_
from prunus.schedules.observing import Observer
from prunus.schedules.policy import Policy
from prunus.schedules.repeating import Repeating
from prunus.schedules.stop import Stop
from prunus.schedules.threshold import MagnitudeParameterPruner
from prunus.schedules.time import Unit
from prunus.statistics import Loss, calibration

Event = dict[str, Any]
_VERSION = 1


@dataclass(frozen=True)
class EpochStatus:
    """What an epoch came to.

    epoch: epochs over; steps: optimizer steps done; sparsity: share of all parameters that the masks hold
    at zero.
    events: what happened since the epoch before, as in the log. finished: nothing more will be pruned,
    for `reason` where it was stopped.
    """

    epoch: int
    steps: int
    sparsity: float
    events: tuple[Event, ...]
    finished: bool
    reason: str | None


class PruningScheduler:
    """Prune a model by policies while your own loop trains it.

        with PruningScheduler(model, optimizer, policies) as scheduler:
            for epoch in range(epochs):
                train_one_epoch(model, optimizer)
                scheduler.epoch_end({"top1": validate(model)})

    A policy whose times are epochs acts when an epoch begins: epoch 0 when the scheduler is built, the
    next ones in `epoch_end`, after the metrics were judged. One whose times are steps acts once so many
    optimizer steps are done (a step that GradScaler skips is none). What a policy has pruned stays
    pruned, at exactly zero, until `close`, unless its allocation splices; several policies on one tensor add up.

    graph: from `prunus.trace`; filters and channels are then pruned with all that hangs on them, and can
    be removed
        by `Plan.from_pruned(graph, scheduler.pruned_units())`. Without it only rows or columns of weights
        are.
    stop: conditions looked at after every pruning; the first that is reached ends all pruning.
    guard: what may not get worse; see `AccuracyGuard`.
    fold_constants: what units carry when they are pruned goes into the biases of the layers that read them, where
        that is exact (`Plan.folding`); needs a graph.
    steps_per_epoch: needed for times inside an epoch, such as `0.5ep`.
    data, loss: for criteria that observe the model before each pruning; see `prunus.statistics.Calibration`.
    Raises NameNotFound where a policy matches nothing, InputError for whatever else is wrong with the
    arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        policies: Sequence[Policy | MagnitudeParameterPruner],
        *,
        graph: Graph | None = None,
        stop: Sequence[Stop] = (),
        guard: AccuracyGuard | None = None,
        fold_constants: bool = False,
        steps_per_epoch: int | None = None,
        data: Any = None,
        loss: Loss | None = None,
    ) -> None:
        if fold_constants and graph is None:
            raise InputError("fold_constants needs to know who reads what; give the graph of `prunus.trace`")
        check_quantities([condition.quantity for condition in stop], graph)
        model = unwrapped(model)
        self.masks = MaskSet(model)
        self.log: list[Event] = []
        self.epoch = 0
        self.steps = 0
        self._model, self._optimizer, self._graph = model, optimizer, graph
        self._stop, self._guard, self._fold_constants = tuple(stop), guard, fold_constants
        self._courses = courses_of(policies, model, graph, steps_per_epoch)
        self._figures = Figures(model, lambda: self.masks.masks, self.pruned_units, graph)
        self._calibration = calibration(data, loss)
        check_criteria(self._courses, named_state(model), self._calibration)
        self._reason: str | None = None
        self._reference = None if guard is None else guard.reference
        self._reported = 0
        if guard is not None and guard.reference is None:
            check_first_metric(self._courses, steps_per_epoch)
        self.masks.attach(optimizer)
        self._observer = Observer(model, optimizer, self._courses)
        self._handle = optimizer.register_step_post_hook(lambda *_: self._step_done())
        self._good = None if guard is None else self._snapshot("before pruning")
        self._act("epoch", 0)
        self._act("step", 0)

    @property
    def finished(self) -> bool:
        """Whether nothing more will be pruned: every schedule has ended or was stopped."""
        return self._reason is not None or all(now >= course.schedule.last for course, now in self._clocks())

    @property
    def sparsity(self) -> float:
        """The share of all parameters (ties once) that the masks hold at zero."""
        return self._figures.of("sparsity")[0]

    def epoch_end(self, metrics: Mapping[str, float] | None = None) -> EpochStatus:
        """Say that an epoch is over: judge its metrics, then prune what is due when the next one begins.

        metrics: validation metrics of the model as it is now.
        Raises TrainingError for a metric that is nan; nothing has changed then, the epoch has not been
        counted.
        """
        check_metrics(metrics, f"epoch {self.epoch + 1}")
        if self._guard is not None and self._good is not None:
            self._judge(self._guard, self._guard.read(metrics))
        self.epoch += 1
        self._act("epoch", self.epoch)
        events, self._reported = tuple(self.log[self._reported :]), len(self.log)
        return EpochStatus(self.epoch, self.steps, self.sparsity, events, self.finished, self._reason)

    def pruned_units(self) -> dict[str, Tensor]:
        """Return per coupled group that a policy aims at its pruned units, (size,) bool."""
        return self._pruned_units(self._courses)

    def _pruned_units(self, courses: Sequence[Course]) -> dict[str, Tensor]:
        units: dict[str, Tensor] = {}
        for course in courses:
            for target in course.targets:
                if target.group is not None:
                    pruned = course.pruned[target.name]
                    units[target.group] = units[target.group] | pruned if target.group in units else pruned.clone()
        return units

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on, beside the model's and the optimizer's own state.

        Plain data and tensors: safe for `torch.load(weights_only=True)`. A guard's last good state is
        part of it.
        """
        return {
            "version": _VERSION,
            "epoch": self.epoch,
            "steps": self.steps,
            "reason": self._reason,
            "log": [dict(event) for event in self.log],
            "reported": self._reported,
            "reference": self._reference,
            "good": None if self._good is None else asdict(self._good),
            "masks": self.masks.state_dict(),
            "policies": self._progress(),
            "observed": self._observer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Build model, optimizer and scheduler first, as at the start, then load the states of all three in
        this order: a scheduler that is built prunes what is due at epoch 0, in whatever weights it finds.
        Raises InputError where the state is of other policies or of another model; then nothing has
        changed.
        """
        if state.get("version") != _VERSION:
            raise InputError(f"this is not a scheduler's state of version {_VERSION}: it has {state.get('version')!r}")
        self._check_progress(state["policies"])
        observed = state.get("observed", {})
        self._observer.check(observed)
        self.masks.load_state_dict(state["masks"])
        self._load_progress(state["policies"])
        self._observer.load_state_dict(observed)
        self.epoch, self.steps, self._reason = state["epoch"], state["steps"], state["reason"]
        self.log[:] = [dict(event) for event in state["log"]]
        self._reported, self._reference = state["reported"], state["reference"]
        self._good = None if state["good"] is None else Snapshot(**state["good"])

    def close(self) -> None:
        """Take all hooks out. The zeros stay, but a later optimizer step may fill them.

        Raises NothingToPrune, with the reasons, when nothing was ever pruned (unless another error is on
        its way).
        """
        self._let_go()
        if sys.exc_info()[0] is None and not self.log:
            raise NothingToPrune(f"nothing was pruned: {'; '.join(self._excuses())}")

    def __enter__(self) -> PruningScheduler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._let_go()

    def _let_go(self) -> None:
        for hooks in (self._handle, self._observer):
            hooks.remove()
        self.masks.detach()

    def _clocks(self) -> list[tuple[Course, int]]:
        return [(course, self.epoch if course.schedule.unit == "epoch" else self.steps) for course in self._courses]

    def _step_done(self) -> None:
        self.steps += 1
        self._act("step", self.steps)
        for course in self._courses:
            when = course.schedule
            within = isinstance(when, Repeating) and when.unit == "epoch" and when.acts_within(self.epoch, self.steps)
            if self._reason is None and within:
                self._prune(course, course.fraction)

    def _act(self, unit: Unit, now: int) -> None:
        for course in sorted(self._courses, key=lambda course: course.aim is not None):  # budgets count with the others
            if self._reason is None and course.schedule.unit == unit:
                fraction = course.schedule.fraction(now)
                again = isinstance(course.schedule, Repeating) and course.schedule.acts(now)
                if fraction > course.fraction or again:
                    self._prune(course, fraction)

    def _prune(self, course: Course, fraction: float) -> None:
        tensors = named_state(self._model)
        if course.regrows:
            tensors = self.masks.with_hidden(tensors)
        course.measure_(tensors)
        rank, gathered = criterion(course.policy.criterion), self._observer.gathered(course)
        seen = collect_for(self._model, rank, course.targets, self._calibration, gathered)
        equal = () if self._graph is None else self._graph.equal
        others = self._pruned_units([other for other in self._courses if other is not course])
        pruned = choose(course, fraction, tensors, equal, seen, others)
        before = course.num_pruned
        with mended_(self._model, course.policy, self.masks, self._calibration) as facts:
            if self._fold_constants and self._graph is not None:
                groups = {t.group: pruned[t.name] for t in course.targets if t.group is not None}
                fold_constants_(self._model, self._graph, groups)
            self.masks.set_(course.name, masks_of(course, pruned, tensors), hide=course.regrows)
        course.fraction, course.pruned = fraction, pruned
        timing = None if course.aim is None else course.aim.timing
        if course.num_pruned > before or timing is not None:
            counted: dict[str, Any] = {"fraction": fraction, "units": course.num_pruned, "of": course.num_units}
            if timing is not None:
                counted["latency"] = str(timing)
            if self._repeats_the_last_note(course):
                self.log.pop()
            self._note("pruned", policy=course.name, **counted, sparsity=self.sparsity, **facts)
            self._look_for_a_stop()

    def _look_for_a_stop(self) -> None:
        for condition in self._stop:
            reason = condition.reached(self._figures.of)
            if reason is not None and self._reason is None:
                self._reason = reason
                self._note("stopped", reason=reason)

    def _judge(self, guard: AccuracyGuard, value: float) -> None:
        """Take the state as good, or go back to the last good one and end all pruning."""
        assert self._good is not None
        if self._reference is None:
            self._reference = value
        drop = guard.drop(value, self._reference)
        if drop <= guard.max_drop:
            self._good = self._snapshot(f"epoch {self.epoch + 1}")
            return
        good, self._good = self._good, None
        self.masks.load_state_dict(good.pruning["masks"])
        self._load_progress(good.pruning["policies"])
        good.restore_(self._model, self._optimizer)
        self._reason = (
            f"{guard.metric} {value:.4g} after epoch {self.epoch + 1} is {drop:.4g} worse than {self._reference:.4g}, "
            f"more than {guard.max_drop:g}; the state of {good.name} was restored"
        )
        self._note("restored", reason=self._reason, state=good.name, sparsity=self.sparsity)

    def _snapshot(self, name: str) -> Snapshot:
        pruning = {"masks": self.masks.state_dict(), "policies": self._progress()}
        return Snapshot.of(name, self._model, self._optimizer, pruning)

    def _repeats_the_last_note(self, course: Course) -> bool:
        """Whether this epoch has a line for it that nobody was shown: what acts at every step gets one per epoch."""
        last = self.log[-1] if len(self.log) > self._reported else {}
        is_same = last.get("policy") == course.name and last["epoch"] == self.epoch
        return is_same and isinstance(course.schedule, Repeating)

    def _note(self, event: str, **facts: Any) -> None:
        self.log.append({"event": event, "epoch": self.epoch, "step": self.steps, **facts})

    def _progress(self) -> dict[str, Any]:
        return {
            course.name: {
                "fraction": course.fraction,
                "pruned": {name: units.clone() for name, units in course.pruned.items()},
                "measured": {name: dict(values) for name, values in course.measured.items()},
            }
            for course in self._courses
        }

    def _check_progress(self, saved: Mapping[str, Any]) -> None:
        for course in self._courses:
            found = saved.get(course.name, {}).get("pruned", {})
            if {name: units.shape for name, units in found.items()} != {
                name: units.shape for name, units in course.pruned.items()
            }:
                raise InputError(
                    f"the saved state does not fit policy {course.name!r}: its targets are others; "
                    "resume with the policies and the model it was saved with"
                )

    def _load_progress(self, saved: Mapping[str, Any]) -> None:
        for course in self._courses:
            course.fraction = saved[course.name]["fraction"]
            course.pruned = {name: units.clone() for name, units in saved[course.name]["pruned"].items()}
            course.measured = {name: dict(values) for name, values in saved[course.name].get("measured", {}).items()}

    def _excuses(self) -> list[str]:
        """Say per policy why it has pruned nothing."""
        return [
            f"policy {course.name!r} has not begun, its schedule starts after {now} {course.schedule.unit}s"
            if course.fraction == 0
            else f"policy {course.name!r} at {course.fraction:.4g} of {course.num_units} units in "
            f"{len(course.targets)} targets comes to none; raise the fraction, or lower round_to or the threshold"
            for course, now in self._clocks()
        ]
