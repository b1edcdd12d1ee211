"""Channel pruning by regression, layer by layer: choose the channels that the others can make up for, then refit.

Each group is decided on what the layers before, pruned and refitted already, hand on; the aim is always what the dense
model computes there. He et al. 2017 (arXiv:1707.06168), sections 3.1 and 3.2; Luo et al. 2017 (arXiv:1707.06342).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from prunus.errors import InputError, NameNotFound
from prunus.granularity import MemberUnits, Part, Target
from prunus.plans import named_state
from prunus.solvers.base import Solver
from prunus.solvers.channels import greedy_order, lasso_choice
from prunus.solvers.mend import LayerProblem, Mending, observed, solve_observed
from prunus.statistics import Calibration, Layer, readings

Selector = Literal["lasso", "thinet"]


@torch.no_grad()
def regress_(
    model: nn.Module,
    reference: nn.Module,
    targets: Sequence[Target],
    counts: Mapping[str, int],
    solver: Solver,
    calibration: Calibration,
    *,
    selector: Selector = "lasso",
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[dict[str, Tensor], Mending]:
    """Choose and zero units of each group, and refit the weights that read it, in the order in which these run.

    model: a copy of the dense `reference`; it is changed. targets: coupled groups; counts: how many units each loses.
    selector: `lasso` raises λ until the wanted number of coefficients is left; `thinet` removes greedily what changes
        the readers' outputs least. solver: refits, such as `lstsq`.
    Returns target -> (U,) bool, True where pruned, and what the refits did.
    Memory: as `prunus.solvers.mend_`; time: two passes over the data per reader.
    Raises InputError, naming the group, where no weight that reads it can be observed.
    """
    if selector not in get_args(Selector):
        raise NameNotFound.of("selector", str(selector), get_args(Selector))
    tensors, dense = named_state(model), named_state(reference)
    names = {part.param for target in targets for part in target.parts if part.role == "in"}
    order = readings(reference, names, calibration)
    places = {name: place for place, name in enumerate(order)}
    readers = {target.name: _readers(target, order) for target in targets}
    done, pruned = Mending(), dict[str, Tensor]()
    for target in sorted(targets, key=lambda t: min(places[part.param] for part in readers[t.name])):
        parts = readers[target.name]
        problems = [observed(order[p.param], model, reference, calibration, dense[p.param]) for p in parts]
        pruned[target.name] = _choose(target, parts, problems, dense, counts[target.name], selector)
        for part in target.parts:
            if tensors[part.param].is_floating_point():
                keep = part.units.scatter(pruned[target.name]).to(tensors[part.param].device)
                done.masks[part.param] = done.masks[part.param] & keep if part.param in done.masks else keep
                tensors[part.param].masked_fill_(~keep, 0)
        for part, problem in zip(parts, problems, strict=True):
            solved = solve_observed(problem, dense[part.param], done.masks[part.param], solver)
            before = problem.error(dense[part.param] * solved.keep)
            tensors[part.param].copy_(solved.weight)
            done.errors[part.param] = (before, problem.error(solved.weight))
        if progress is not None:
            progress(len(pruned), len(targets), target.name)
    return pruned, done


def _readers(target: Target, order: Mapping[str, Layer]) -> list[Part]:
    found = [
        part
        for part in target.parts
        if part.role == "in" and part.param in order and _reads_alone(order[part.param], part)
    ]
    if not found:
        raise InputError(
            f"{target.name}: no linear map or ungrouped convolution that reads it could be observed, so there is "
            "nothing to regress on; protect it, or use another criterion"
        )
    return found


def _reads_alone(layer: Layer, part: Part) -> bool:
    """Whether the part's dim is that of the layer's columns."""
    dim = 0 if layer.is_transposed else 1
    return layer.kind != "conv_transpose" and layer.groups == 1 and _members(part).dim == dim


def _members(part: Part) -> MemberUnits:
    assert isinstance(part.units, MemberUnits)
    return part.units


def _choose(
    target: Target,
    parts: Sequence[Part],
    problems: Sequence[LayerProblem],
    dense: Mapping[str, Tensor],
    count: int,
    selector: Selector,
) -> Tensor:
    """Join what all readers say of the units, each relative to the energy of its output; True where pruned."""
    quadratic = torch.zeros(target.num_units, target.num_units, dtype=torch.float64)
    linear, norms = quadratic.new_zeros(target.num_units), quadratic.new_zeros(target.num_units)
    for part, problem in zip(parts, problems, strict=True):
        a, b, squares = unit_regression(problem, dense[part.param], _members(part).index)
        energy = problem.energy or 1.0
        quadratic += a.cpu() / energy
        linear += b.cpu() / energy
        norms += squares.cpu() / energy
    if selector == "thinet":
        return greedy_order(quadratic) < count
    scale = torch.where(norms > 0, norms.rsqrt(), 0.0)
    kept, _ = lasso_choice(scale[:, None] * quadratic * scale, scale * linear, target.num_units - count)
    return ~kept


def unit_regression(problem: LayerProblem, weight: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute A_ij = <Z_i, Z_j>, b_i = <Z_i, Y − Z_rest> and ‖W_i‖² of units that read several columns each.

    Z_i is what unit i gives to the output: its columns of X times those of W. index: (U, k), the unit's positions along
    the weight's inputs. Columns that belong to no unit are Z_rest.
    Returns (U, U), (U,) and (U,), float64.
    """
    w, gram, goal = problem.matrices(weight)[0].double(), problem.gram[0].double(), problem.goal[0].double()
    taps = w.shape[1] // weight.shape[0 if problem.layer.is_transposed else 1]
    columns = (index.to(w.device).unsqueeze(-1) * taps + torch.arange(taps, device=w.device)).flatten(1)
    num_units, flat = len(columns), columns.flatten()
    rest = w.clone()
    rest[:, flat] = 0
    both = ((w.T @ w) * gram)[flat][:, flat].reshape(num_units, columns.shape[1], num_units, columns.shape[1])
    right = (w * (goal - rest @ gram)).sum(dim=0)
    return both.sum(dim=(1, 3)), right[columns].sum(dim=1), w.square().sum(dim=0)[columns].sum(dim=1)
