"""The streamed inverse against the dense one, the update against the constrained minimum of a quadratic."""

import itertools

import pytest
import torch

from prunus.errors import InputError
from prunus.solvers.woodfisher import BlockFisher


def gradients(num_samples=40, numel=17, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, numel, generator=generator, dtype=torch.float64)


def fisher(samples, **settings):
    made = BlockFisher(samples[0].numel(), num_samples=len(samples), **settings)
    for sample in samples:
        made.add_(sample)
    return made


def dense(samples, damp):
    """λI + (1/N) Σ g gᵀ."""
    return damp * torch.eye(samples.shape[1], dtype=torch.float64) + samples.T @ samples / len(samples)


@pytest.mark.parametrize("block", [1, 5, 17, 50])
def test_the_streamed_inverse_is_the_inverse_of_each_dense_block(block):
    samples, damp = gradients(), 1e-3
    made = fisher(samples, block=block, damp=damp)
    width = min(block, 17)
    for number, start in enumerate(range(0, 17, width)):
        own = dense(samples, damp)[start : start + width, start : start + width]
        size = len(own)
        torch.testing.assert_close(made.inverse[number, :size, :size], torch.linalg.inv(own))
    assert made.inverse.shape == (-(-17 // width), width, width)


def test_a_damp_as_small_as_the_papers_keeps_its_digits_in_float64():
    samples = gradients(num_samples=64)
    made = fisher(samples, damp=1e-7)
    torch.testing.assert_close(made.inverse[0], torch.linalg.inv(dense(samples, 1e-7)), rtol=1e-6, atol=1e-6)


def test_with_fewer_samples_than_weights_unseen_directions_keep_one_over_lambda():
    made = fisher(gradients(num_samples=2, numel=5), damp=0.01)
    torch.testing.assert_close(torch.linalg.eigvalsh(made.inverse[0])[2:], torch.full((3,), 100.0).double())


def test_saliency_is_the_least_rise_of_the_quadratic():
    samples, weights = gradients(), gradients(1, seed=1)[0]
    matrix = dense(samples, 1e-3)
    scores = fisher(samples, damp=1e-3).saliency(weights)
    for q in range(17):
        torch.testing.assert_close(scores[q], rise(matrix, weights, minimum(matrix, weights, [q])))


def minimum(matrix, weights, gone):
    """The least ½ (w' − w)ᵀ F (w' − w) with w' = 0 at `gone`, by solving for the others."""
    rest = [i for i in range(len(weights)) if i not in gone]
    best = torch.zeros_like(weights)
    push = matrix[rest][:, gone] @ weights[gone]
    best[rest] = weights[rest] + torch.linalg.solve(matrix[rest][:, rest], push)
    return best


def rise(matrix, weights, new):
    return 0.5 * (new - weights) @ matrix @ (new - weights)


@pytest.mark.parametrize("gone", [[0], [3, 4, 11], [0, 1, 2, 3, 4, 5, 6, 7, 16], list(range(17)), []])
@pytest.mark.parametrize("block", [6, 17])
def test_the_update_reaches_the_constrained_minimum_of_every_block(gone, block):
    samples, weights = gradients(), gradients(1, seed=1)[0]
    pruned = torch.zeros(17, dtype=torch.bool)
    pruned[gone] = True
    new = fisher(samples, damp=1e-3, block=block).update(weights, pruned)
    for start in range(0, 17, block):
        own = slice(start, start + block)
        matrix = dense(samples, 1e-3)[own, own]
        inside = [q - start for q in gone if start <= q < start + block]
        torch.testing.assert_close(new[own], minimum(matrix, weights[own], inside))
    assert not new[pruned].any()


def test_all_at_once_is_one_after_the_other_in_any_order():
    samples, weights = gradients(), gradients(1, seed=1)[0]
    made = fisher(samples, damp=1e-3)
    pruned = torch.zeros(17, dtype=torch.bool)
    pruned[[2, 7, 9]] = True
    together = made.update(weights, pruned)
    for order in itertools.permutations([2, 7, 9]):
        new, inverse = weights.clone(), made.inverse[0].clone()
        for q in order:
            new = new - new[q] / inverse[q, q] * inverse[:, q]
            inverse -= torch.outer(inverse[:, q], inverse[q]) / inverse[q, q]
        torch.testing.assert_close(new, together)


def test_shapes_and_dtypes_of_a_layer_are_kept():
    layer = torch.nn.Linear(4, 3)
    samples = []
    for row in torch.randn(20, 4):
        (gradient,) = torch.autograd.grad(layer(row).square().sum(), layer.weight)
        samples.append(gradient)
    made = fisher(samples, block=5)
    assert made.saliency(layer.weight).shape == (3, 4)
    new = made.update(layer.weight, made.saliency(layer.weight) <= made.saliency(layer.weight).median())
    assert new.shape == (3, 4)
    assert new.dtype == torch.float32
    assert not new.requires_grad
    assert int((new == 0).sum()) == 6


def test_float32_halves_the_memory():
    single, double = (BlockFisher(100, num_samples=1, dtype=t).inverse for t in (torch.float32, torch.float64))
    assert single.nbytes * 2 == double.nbytes == 100 * 50 * 8


def test_misuse_is_named():
    made = BlockFisher(3, num_samples=1)
    with pytest.raises(InputError, match="0 of 1 gradients were added"):
        made.saliency(torch.ones(3))
    with pytest.raises(InputError, match="the gradient has 4 elements; BlockFisher was made for 3"):
        made.add_(torch.ones(4))
    with pytest.raises(InputError, match="gradient 0 is not finite"):
        made.add_(torch.tensor([1.0, torch.nan, 0.0]))
    made.add_(torch.ones(3))
    with pytest.raises(InputError, match="1 gradients were announced"):
        made.add_(torch.ones(3))
    with pytest.raises(InputError, match=r"pruned is torch.float32 \(3,\)"):
        made.update(torch.ones(3), torch.ones(3))
    with pytest.raises(InputError, match="damp above 0"):
        BlockFisher(3, num_samples=1, damp=0.0)
