"""Saliencies against the dense inverse, the update against the constrained minimum of a quadratic."""

import itertools

import pytest
import torch

from prunus.errors import InputError
from prunus.solvers.woodfisher import BlockFisher


def gradients(num_samples=40, numel=17, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, numel, generator=generator, dtype=torch.float64)


def fisher(samples, **settings):
    made = BlockFisher(samples[0].numel(), **settings)
    for sample in samples:
        made.add_(sample)
    return made


def dense(samples, damp):
    """(1/N) Σ g gᵀ + λ · the mean of its diagonal · I."""
    mean = samples.T @ samples / len(samples)
    return mean + damp * mean.diagonal().mean() * torch.eye(samples.shape[1], dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize("damp", [1e-3, 1e-7])
@pytest.mark.parametrize("block", [1, 5, 17, 50])
def test_saliency_is_by_the_dense_inverse_of_each_block_whatever_the_loss_is_scaled_by(block, damp, scale):
    samples, weights = scale * gradients(), gradients(1, seed=1)[0]
    found = fisher(samples, block=block, damp=damp).saliency(weights)
    for start in range(0, 17, block):
        own = slice(start, start + block)
        inverse = torch.linalg.inv(dense(samples[:, own], damp))
        torch.testing.assert_close(found[own], weights[own].square() / (2 * inverse.diagonal()))


def test_scores_grow_with_the_square_of_the_gradients_and_change_in_nothing_else():
    samples, weights = gradients(num_samples=3), gradients(1, seed=1)[0]  # fewer samples than weights
    plain, tiny = (fisher(s, block=5).saliency(weights) for s in (samples, 1e-5 * samples))
    torch.testing.assert_close(tiny / 1e-10, plain, rtol=1e-6, atol=0)


def test_along_unseen_directions_lambda_is_a_share_of_the_mean_diagonal():
    samples = gradients(num_samples=2, numel=5)
    made, mean = fisher(samples, damp=0.01), samples.square().mean()
    ((_, inverse, scale),) = made._inverted()
    torch.testing.assert_close(scale.squeeze(), mean)
    torch.testing.assert_close(torch.linalg.eigvalsh(inverse[0])[2:], torch.full((3,), 100.0).double())


def test_blocks_without_gradients_cost_nothing_and_move_nothing():
    samples, weights = gradients(numel=6), gradients(1, numel=6, seed=1)[0]
    samples[:, 3:] = 0
    made = fisher(samples, block=3)
    scores = made.saliency(weights)
    assert bool((scores[:3] > 0).all())
    assert scores[3:].tolist() == [0.0, 0.0, 0.0]
    new = made.update(weights, torch.tensor([False, False, False, True, False, False]))
    torch.testing.assert_close(new, weights * torch.tensor([1, 1, 1, 0, 1, 1]))


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
        matrix = dense(samples[:, own], 1e-3)
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
        new, inverse = weights.clone(), torch.linalg.inv(dense(samples, 1e-3))
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


def test_misuse_is_named():
    made = BlockFisher(3)
    with pytest.raises(InputError, match="no gradient was added"):
        made.saliency(torch.ones(3))
    with pytest.raises(InputError, match="the gradient has 4 elements; BlockFisher was made for 3"):
        made.add_(torch.ones(4))
    with pytest.raises(InputError, match="gradient 0 is not finite"):
        made.add_(torch.tensor([1.0, torch.nan, 0.0]))
    made.add_(torch.ones(3))
    with pytest.raises(InputError, match=r"pruned is torch.float32 \(3,\)"):
        made.update(torch.ones(3), torch.ones(3))
    with pytest.raises(InputError, match="damp above"):
        BlockFisher(3, damp=0.0)
