"""What does it cost me? The sensitivity analysis and its curves."""

from prunus.sensitivity.analysis import perform_sensitivity_analysis
from prunus.sensitivity.costs import Costs, Left, TargetCost, target_costs
from prunus.sensitivity.curves import Curves
from prunus.sensitivity.cutting import mode_of
from prunus.sensitivity.store import merge

__all__ = ["Costs", "Curves", "Left", "TargetCost", "merge", "mode_of", "perform_sensitivity_analysis", "target_costs"]
