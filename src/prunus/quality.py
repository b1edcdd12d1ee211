"""Whether more of a metric is better."""

from __future__ import annotations

from typing import Literal, get_args

from prunus.errors import NameNotFound

Mode = Literal["max", "min"]
"""`max` for accuracies, `min` for losses, whose drop is their rise."""


def sign_of(mode: str, what: str = "mode") -> float:
    """Return 1 for `max`, -1 for `min`, by which a metric is multiplied so that more is better.

    what: how the mode is called in the message. Raises NameNotFound for another.
    """
    if mode not in get_args(Mode):
        raise NameNotFound.of(what, str(mode), get_args(Mode))
    return 1.0 if mode == "max" else -1.0
