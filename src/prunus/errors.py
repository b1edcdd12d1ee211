"""Everything that Prunus raises on purpose.

    PrunusError
    ├── InputError (ValueError)        a value that the user gave is wrong
    │   ├── NameNotFound               a name or pattern matches nothing; near names are listed
    │   ├── RecipeError                a recipe is wrong: file, path inside it, what would be right
    │   └── FileError                  a file is missing, damaged, foreign or too new
    ├── CaptureError                   the model could not be turned into a graph
    ├── NothingToPrune                 the request would change nothing; the reasons are listed
    ├── ProofError                     thinned(x) != masked(x); nothing was changed
    └── TrainingError                  the user's model, data or loss failed while running

One sentence each: the name, what was got, what is wanted, the next step. The command line prints it and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class PrunusError(Exception):
    """Base of every error that Prunus raises on purpose."""


class InputError(PrunusError, ValueError):
    """A value that the user gave is wrong."""


class NameNotFound(InputError):
    """A name or a pattern matches nothing."""

    @classmethod
    def of(cls, what: str, name: str, known: Iterable[str]) -> NameNotFound:
        """Build the sentence: what was not found, and the nearest known names.

        what: the kind of thing, such as `criterion`.
        name: what the user wrote.
        known: what would have been right.
        """
        known = list(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known[:12]) or 'none'}"
        return cls(f"no {what} named {name!r}; {hint}")


class RecipeError(InputError):
    """A recipe is wrong; the sentence names the file and the path inside it."""


class FileError(InputError):
    """A file is missing, damaged, not ours, or from a newer version."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Put what was being read before the sentence of an InputError or NothingToPrune that it raises."""
    try:
        yield
    except (NameNotFound, NothingToPrune) as error:
        raise type(error)(f"{what}: {error}") from error
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


class CaptureError(PrunusError):
    """The model could not be captured as a graph."""


class NothingToPrune(PrunusError):
    """The request would change nothing."""


class ProofError(PrunusError):
    """Thinned and masked model disagree; the model was left as it was.

    groups: those that cannot lose units, where the rest was proved without them.
    """

    def __init__(self, message: str, *, groups: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.groups = groups


class TrainingError(PrunusError):
    """The user's model, data, loss or metric failed while it ran."""
