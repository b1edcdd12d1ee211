"""Which input channels a layer can do without, by regression on what it computes; and weights that make up for them.

Everything is a function of the weight (O, C, K) and of Gram matrices of the layer's unfolded inputs X, (T, C·K): K is
kh·kw for a convolution, whose inputs `torch.nn.functional.unfold` lays out as (C, K), and 1 for a linear layer. With
Z_c = X_c W_cᵀ, what channel c gives to the outputs, the layer computes Y = Σ_c Z_c. A grouped convolution is one such
layer per group.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.selection import lowest_k
from prunus.solvers.lasso import lasso_path

DAMP = 1e-6


def channel_gram(weight: Tensor, gram: Tensor, cross: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute A_ij = <Z_i, Z_j> and b_i = <Z_i, Y>, summed over samples and outputs.

    weight: (O, C, K). gram: (C·K, C·K), XᵀX. cross: (C·K, C·K), XᵀX_dense where the layers before were pruned: then Y
        comes from X_dense.
    Returns (C, C) and (C,), float64.
    Raises InputError when the shapes disagree.
    """
    _check(weight, gram, cross)
    num_outputs, num_channels, kernel = weight.shape
    w_OCK = weight.detach().double()
    blocks = gram.double().reshape(num_channels, kernel, num_channels, kernel)
    quadratic = torch.einsum("oik,iklm,olm->il", w_OCK, blocks, w_OCK)
    if cross is None:
        return quadratic, quadratic.sum(dim=1)
    flat = w_OCK.reshape(num_outputs, -1)
    seen = (flat @ cross.double().T).reshape(w_OCK.shape)
    return quadratic, (w_OCK * seen).sum(dim=(0, 2))


def lasso_channels(weight: Tensor, gram: Tensor, num_kept: int, cross: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Choose channels by LASSO: λ is raised until no more than `num_kept` coefficients are left.

    minimise ½‖Y − Σ_c β_c X_c Ŵ_cᵀ‖² + λ‖β‖₁ with every Ŵ_c = W_c / ‖W_c‖, so that β_c is ‖W_c‖ while all is dense.
    Where the path jumps over the wanted count, those left behind the jump stay, and the largest |β| before it fill up;
    ties prune the lowest index.
    weight, gram, cross: as in `channel_gram`. num_kept: 0 to C.
    Returns kept, (C,) bool with `num_kept` True, and β, (C,) float64, 0 where pruned.
    Raises InputError when shapes or count are wrong.
    Source: He et al. 2017, arXiv:1707.06168, section 3.1; then `refit`.
    """
    _num_pruned(weight, num_kept)
    kept, beta = lasso_choice(*_normalised(weight, gram, cross), num_kept)
    return kept.to(weight.device), beta.to(weight.device)


def lasso_choice(quadratic: Tensor, linear: Tensor, num_kept: int) -> tuple[Tensor, Tensor]:
    """Choose by LASSO from A and b of unit-norm slices; see `lasso_channels`.

    Returns kept, (C,) bool, and β, (C,) float64.
    """
    before = after = None
    for step in lasso_path(quadratic, linear):
        before, after = after, step.beta
        if int((after != 0).sum()) <= num_kept:
            break
    assert after is not None
    earlier = after if before is None else before
    left = after != 0
    kept = ~lowest_k([torch.where(left, torch.inf, earlier.abs())], len(linear) - num_kept)[0]
    return kept, torch.where(left, after, earlier) * kept


def lasso_order(weight: Tensor, gram: Tensor, cross: Tensor | None = None) -> Tensor:
    """Score each channel by the λ at which its LASSO coefficient first becomes zero; low means prune.

    weight, gram, cross: as in `channel_gram`.
    Returns (C,) float64. The k lowest are what `lasso_channels` prunes, unless a coefficient comes back on the way.
    Source: as `lasso_channels`.
    """
    scores = torch.full((weight.shape[1],), -1.0, dtype=torch.float64)
    for step in lasso_path(*_normalised(weight, gram, cross)):
        scores[(step.beta == 0) & (scores < 0)] = step.penalty
    return scores.to(weight.device)


def thinet_order(weight: Tensor, gram: Tensor) -> Tensor:
    """Score each channel by the step at which the greedy choice removes it: 0 goes first, C − 1 last.

    Each step removes the channel with which ‖Σ_removed Z_c‖² stays least; ties the lowest index.
    weight, gram: as in `channel_gram`.
    Returns (C,) float64.
    Source: Luo et al. 2017, arXiv:1707.06342, algorithm 1.
    """
    return greedy_order(channel_gram(weight, gram)[0])


def greedy_order(quadratic: Tensor) -> Tensor:
    """Order channels by greedy removal from A alone, (C, C); see `thinet_order`."""
    diagonal = quadratic.diagonal()
    order = torch.full_like(diagonal, -1.0)
    interaction = torch.zeros_like(diagonal)
    for step in range(len(order)):
        # What the removed set's energy grows by; what is removed already cannot be chosen again.
        growth = torch.where(order < 0, diagonal + 2 * interaction, torch.inf)
        chosen = int(growth.argmin())
        order[chosen] = step
        interaction += quadratic[:, chosen]
    return order


def thinet_channels(weight: Tensor, gram: Tensor, num_kept: int) -> Tensor:
    """Choose channels by ThiNet's greedy removal.

    weight, gram, num_kept: as in `lasso_channels`.
    Returns kept, (C,) bool.
    Source: as `thinet_order`.
    """
    return thinet_order(weight, gram) >= _num_pruned(weight, num_kept)


def refit(weight: Tensor, gram: Tensor, kept: Tensor, cross: Tensor | None = None, *, damp: float = DAMP) -> Tensor:
    """Solve least squares for the weights of the kept channels: minimise ‖X_S W'_Sᵀ − Y‖².

    weight, gram, cross: as in `channel_gram`; Y comes from the dense inputs where `cross` is given.
    kept: (C,) bool.
    damp: where X_S is short of rank, damp · mean(diagonal) is added to its Gram matrix, and only there.
    Returns (O, C, K), the weight's dtype, 0 on pruned channels.
    Source: He et al. 2017, arXiv:1707.06168, eq. 3.
    """
    _check(weight, gram, cross)
    if kept.shape != weight.shape[1:2] or kept.dtype != torch.bool:
        raise InputError(f"kept is {kept.dtype} {tuple(kept.shape)}; bool ({weight.shape[1]},) is wanted")
    inside = kept.repeat_interleave(weight.shape[2])
    target = (gram if cross is None else cross)[inside].double() @ weight.detach().double().flatten(1).T
    solved = torch.zeros(len(inside), weight.shape[0], dtype=torch.float64, device=weight.device)
    solved[inside] = torch.cholesky_solve(target, _factor(gram[inside][:, inside].double(), damp))
    return solved.T.reshape(weight.shape).to(weight.dtype)


def _factor(gram: Tensor, damp: float) -> Tensor:
    """The Cholesky factor; a matrix whose rank float64 cannot vouch for gets a ridge first."""
    diagonal = gram.diagonal()
    factor, info = torch.linalg.cholesky_ex(gram)
    floor = torch.finfo(torch.float64).eps * len(gram) * diagonal.max() if len(gram) else 0.0
    if int(info) == 0 and bool((factor.diagonal().square() > floor).all()):
        found: Tensor = factor
        return found
    # A layer whose inputs are all zero has no scale of its own.
    ridge = damp * (float(diagonal.mean()) or 1.0)
    ridged: Tensor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    return ridged


def _normalised(weight: Tensor, gram: Tensor, cross: Tensor | None) -> tuple[Tensor, Tensor]:
    """A and b of the unit-norm slices Ŵ_c; a slice of zeros stays zero."""
    quadratic, linear = channel_gram(weight, gram, cross)
    norms = torch.linalg.vector_norm(weight.detach().double(), dim=(0, 2))
    scale = torch.where(norms > 0, 1 / norms, 0.0)
    return (scale[:, None] * quadratic * scale).cpu(), (scale * linear).cpu()


def _num_pruned(weight: Tensor, num_kept: int) -> int:
    if weight.dim() != 3 or not 0 <= num_kept <= weight.shape[1]:
        raise InputError(f"num_kept is {num_kept} for a weight of {tuple(weight.shape)}; choose 0 to C of (O, C, K)")
    return weight.shape[1] - num_kept


def _check(weight: Tensor, gram: Tensor, cross: Tensor | None) -> None:
    if weight.dim() != 3:
        raise InputError(f"the weight has shape {tuple(weight.shape)}; (outputs, channels, kernel) is wanted")
    size = math.prod(weight.shape[1:])
    for name, matrix in (("gram", gram), ("cross", cross)):
        if matrix is not None and matrix.shape != (size, size):
            raise InputError(f"{name} has shape {tuple(matrix.shape)}; {(size, size)} fits {tuple(weight.shape)}")
