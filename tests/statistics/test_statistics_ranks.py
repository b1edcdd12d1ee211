"""Two processes that see half of the data each hold, once they have added up, what one process sees of all."""

import subprocess
import sys

import pytest
import torch
from torch import distributed

import two_ranks

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="torch was built without distributed")


def run(case, folder):
    """What each of the two ranks saved."""
    outs = [folder / f"{case}{rank}.pt" for rank in (0, 1)]
    commands = [[sys.executable, two_ranks.__file__, str(r), str(folder / case), case, str(outs[r])] for r in (0, 1)]
    ranks = [subprocess.Popen(command) for command in commands]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    return [torch.load(out) for out in outs]


def test_both_ranks_hold_the_sums_and_counts_of_one_process_on_all_data(tmp_path):
    whole = two_ranks.observed(two_ranks.model(), two_ranks.batches())
    # A query and a key that read one tensor hold one Gram matrix.
    assert whole.sum("gram", "query.weight") is whole.sum("gram", "key.weight")
    for rank in run("halves", tmp_path):
        strided = rank["sums"].pop(two_ranks.STRIDED)
        assert torch.equal(strided, 2 * torch.arange(6.0).reshape(2, 3).T)
        assert set(rank["sums"]) == set(whole)
        assert {key[0] for key in whole} == set(two_ranks.WHICH)
        for key in whole:
            torch.testing.assert_close(rank["sums"][key], whole.sum(*key))
            assert rank["counts"][key] == whole.count(*key)
        assert torch.equal(rank["sums"]["gram", "query.weight"], rank["sums"]["gram", "key.weight"])


def test_a_layer_that_ran_on_one_rank_only_is_named_on_both(tmp_path):
    for rank in run("torn", tmp_path):
        assert rank["error"].startswith("extra.weight: gram was observed on rank 1 but not on rank 0")


def test_sums_of_different_shapes_are_named(tmp_path):
    for rank in run("shapes", tmp_path):
        assert rank["error"].startswith("out.weight: gram is (1, 4, 4) torch.float64 on rank 0 and (1, 2, 2)")
