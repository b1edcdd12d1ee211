"""Pieces made of a table of units, for criteria that are looked at by themselves."""

import torch

from prunus.granularity import Part, Piece, Units


class Rows(Units):
    """A matrix whose rows are the units; `counts` says how many of a row's elements are no padding."""

    is_slice = True

    def gather(self, tensor):
        return tensor

    def scatter(self, pruned):
        return (~pruned).unsqueeze(1).expand(self.shape)


def rows(table, counts=None, name="w", role="own"):
    counts = torch.full((table.shape[0],), table.shape[1]) if counts is None else counts
    return Piece(name, Part(name, Rows(table.shape, counts), True, role), table)
