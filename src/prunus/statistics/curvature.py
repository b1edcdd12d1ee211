"""Statistics of the loss's curvature: diagonals of the Hessian and of the Gauss-Newton matrix, Hessian times gradient.

All memory: one float32 per weight and sum (float64 for float64 weights), beside the graph of a backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from prunus.errors import InputError, TrainingError
from prunus.granularity import Piece
from prunus.statistics.calibration import Batch, Calibration
from prunus.statistics.kinds import OfModel, register, wide
from prunus.statistics.store import Statistics

LARGEST_OUTPUT = 4096
"""Numbers of a sample's output at most, since the loss's Hessian there is made whole."""


def hessian(probes: int = 8) -> OfModel:
    """Σ over mini-batches and probes of v ⊙ Hv, of the weight's shape: on average the diagonal of the Hessian.

    probes: seeded vectors v of −1 and 1 per mini-batch, over all weights that are asked for; each costs a backward
        pass through the backward pass. Over all 2ⁿ vectors the mean is exact.
    Source: Hutchinson 1990; Bekas et al. 2007.
    """
    if type(probes) is not int or probes < 1:
        raise InputError(f"probes of hessian is {probes!r}; a whole number of at least 1 is wanted")

    def collect_(
        model: nn.Module, pieces: Sequence[Piece], calibration: Calibration, found: Statistics, name: str
    ) -> None:
        weights, generator = Weights(model, pieces), torch.Generator().manual_seed(0)
        for batch in calibration.read(weights.device):
            slopes = weights.gradients(model, batch, calibration, twice=True)
            for _ in range(probes):
                signs = [_signs(weight, generator) for weight in weights.tensors]
                products = weights.times_hessian(slopes, signs)
                weights.add_(found, name, [wide(v) * wide(p) for v, p in zip(signs, products, strict=True)])

    return OfModel(collect_)


def gauss_newton() -> OfModel:
    """Σ over samples of the diagonal of Jᵀ B J, of the weight's shape, exactly.

    J is the output's derivative by the weights, B the Hessian of the loss by the output. B is made whole and factored
    into eigenvectors, and each costs a backward pass per sample: as many as B's rank, one less than there are classes
    for cross-entropy, as many as outputs for squared errors. Nothing is sampled.
    The output is a tensor, or has `.logits`; at most 4096 numbers per sample.
    Source: Schraudolph 2002; Botev et al. 2017 (arXiv:1706.03662).
    """

    def collect_(
        model: nn.Module, pieces: Sequence[Piece], calibration: Calibration, found: Statistics, name: str
    ) -> None:
        weights = Weights(model, pieces)
        for batch in calibration.read(weights.device):
            for sample in batch.samples():
                weights.add_(found, name, _gauss_newton(weights.tensors, model, sample, calibration))

    return OfModel(collect_)


def hessian_gradient() -> OfModel:
    """Σ over mini-batches of Hg, of the weight's shape; g is the mean gradient over all mini-batches.

    H and g are those of the weights that are asked for. Two passes over the data, the second with a backward pass
    through the backward pass.
    """

    def collect_(
        model: nn.Module, pieces: Sequence[Piece], calibration: Calibration, found: Statistics, name: str
    ) -> None:
        weights, mean, number = Weights(model, pieces), list[Tensor](), 0
        for number, batch in enumerate(calibration.read(weights.device), start=1):  # noqa: B007
            slopes = weights.gradients(model, batch, calibration)
            mean = [a + wide(b) for a, b in zip(mean, slopes, strict=True)] if mean else [wide(b) for b in slopes]
        mean = [(total / number).to(weight.dtype) for total, weight in zip(mean, weights.tensors, strict=True)]
        for batch in calibration.read(weights.device):
            slopes = weights.gradients(model, batch, calibration, twice=True)
            weights.add_(found, name, [wide(product) for product in weights.times_hessian(slopes, mean)])

    return OfModel(collect_)


def output_of(output: object) -> Tensor:
    """Return the tensor that a model's output is, or has as `.logits`; raises TrainingError where there is none."""
    tensor = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(tensor, Tensor):
        raise TrainingError(
            f"the model returned {type(output).__name__}; a tensor, or an object with .logits is wanted"
        )
    return tensor


class Weights:
    """The parameters that are asked for, each once, however many names or targets it has."""

    def __init__(self, model: nn.Module, pieces: Sequence[Piece]) -> None:
        named = dict(model.named_parameters(remove_duplicate=False))
        names = dict.fromkeys(p.param for p in pieces if p.param in named and named[p.param].is_floating_point())
        unique = {id(named[name]): named[name] for name in names}
        self._place = {name: list(unique).index(id(named[name])) for name in names}
        self.tensors = list(unique.values())
        self.device = self.tensors[0].device if self.tensors else torch.device("cpu")

    def gradients(
        self, model: nn.Module, batch: Batch, calibration: Calibration, *, twice: bool = False
    ) -> tuple[Tensor, ...]:
        """Return the gradient of a batch's mean loss; twice: such that it can be differentiated again."""
        with _differentiable_twice() if twice else torch.enable_grad():
            loss = calibration.loss_of(batch.run(model), batch)
            return torch.autograd.grad(
                loss, self.tensors, create_graph=twice, allow_unused=True, materialize_grads=True
            )

    def times_hessian(self, slopes: Sequence[Tensor], vectors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return Hv; a weight on which no gradient depends has none."""
        curved = [(slope, v) for slope, v in zip(slopes, vectors, strict=True) if slope.requires_grad]
        if not curved:
            return [torch.zeros_like(weight) for weight in self.tensors]
        with _differentiable_twice():
            return torch.autograd.grad(
                [slope for slope, _ in curved],
                self.tensors,
                [v for _, v in curved],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )

    def add_(self, found: Statistics, statistic: str, values: Sequence[Tensor]) -> None:
        """Add one observation under every name of each weight."""
        for name, place in self._place.items():
            found.add_((statistic, name), values[place].detach())

    def give_(self, found: Statistics, statistic: str, sums: Sequence[Tensor], count: float) -> None:
        """Hand over sums that were made for this, without a copy; every name of a weight reads the same."""
        first: dict[int, str] = {}
        for name, place in self._place.items():
            if first.setdefault(place, name) == name:
                found.open_((statistic, name), partial(sums.__getitem__, place))
                found.count_((statistic, name), count)
            else:
                found.share_((statistic, name), (statistic, first[place]))


def _gauss_newton(weights: Sequence[Tensor], model: nn.Module, sample: Batch, calibration: Calibration) -> list[Tensor]:
    with torch.enable_grad():
        returned = sample.run(model)
        output, loss = output_of(returned), calibration.loss_of(returned, sample)
    if output.numel() > LARGEST_OUTPUT:
        raise InputError(
            f"the output of one sample has {output.numel()} numbers, more than {LARGEST_OUTPUT}; the Gauss-Newton "
            "diagonal is too dear there, choose the estimator fisher or hutchinson"
        )
    totals = [torch.zeros_like(wide(weight)) for weight in weights]
    for size, direction in _curved_directions(loss, output):
        slopes = torch.autograd.grad(
            output, weights, direction, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for total, slope in zip(totals, slopes, strict=True):
            total += size * wide(slope).square()
    return totals


def _curved_directions(loss: Tensor, output: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Yield the eigenvalues that are not 0 of the loss's Hessian by the output, with their vectors, of its shape."""
    (slope,) = torch.autograd.grad(loss, output, create_graph=True)
    if not slope.requires_grad:  # a loss that is linear in the output
        return
    rows = [
        torch.autograd.grad(number, output, retain_graph=True, allow_unused=True, materialize_grads=True)[0].flatten()
        for number in slope.flatten()
    ]
    sizes, vectors = torch.linalg.eigh(torch.stack(rows).double())
    least = len(sizes) * torch.finfo(wide(output).dtype).eps * sizes.abs().max()
    for size, vector in zip(sizes.tolist(), vectors.T, strict=True):
        if abs(size) > least:
            yield size, vector.to(output.dtype).reshape(output.shape)


@contextmanager
def _differentiable_twice() -> Iterator[None]:
    """Let attention run as plain operations: its fused kernels have no second derivative."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def _signs(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Draw −1 and 1, the same on every device and rank."""
    drawn = torch.randint(2, weight.shape, generator=generator)
    return (2 * drawn - 1).to(weight.device, weight.dtype)


for _factory in (hessian, gauss_newton, hessian_gradient):
    register(_factory.__name__, _factory)
