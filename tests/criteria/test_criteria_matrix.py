"""Every criterion with every granularity: finite scores or one clear sentence; and the page that says which."""

import pytest
from scripts.write_matrix import COLUMNS, PAGE, scores_of, traced_nets, written

from prunus.criteria import criterion_names
from prunus.errors import InputError


@pytest.fixture(scope="module")
def nets():
    return traced_nets()


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("word", criterion_names())
def test_scores_are_finite_or_the_reason_is_one_sentence(word, column, nets):
    said, scores = None, []
    try:
        scores = scores_of(*nets[column], word, column)
    except InputError as error:
        said = str(error)
    assert (said is None) == bool(scores)
    assert all(each.numel() and each.isfinite().all() for each in scores)
    assert said is None or ("\n" not in said and 40 < len(said) < 300)


def test_the_matrix_of_the_page_is_the_one_in_force():
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "write it anew with: python scripts/write_matrix.py"
