"""What goes together: units of a weight, and units of a coupled group."""

from prunus.granularity.kinds import (
    NM,
    Block,
    Channel,
    Element,
    Filter,
    Granularity,
    Kernel,
    Vector,
    granularity,
)
from prunus.granularity.names import TargetSpec, as_list, read
from prunus.granularity.targets import (
    COUPLED,
    Part,
    Piece,
    Target,
    check_targets,
    find_targets,
    group_targets,
    weight_targets,
)
from prunus.granularity.units import MemberUnits, NMUnits, TileUnits, Units

__all__ = [
    "COUPLED",
    "NM",
    "Block",
    "Channel",
    "Element",
    "Filter",
    "Granularity",
    "Kernel",
    "MemberUnits",
    "NMUnits",
    "Part",
    "Piece",
    "Target",
    "TargetSpec",
    "TileUnits",
    "Units",
    "Vector",
    "as_list",
    "check_targets",
    "find_targets",
    "granularity",
    "group_targets",
    "read",
    "weight_targets",
]
