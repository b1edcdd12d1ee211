"""What does it cost me? The sensitivity analysis and its curves."""

from prunus.sensitivity.analysis import perform_sensitivity_analysis
from prunus.sensitivity.costs import Costs, Left, TargetCost, target_costs
from prunus.sensitivity.curves import Curves

__all__ = ["Costs", "Curves", "Left", "TargetCost", "perform_sensitivity_analysis", "target_costs"]
