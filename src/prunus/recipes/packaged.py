"""The quickstart: a packaged recipe on the data that can be had."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from prunus import zoo
from prunus.errors import FileError
from prunus.recipes.folder import found_run
from prunus.recipes.opening import Opened, open_recipe
from prunus.training import Reporter, Silent

FASHION, DIGITS = "fashion-mnist", "digits"
RECIPES = {FASHION: "quickstart_fashion.yaml", DIGITS: "quickstart_digits.yaml"}


def quickstart(data: str, out: Path, *, reporter: Reporter | None = None) -> Opened:
    """The recipe of the quickstart.

    data: fashion-mnist, digits, or auto: what the run in `out` uses, else Fashion-MNIST if it can be had, else digits.
    Raises FileError where the data that was asked for is nowhere.
    """
    chosen = _chosen(out, reporter or Silent()) if data == "auto" else data
    with as_file(files("prunus.recipes") / RECIPES[chosen]) as path:
        return open_recipe(path, out=str(out))


def _chosen(out: Path, reporter: Reporter) -> str:
    earlier = found_run(out)
    if earlier is not None:
        return DIGITS if "digits" in earlier["recipe"]["data"]["factory"] else FASHION
    try:
        zoo.fashion_mnist()
    except FileError as error:
        reporter.say(f"using the digits of scikit-learn: {error}")
        return DIGITS
    return FASHION
