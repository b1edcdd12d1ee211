"""What hangs together? Capture a model, follow every axis, find the groups that go as one."""

from prunus.axes.context import Inexact
from prunus.axes.describe import exactness_of, facts_of, limits, units_of
from prunus.axes.graph import Graph, Scale, Size, Surgery, trace
from prunus.axes.groups import Frozen, Group, Member
from prunus.axes.size_terms import Polynomial, SizeTerms, evaluate, size_terms
from prunus.axes.unwrap import copied, unwrapped

__all__ = [
    "Frozen",
    "Graph",
    "Group",
    "Inexact",
    "Member",
    "Polynomial",
    "Scale",
    "Size",
    "SizeTerms",
    "Surgery",
    "copied",
    "evaluate",
    "exactness_of",
    "facts_of",
    "limits",
    "size_terms",
    "trace",
    "units_of",
    "unwrapped",
]
