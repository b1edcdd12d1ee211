"""How is the rest mended? Solvers choose a layer's mask and refit what is left, from W and G = XᵀX alone."""

from prunus.solvers.admm import ADMM
from prunus.solvers.alps import ALPS
from prunus.solvers.base import Solved, Solver, register, solver, solver_names
from prunus.solvers.exact_obs import ExactOBS
from prunus.solvers.layers import matrix_of, solve_layer, weight_of
from prunus.solvers.least_squares import LeastSquares
from prunus.solvers.mend import Mending, Propagate, mend_
from prunus.solvers.pattern import Pattern
from prunus.solvers.problem import relative_error
from prunus.solvers.regression import Selector, regress_
from prunus.solvers.sparsegpt import SparseGPT
from prunus.solvers.swaps import Swaps, improve_mask

for _member in (ADMM, ALPS, ExactOBS, LeastSquares, SparseGPT, Swaps):
    register(_member.word, _member)

__all__ = [
    "ADMM",
    "ALPS",
    "ExactOBS",
    "LeastSquares",
    "Mending",
    "Pattern",
    "Propagate",
    "Selector",
    "Solved",
    "Solver",
    "SparseGPT",
    "Swaps",
    "improve_mask",
    "matrix_of",
    "mend_",
    "register",
    "regress_",
    "relative_error",
    "solve_layer",
    "solver",
    "solver_names",
    "weight_of",
]
