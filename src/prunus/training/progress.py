"""What the person sees meanwhile: bars with estimates on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar(Protocol):
    """One piece of work under way."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count steps as done; `note` is shown beside the bar."""

    def at(self, done: int, total: int, note: str = "") -> None:
        """Say how much is done, of a total that may be known only now."""


class Reporter(Protocol):
    """Where a long job says what it does."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def bar(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Bar]:
        """A bar over `total` steps of which `done` are done already."""


class Silent:
    """Says nothing: the reporter of tests and of Python callers."""

    def say(self, text: str) -> None:
        """Nothing."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Nothing."""

    def at(self, done: int, total: int, note: str = "") -> None:
        """Nothing."""

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Nothing."""
        yield self


class Lines:
    """Plain lines, for logs and pipes: a bar becomes a line now and then."""

    def __init__(self, console: Console, *, every_seconds: float = 10.0) -> None:
        self._console = console
        self._every = every_seconds

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """At most one line every ten seconds."""
        yield _Lines(self, title, total, done, self._every)


class _Lines:
    def __init__(self, lines: Lines, title: str, total: int, done: int, every: float) -> None:
        self._lines, self._title, self._total, self._done, self._every = lines, title, total, done, every
        self._first, self._start, self._last = done, time.monotonic(), time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.at(self._done + steps, self._total, note)

    def at(self, done: int, total: int, note: str = "") -> None:
        self._done, self._total = done, total
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        left = remaining(now - self._start, self._done - self._first, self._total - self._done)
        self._lines.say(f"{self._title}: {self._done} of {self._total}, {left} left  {note}".rstrip())


class Rich:
    """Bars with the time left, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """One line, above the bars."""
        self._console.print(text, markup=False, highlight=False)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A bar that goes away when it is done."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(title, total=total, completed=done, note="")
            yield _Rich(progress, task)


class _Rich:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._progress.update(self._task, advance=steps, note=note)

    def at(self, done: int, total: int, note: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total, note=note)


def reporter(console: Console) -> Reporter:
    """Bars on a terminal that can move its cursor, lines elsewhere."""
    return Rich(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


def remaining(seconds: float, done: int, left: int) -> str:
    """The time that `left` steps will take if they go as `done` steps did: `1 min 20 s`."""
    if done < 1:
        return "unknown time"
    total = round(seconds / done * left)
    return f"{total // 60} min {total % 60} s" if total >= 60 else f"{total} s"
