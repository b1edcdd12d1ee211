"""The short way: trace, decide, prove, thin, measure, in one call."""

from prunus.oneshot.deciding import plan
from prunus.oneshot.pruning import prune
from prunus.oneshot.report import LANES, PruneReport

__all__ = ["LANES", "PruneReport", "plan", "prune"]
