"""Names for things of one kind, alike in YAML, on the command line and in Python; other packages add their own."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from prunus.errors import InputError
from prunus.granularity.spelling import Call, construct, parse_call

_T = TypeVar("_T")


class Registry(Generic[_T]):
    """Factories by name.

    kind: what they make, such as `criterion`, for sentences. group: the group of entry points whose names count too.
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self._kind, self._group = kind, group
        self._factories: dict[str, Callable[..., _T]] = {}

    def register(self, name: str, factory: Callable[..., _T]) -> None:
        """Make a factory known by a name; its arguments follow the name: `lp(3)` calls factory(3).

        Raises InputError for a name that is taken or is no word.
        """
        if not name.isidentifier():
            raise InputError(f"{self._kind} name {name!r} is no word; use letters, digits and underscores")
        if self._factories.setdefault(name, factory) is not factory:
            raise InputError(f"{self._kind} {name!r} is already registered; choose another name")

    def given(self, spec: object, protocol: type[_T], wanted: str) -> _T:
        """Return an object as it is, or make what a text names.

        Raises InputError, saying what is wanted, for what has not the protocol's attributes, and as `read` does.
        """
        made = self.read(spec) if isinstance(spec, str) else spec
        if isinstance(made, type) or not isinstance(made, protocol):
            raise InputError(f"{self._kind} is {made!r}; {wanted} is wanted")
        return made

    def names(self) -> tuple[str, ...]:
        """List every known name, those of installed entry points too."""
        return tuple(sorted({*self._factories, *(point.name for point in self._points())}))

    def read(self, spec: str | Call) -> _T:
        """Make what a text or a call names; of entry points only the one that is asked for is loaded.

        Raises NameNotFound for an unknown name or argument, InputError for arguments that the factory does not take.
        """
        call = parse_call(self._kind, spec) if isinstance(spec, str) else spec
        known = dict(self._factories)
        for point in self._points():
            known.setdefault(point.name, self._loaded(point) if point.name == call.name else point.load)
        return construct(self._kind, call, known)

    def _points(self) -> tuple[EntryPoint, ...]:
        return () if self._group is None else tuple(entry_points(group=self._group))

    def _loaded(self, point: EntryPoint) -> Callable[..., _T]:
        try:
            factory: Callable[..., _T] = point.load()
        except Exception as error:  # whatever a foreign module raises while it is imported
            raise InputError(f"{self._kind} {point.name!r} cannot be loaded from {point.value}: {error}") from error
        return factory
