"""Which ratios? AMC, NetAdapt, evolution and Bayesian search against a budget, and the Pareto front they saw."""

from prunus.search.amc import AMC
from prunus.search.ddpg import Settings
from prunus.search.netadapt import NetAdapt
from prunus.search.problem import Method
from prunus.search.result import SearchResult
from prunus.search.sampled import Bayes, Evolve
from prunus.search.searching import METHODS, find_method, search
from prunus.search.trials import Trial, TrialStore, pareto

__all__ = [
    "AMC",
    "METHODS",
    "Bayes",
    "Evolve",
    "Method",
    "NetAdapt",
    "SearchResult",
    "Settings",
    "Trial",
    "TrialStore",
    "find_method",
    "pareto",
    "search",
]
