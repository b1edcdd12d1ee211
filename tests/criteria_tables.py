"""Pieces made of a table of units, for criteria that are looked at by themselves."""

import torch

from prunus.criteria import collect_for, criterion, score_target
from prunus.granularity import Part, Piece, Units, find_targets
from prunus.plans import named_state
from prunus.statistics import calibration


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


def scores_of(model, spec, data, loss=None, granularity="element", graph=None, targets="*", **options):
    """Scores by target, as a criterion gives them on calibration data; elements in the weight's shape."""
    wanted = find_targets(model, granularity, targets, graph)
    rank = criterion(spec)
    seen = collect_for(model, rank, wanted, calibration(data, loss))
    found = {t.name: score_target(t, named_state(model), rank, seen, **options) for t in wanted}
    if granularity != "element":
        return found
    return {name: scores.reshape(named_state(model)[name].shape) for name, scores in found.items()}
