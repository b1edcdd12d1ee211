"""The short way: trace, decide, prove, thin, measure, in one call."""

from prunus.oneshot.deciding import plan
from prunus.oneshot.pruning import prune
from prunus.oneshot.report import PruneReport

__all__ = ["PruneReport", "plan", "prune"]
