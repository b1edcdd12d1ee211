"""What goes together: units of a weight, and units of a coupled group."""

from prunus.granularity.depth import LAYERS, block_target
from prunus.granularity.joined import JoinedUnits, WholeBlock
from prunus.granularity.kinds import (
    FIXED,
    GROUP_KINDS,
    NM,
    Block,
    Channel,
    Depth,
    Element,
    Filter,
    Granularity,
    Kernel,
    Shape,
    Vector,
    granularity,
    unpermuted,
)
from prunus.granularity.names import TargetSpec, as_list, read, with_protection
from prunus.granularity.patterns import Pattern, PatternUnits, Tetris, pattern_library
from prunus.granularity.permutation import kept_saliency, permutation_for
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
from prunus.granularity.turned import TurnedUnits
from prunus.granularity.units import MemberUnits, NMUnits, TileUnits, Units

__all__ = [
    "COUPLED",
    "FIXED",
    "GROUP_KINDS",
    "LAYERS",
    "NM",
    "Block",
    "Channel",
    "Depth",
    "Element",
    "Filter",
    "Granularity",
    "JoinedUnits",
    "Kernel",
    "MemberUnits",
    "NMUnits",
    "Part",
    "Pattern",
    "PatternUnits",
    "Piece",
    "Shape",
    "Target",
    "TargetSpec",
    "Tetris",
    "TileUnits",
    "TurnedUnits",
    "Units",
    "Vector",
    "WholeBlock",
    "as_list",
    "block_target",
    "check_targets",
    "find_targets",
    "granularity",
    "group_targets",
    "kept_saliency",
    "pattern_library",
    "permutation_for",
    "read",
    "unpermuted",
    "weight_targets",
    "with_protection",
]
