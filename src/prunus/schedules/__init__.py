"""When? Schedules, policies, stop conditions, the accuracy guard, and the scheduler that runs them."""

from prunus.schedules.guard import AccuracyGuard
from prunus.schedules.kinds import AGP, Iterative, OneShot, Schedule
from prunus.schedules.parse import Settings, parse_settings, read_settings
from prunus.schedules.policy import Policy
from prunus.schedules.reading import schedule
from prunus.schedules.repeating import BaiduRNN, Listed, Repeated, Repeating
from prunus.schedules.scheduler import EpochStatus, PruningScheduler
from prunus.schedules.start import sparse
from prunus.schedules.stop import Stop, StopAtBudget, StopAtSparsity
from prunus.schedules.threshold import MagnitudeParameterPruner
from prunus.schedules.time import Time

__all__ = [
    "AGP",
    "AccuracyGuard",
    "BaiduRNN",
    "EpochStatus",
    "Iterative",
    "Listed",
    "MagnitudeParameterPruner",
    "OneShot",
    "Policy",
    "PruningScheduler",
    "Repeated",
    "Repeating",
    "Schedule",
    "Settings",
    "Stop",
    "StopAtBudget",
    "StopAtSparsity",
    "Time",
    "parse_settings",
    "read_settings",
    "schedule",
    "sparse",
]
