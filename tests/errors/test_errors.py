"""A key before the sentence, the kind of error kept."""

from __future__ import annotations

import pytest

from prunus.errors import InputError, NameNotFound, RecipeError, naming


@pytest.mark.parametrize(
    ("given", "kept"),
    [(InputError("x is 3"), InputError), (NameNotFound("no y"), NameNotFound), (RecipeError("z"), InputError)],
)
def test_naming_puts_the_key_before_the_sentence(given: InputError, kept: type[InputError]) -> None:
    with pytest.raises(InputError, match=f"^granularity: {given}$") as caught, naming("granularity"):
        raise given
    assert type(caught.value) is kept
    assert caught.value.__cause__ is given


def test_naming_leaves_other_errors_alone() -> None:
    with pytest.raises(ZeroDivisionError), naming("granularity"):
        _ = 1 / 0
