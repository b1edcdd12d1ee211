"""Which groups a failed proof is about: those without which the rest is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from prunus.axes import Graph
from prunus.errors import ProofError

Kept = Mapping[str, Tensor]
Sets = Sequence[tuple[str, ...]]
MOST_PROOFS = 64


def culprits(graph: Graph, kept: Kept, holds: Callable[[Kept], bool]) -> tuple[str, ...]:
    """Return the groups that cannot lose units; none where nothing is right without them.

    They are found by halving, in about 2·log2(G) proofs each and 2·G at most. Where that takes too many, all groups of
    a kind are named, such as every attention of a deep class that spells out its number of heads. Groups of
    `Graph.equal` stand and fall together.
    kept: what the failed plan keeps. holds: whether a plan that keeps this is proved.
    """
    equal = {name: names for names in graph.equal for name in names}
    sets = list(dict.fromkeys(tuple(n for n in equal.get(name, (name,)) if n in kept) for name in kept))
    found = _halved(sets, lambda some: holds(_of(kept, some)), limit=MOST_PROOFS)
    for blamed in [found] if found else _by_kind(graph, sets):
        innocent = [names for names in sets if names not in blamed]
        if innocent and holds(_of(kept, innocent)):
            return tuple(name for names in sets if names in blamed for name in names)
    return ()


def _halved(sets: Sets, holds: Callable[[Sets], bool], limit: int) -> Sets:
    """Return the sets that fail by themselves; none where that takes more than `limit` proofs."""
    found: list[tuple[str, ...]] = []
    suspects = [(sets, True)]  # the last in the list is looked at first
    for _ in range(limit):
        if not suspects:
            return found
        some, known_to_fail = suspects.pop()
        if not known_to_fail and holds(some):
            continue
        if len(some) == 1:
            found.append(some[0])
        else:
            middle = len(some) // 2
            suspects += [(some[:middle], False), (some[middle:], False)]
    return [] if suspects else found


def _by_kind(graph: Graph, sets: Sets) -> Iterator[Sets]:
    for kind in dict.fromkeys(graph[names[0]].kind for names in sets):
        yield [names for names in sets if graph[names[0]].kind == kind]


def _of(kept: Kept, sets: Sets) -> Kept:
    return {name: kept[name] for names in sets for name in names}


def naming_culprits(error: ProofError, names: tuple[str, ...]) -> ProofError:
    """Return the error with the groups that it is about, and what to do without them."""
    if not names:
        return error
    return ProofError(
        f"{error}. Units of all groups but these can go: protect={{'group': {list(names)}}}", groups=names
    )
