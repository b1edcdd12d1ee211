"""A session from its first check to its last line: what every command on a recipe does around its own work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prunus.recipes.folder import RunFolder
from prunus.recipes.opening import Opened
from prunus.recipes.parts import find_parts
from prunus.recipes.rehearsal import rehearse
from prunus.recipes.schema import Sensitivity
from prunus.recipes.session import Session
from prunus.runtimes import device
from prunus.training import Reporter


def check_device(name: str | None) -> None:
    """Raise InputError where the runtime whose latency is wanted, if any is, is not installed."""
    if name is not None:
        _ = device(name).version


@contextmanager
def begun(
    opened: Opened, folder: RunFolder, reporter: Reporter, *, sensitivity: Sensitivity | None = None
) -> Iterator[Session]:
    """Give the session of a recipe in its folder, with the recipe's number of threads while it lasts.

    Where the folder is new, one batch goes through everything before it is claimed.
    sensitivity: an analysis in the place of the recipe's own; the folder stays that of the recipe as it is.
    Raises PrunusError in one sentence.
    """
    recipe, before = opened.recipe, torch.get_num_threads()
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    try:
        asked = recipe if sensitivity is None else recipe.model_copy(update={"sensitivity": sensitivity})
        session = Session(asked, find_parts(recipe, opened.folders), folder, reporter)
        if folder.earlier is None:
            rehearse(session)
        folder.claim(recipe.plain(), opened.text)
        yield session
    finally:
        torch.set_num_threads(before)
