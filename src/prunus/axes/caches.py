"""Function caches (`functools.lru_cache`) take a planted integer for its equal; while planting, they must not."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import _pytree as pytree


@contextmanager
def passed_by(kinds: tuple[type, ...]) -> Iterator[None]:
    """Let every cached function of a loaded module compute anew, and store nothing, for arguments of these kinds.

    A cache would answer with the name that the number had in another layer, or another model, or with none.
    """
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    for name, module in list(sys.modules.items()):
        if module is None or name.partition(".")[0] == "torch":
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, functools._lru_cache_wrapper):
                replaced.append((vars(module), attribute, value))
    try:
        for holder, attribute, cached in replaced:
            holder[attribute] = _past(cached, kinds)
        yield
    finally:
        for holder, attribute, cached in replaced:
            holder[attribute] = cached


def _past(cached: Any, kinds: tuple[type, ...]) -> Callable[..., Any]:
    @functools.wraps(cached)
    def call(*args: Any, **kwargs: Any) -> Any:
        named = any(isinstance(leaf, kinds) for leaf in pytree.tree_leaves((args, kwargs)))
        return cached.__wrapped__(*args, **kwargs) if named else cached(*args, **kwargs)

    for method in ("cache_info", "cache_clear", "cache_parameters"):
        setattr(call, method, getattr(cached, method))
    return call
