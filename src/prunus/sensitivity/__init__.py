"""What does it cost me? The sensitivity analysis and its curves."""

from prunus.sensitivity.analysis import perform_sensitivity_analysis
from prunus.sensitivity.curves import Curves

__all__ = ["Curves", "perform_sensitivity_analysis"]
