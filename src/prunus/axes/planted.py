"""Planted numbers: which attribute of which module feeds which argument of which operation.

While a model is captured, every number that its modules (and their config objects) hold is replaced by one that
knows its name. Arithmetic carries the names along, and a function mode sees them arrive where sizes are taken.
Afterwards a plan can set the attribute itself, so that the user's own class runs with fewer units.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import traceback
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from prunus.axes.caches import passed_by

TAG = "prunus_call"
_SHAPE: Any = Tensor.shape
_READS = (Tensor.size, _SHAPE.__get__)
_annotate = getattr(traceback, "annotate", None)  # torch 2.9 and newer; before, fewer classes follow


@dataclass(frozen=True)
class Attribute:
    """A number in its place, as it was found.

    path: `blocks.0.attn.num_heads`, or `norm.normalized_shape[0]` in a tuple.
    in_module: whether a module itself holds it, rather than a config that several layers share.
    """

    path: str
    value: float
    in_module: bool = True

    def evaluate(self, values: Mapping[str, int]) -> int:
        """Return the number that the attribute holds when some attributes have new `values`."""
        return values.get(self.path, int(self.value))

    def attributes(self) -> dict[str, int]:
        """Return the attributes that occur, as they were found."""
        return {self.path: int(self.value)}

    def invert(self, wanted: int, values: Mapping[str, int]) -> int | None:
        """Return the value that makes this `wanted`."""
        return wanted


@dataclass(frozen=True)
class Term:
    """A number that code computes from attributes: `add`, `sub`, `mul` or `floordiv` of two sides."""

    operator: str
    left: Attribute | Term | int
    right: Attribute | Term | int

    def evaluate(self, values: Mapping[str, int]) -> int:
        """Compute it anew when some attributes have new `values`."""
        left, right = (x if isinstance(x, int) else x.evaluate(values) for x in (self.left, self.right))
        return int(getattr(operator, self.operator)(left, right))

    def attributes(self) -> dict[str, int]:
        """Return the attributes that occur, as they were found."""
        return {
            path: value
            for side in (self.left, self.right)
            if not isinstance(side, int)
            for path, value in side.attributes().items()
        }

    def invert(self, wanted: int, values: Mapping[str, int]) -> int | None:
        """Return the value of the one attribute missing in `values` that makes this `wanted`; None if none does."""
        on_left = not isinstance(self.left, int) and bool(self.left.attributes().keys() - values.keys())
        unknown, known = (self.left, self.right) if on_left else (self.right, self.left)
        number = known if isinstance(known, int) else known.evaluate(values)
        inner = _undone(self.operator, wanted, number, on_left)
        return None if inner is None or isinstance(unknown, int) else unknown.invert(inner, values)


def _undone(name: str, wanted: int, known: int, on_left: bool) -> int | None:
    """Solve `x op known == wanted`, or `known op x == wanted`, for x."""
    if name == "add":
        return wanted - known
    if name == "sub":
        return wanted + known if on_left else known - wanted
    if name == "mul":
        return wanted // known if known and wanted % known == 0 else None
    return wanted * known if on_left else known // wanted if wanted else None


Expression = Attribute | Term


@dataclass(frozen=True)
class Match:
    """A number that code found equal to a size: that of dimension `dim` of what call number `call` returned."""

    source: Expression
    call: int
    dim: int


class Sized(int):
    """An integer that code has read from the shape of a tensor; arithmetic forgets where."""

    matched: Callable[[Expression], None]

    def __new__(cls, value: int, matched: Callable[[Expression], None]) -> Sized:
        """Make one; `matched` hears of every planted number that it is found equal to."""
        made = super().__new__(cls, value)
        made.matched = matched
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Sized:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)


class Planted(Sized):
    """An integer that knows which attributes it was computed from; a kind of `Sized`, so that its own operators win."""

    source: Expression

    def __new__(cls, value: int, source: Expression) -> Planted:
        """Make one; everything that takes an integer takes it."""
        made = int.__new__(cls, value)
        made.source = source
        return made

    def __eq__(self, other: object) -> bool:
        same = int(self) == other
        if same and type(other) is Sized:
            other.matched(self.source)
        return same

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return super().__hash__()


class PlantedFloat(float):
    """A float that knows its attribute; arithmetic forgets it."""

    source: Attribute

    def __new__(cls, value: float, source: Attribute) -> PlantedFloat:
        """Make one; everything that takes a float takes it."""
        made = super().__new__(cls, value)
        made.source = source
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> PlantedFloat:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (float(self),)


def _lifted(name: str, reflected: bool) -> Callable[[Planted, Any], Any]:
    plain = getattr(int, f"__r{name}__" if reflected else f"__{name}__")

    def method(self: Planted, other: Any) -> Any:
        result = plain(self, other)
        if type(result) is not int:  # NotImplemented, or a float
            return result
        sides = (self.source, other.source if isinstance(other, Planted) else int(other))
        return Planted(result, Term(name, *(sides[::-1] if reflected else sides)))

    return method


for _name in ("add", "sub", "mul", "floordiv"):
    setattr(Planted, f"__{_name}__", _lifted(_name, reflected=False))
    setattr(Planted, f"__r{_name}__", _lifted(_name, reflected=True))


@dataclass(frozen=True)
class Call:
    """One call of a torch function: where planted numbers reached it, its arguments without tensors, else nothing."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def _numbers(tree: Any) -> Iterator[Any]:
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, slice):
            yield from (leaf.start, leaf.stop, leaf.step)
        else:
            yield leaf


class Recorder(TorchFunctionMode):
    """Notes every torch function, tags the operations made inside it, and hears which numbers meet which sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.matches: dict[Match, None] = {}
        self._made_by: MutableMapping[Tensor, int] = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one torch function under its tag; the sizes of what an earlier one made come as `Sized`."""
        kwargs = kwargs or {}
        if _annotate is None:
            return func(*args, **kwargs)
        if func in _READS:
            return self._sized(func(*args, **kwargs), *args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__"):  # of a dtype, a device: export itself asks for hundreds
            return func(*args, **kwargs)
        call, found = len(self.calls), Call("", (), {})
        if any(isinstance(x, (Planted, PlantedFloat)) for x in _numbers((args, kwargs))):
            found = Call(name, *pytree.tree_map(lambda x: None if isinstance(x, Tensor) else x, (args, kwargs)))
        self.calls.append(found)
        with _annotate({TAG: call}):
            result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self._made_by[result] = call
        return result

    def _sized(self, sizes: Any, tensor: Tensor, dim: int | None = None) -> Any:
        call = self._made_by.get(tensor)
        if call is None:
            return sizes

        def sized(size: int, dim: int) -> Sized:
            return Sized(size, lambda source: self.matches.setdefault(Match(source, call, dim)))

        if dim is not None:
            return sized(sizes, dim)
        return torch.Size([sized(size, dim) for dim, size in enumerate(sizes)])


@contextmanager
def planting(model: nn.Module) -> Iterator[Recorder]:
    """Plant the model's numbers, record where they arrive, and put the plain ones back."""
    originals: list[tuple[dict[str, Any], str, Any]] = []
    recorder = Recorder()
    holders = list(_holders(model))
    try:
        for path, holder, in_module in holders:
            for name, value in list(holder.items()):
                planted = _plant(value, f"{path}.{name}".lstrip("."), in_module)
                if planted is not None:
                    originals.append((holder, name, value))
                    holder[name] = planted
        with passed_by((Planted, PlantedFloat)), traceback.preserve_node_meta(), recorder:
            yield recorder
    finally:
        for _, holder, _ in holders:
            for name, value in holder.items():  # what forward itself has stored
                if isinstance(value, (Sized, PlantedFloat)):
                    holder[name] = int(value) if isinstance(value, Sized) else float(value)
        for holder, name, value in originals:
            holder[name] = value


def _plant(value: Any, path: str, in_module: bool) -> Any:
    """Return the planted form of a number, or of a tuple or list of integers; None for anything else."""
    if type(value) is int:
        return Planted(value, Attribute(path, value, in_module))
    if type(value) is float:
        return PlantedFloat(value, Attribute(path, value, in_module))
    if type(value) in (tuple, list) and value and all(type(x) is int for x in value):
        return type(value)(Planted(x, Attribute(f"{path}[{i}]", x, in_module)) for i, x in enumerate(value))
    return None


def _holders(model: nn.Module) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield the attributes of every module and of the plain objects that modules hold, such as a config."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        yield path, module.__dict__, True
        for name, value in list(module.__dict__.items()):
            if not name.startswith("_"):
                yield from _nested(f"{path}.{name}".lstrip("."), value, seen)


def _nested(path: str, value: Any, seen: set[int]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield a plain object's attributes and those of the objects within it: a config with a text config."""
    if isinstance(value, (nn.Module, Tensor, type, ModuleType)) or callable(value) or id(value) in seen:
        return
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        seen.add(id(value))
        yield path, attributes, False
        for name, inner in list(attributes.items()):
            yield from _nested(f"{path}.{name}", inner, seen)
