"""Channel choice by regression against scikit-learn, brute force and least squares on the unfolded inputs."""

import itertools

import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn
from torch.nn import functional

from prunus.errors import InputError
from prunus.solvers.channels import (
    channel_gram,
    lasso_channels,
    lasso_order,
    refit,
    thinet_channels,
    thinet_order,
)
from prunus.solvers.lasso import lasso, lasso_path


def layer(seed=0, channels=6, kernel=4, outputs=5, samples=300):
    """A random layer with correlated inputs, float64: weight (O, C, K), inputs (T, C·K)."""
    generator = torch.Generator().manual_seed(seed)
    size = channels * kernel
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64) + 2 * torch.eye(size)
    inputs = (torch.randn(samples, size, generator=generator, dtype=torch.float64) @ mixing).relu()
    weight = torch.randn(outputs, channels, kernel, generator=generator, dtype=torch.float64)
    return weight * torch.rand(channels, 1, generator=generator, dtype=torch.float64), inputs


def contributions(weight, inputs):
    """Z (C, T, O): what each channel gives to the outputs."""
    num_channels, kernel = weight.shape[1:]
    return torch.einsum("tck,ock->cto", inputs.reshape(-1, num_channels, kernel), weight)


def error(weight, new, inputs, dense=None):
    target = (inputs if dense is None else dense) @ weight.flatten(1).T
    return float((inputs @ new.flatten(1).T - target).square().sum())


def test_the_channel_gram_is_that_of_the_explicit_contributions():
    weight, dense = layer()
    inputs = dense + 0.3 * layer(seed=9)[1]
    parts = contributions(weight, inputs).flatten(1)
    quadratic, linear = channel_gram(weight, inputs.T @ inputs, inputs.T @ dense)
    torch.testing.assert_close(quadratic, parts @ parts.T)
    torch.testing.assert_close(linear, parts @ contributions(weight, dense).sum(0).flatten())
    torch.testing.assert_close(channel_gram(weight, inputs.T @ inputs)[1], (parts @ parts.T).sum(1))


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.7, 0.99])
def test_lasso_from_grams_is_scikit_learns_on_explicit_inputs(share):
    weight, inputs = layer()
    target = contributions(weight, inputs).sum(0).flatten()
    unit = weight / weight.norm(dim=(0, 2), keepdim=True)
    columns = contributions(unit, inputs).flatten(1).T
    quadratic, linear = columns.T @ columns, columns.T @ target
    penalty = share * float(linear.abs().max())
    theirs = Lasso(alpha=penalty / len(target), fit_intercept=False, tol=1e-12, max_iter=100_000)
    theirs.fit(columns.numpy(), target.numpy())
    ours = lasso(quadratic, linear, penalty)
    assert 0 < int((ours != 0).sum()) <= 6
    torch.testing.assert_close(ours, torch.from_numpy(theirs.coef_), rtol=1e-5, atol=1e-7)


def test_lasso_of_one_channel_is_soft_thresholding():
    assert lasso(torch.tensor([[2.0]]), torch.tensor([-5.0]), 1.0).tolist() == pytest.approx([-2.0], rel=1e-12)
    assert lasso(torch.tensor([[2.0]]), torch.tensor([-5.0]), 5.0).tolist() == [0.0]


@pytest.mark.parametrize("seed", range(12))
def test_the_path_bends_where_coefficients_vanish_or_come_back_and_nowhere_else(seed):
    generator = torch.Generator().manual_seed(seed)
    columns, mixing, target = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((12, 8), (8, 8), (12, 1))
    )
    columns = columns @ mixing
    quadratic, linear = columns.T @ columns, (columns.T @ target).flatten()
    steps = list(lasso_path(quadratic, linear))
    # With seed 1, among others, coefficients come back: more bends than coefficients.
    assert len(steps) >= 9
    assert seed != 1 or len(steps) > 9
    assert not steps[-1].beta.any()
    for here, there in itertools.pairwise(steps):
        assert not torch.equal(here.beta.sign(), there.beta.sign())
        for share in (0.01, 0.5, 0.99):
            penalty = here.penalty + share * (there.penalty - here.penalty)
            between = lasso(quadratic, linear, penalty)
            assert torch.equal(between.sign(), here.beta.sign())
            pull = linear - quadratic @ between
            at_bound = penalty * between.sign()[between != 0]
            torch.testing.assert_close(pull[between != 0], at_bound, rtol=0, atol=1e-8 * float(linear.abs().max()))
            assert float(pull.abs().max()) <= penalty + 1e-8 * float(linear.abs().max())


@pytest.mark.parametrize("num_kept", range(7))
def test_lasso_keeps_exactly_the_wanted_number_and_solves_the_problem(num_kept):
    weight, inputs = layer()
    gram = inputs.T @ inputs
    kept, beta = lasso_channels(weight, gram, num_kept)
    assert kept.dtype == torch.bool
    assert int(kept.sum()) == num_kept
    assert torch.equal(beta != 0, kept)
    assert torch.equal(kept, lasso_order(weight, gram).argsort().argsort() >= 6 - num_kept)
    if num_kept == 6:
        torch.testing.assert_close(beta, weight.norm(dim=(0, 2)), rtol=1e-3, atol=0)


def test_of_equal_channels_the_lowest_index_goes_first():
    weight, inputs = layer()
    weight[:, 4], weight[:, 5] = weight[:, 1], weight[:, 1]
    inputs = inputs.reshape(-1, 6, 4)
    inputs[:, 4], inputs[:, 5] = inputs[:, 1], inputs[:, 1]
    gram = inputs.flatten(1).T @ inputs.flatten(1)
    for num_kept in range(7):
        kept, _ = lasso_channels(weight, gram, num_kept)
        assert int(kept.sum()) == num_kept
        assert kept[[1, 4, 5]].tolist() == sorted(kept[[1, 4, 5]].tolist())


def test_where_the_path_jumps_the_largest_coefficients_before_it_fill_up():
    # Channels that do not overlap, of equal size: all of them vanish at one λ.
    weight, gram = torch.ones(1, 4, 1), torch.eye(4)
    assert lasso_channels(weight, gram, 2)[0].tolist() == [False, False, True, True]
    assert lasso_order(weight, gram).tolist() == pytest.approx([1.0] * 4)
    # λ = 4 ends both; before it their coefficients are 4 − λ and 1 − λ/4.
    assert lasso_channels(torch.tensor([[[4.0], [1.0]]]), torch.diag(torch.tensor([1.0, 4.0])), 1)[0].tolist() == [
        True,
        False,
    ]
    weight[0, 0, 0], weight[0, 1, 0] = 3.0, 0.0
    assert lasso_channels(weight, gram, 2)[0].tolist() == [True, False, False, True]
    assert lasso_order(weight, gram)[0] == pytest.approx(3.0)


@pytest.mark.parametrize("seed", range(4))
def test_dependent_channels_are_chosen_from_all_the_same(seed):
    """Channel 3 is the sum of channels 0 and 1: A has no inverse, and one of the three is for nothing."""
    weight, inputs = layer(seed=seed, kernel=1, outputs=1)
    weight[:] = 1.0
    inputs[:, 3] = inputs[:, 0] + inputs[:, 1]
    gram = inputs.T @ inputs
    for num_kept in range(7):
        kept, _ = lasso_channels(weight, gram, num_kept)
        assert int(kept.sum()) == num_kept
    kept, _ = lasso_channels(weight, gram, 5)
    assert error(weight, refit(weight, gram, kept), inputs) < 1e-12 * float(inputs.square().sum())


def test_a_layer_without_signal_still_gives_the_wanted_count():
    kept, beta = lasso_channels(torch.zeros(2, 3, 1), torch.zeros(3, 3), 1)
    assert kept.tolist() == [False, False, True]
    assert beta.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("seed", range(8))
def test_thinet_removes_what_brute_force_removes(seed):
    weight, inputs = layer(seed=seed)
    parts = contributions(weight, inputs)
    removed = []
    while len(removed) < 6:
        rest = [c for c in range(6) if c not in removed]
        removed.append(min(rest, key=lambda c: float(parts[[*removed, c]].sum(0).square().sum())))
    order = thinet_order(weight, inputs.T @ inputs)
    assert order.argsort().tolist() == removed
    for num_kept in range(7):
        kept = thinet_channels(weight, inputs.T @ inputs, num_kept)
        assert sorted(kept.nonzero().flatten().tolist()) == sorted(removed[6 - num_kept :])


def test_thinet_ties_go_by_the_lowest_index():
    assert thinet_order(torch.ones(1, 3, 1), torch.eye(3)).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("with_cross", [False, True])
def test_refit_is_least_squares_on_the_explicit_inputs(with_cross):
    weight, dense = layer(seed=5)
    inputs = dense + 0.5 * layer(seed=6)[1] if with_cross else dense
    kept = torch.tensor([True, False, True, True, False, True])
    columns = inputs.reshape(-1, 6, 4)[:, kept].flatten(1)
    wanted = torch.linalg.lstsq(columns, dense @ weight.flatten(1).T).solution.T.reshape(5, 4, 4)
    new = refit(weight, inputs.T @ inputs, kept, inputs.T @ dense if with_cross else None)
    torch.testing.assert_close(new[:, kept], wanted)
    assert not new[:, ~kept].any()
    assert refit(weight.float(), inputs.T @ inputs, kept).dtype == torch.float32


def test_refit_without_full_rank_computes_the_best_outputs_still():
    weight, inputs = layer(samples=9)
    kept = torch.tensor([True, False, True, True, False, True])
    columns = inputs.reshape(-1, 6, 4)[:, kept].flatten(1)
    best = columns @ torch.linalg.lstsq(columns, inputs @ weight.flatten(1).T, driver="gelsd").solution
    got = inputs @ refit(weight, inputs.T @ inputs, kept, damp=1e-10).flatten(1).T
    torch.testing.assert_close(got, best, rtol=1e-5, atol=1e-5)
    assert not refit(weight, torch.zeros(24, 24), kept).any()


@pytest.mark.parametrize("seed", range(5))
def test_choice_and_refit_lie_between_the_best_subset_and_random_ones(seed):
    weight, inputs = layer(seed=seed)
    gram = inputs.T @ inputs

    def refitted(chosen):
        kept = torch.zeros(6, dtype=torch.bool)
        kept[list(chosen)] = True
        return error(weight, refit(weight, gram, kept), inputs)

    every = {chosen: refitted(chosen) for chosen in itertools.combinations(range(6), 3)}
    average = sum(every.values()) / len(every)
    for kept in (lasso_channels(weight, gram, 3)[0], thinet_channels(weight, gram, 3)):
        chosen = tuple(kept.nonzero().flatten().tolist())
        plain = error(weight, weight * kept[:, None], inputs)
        assert min(every.values()) <= every[chosen] <= average
        assert every[chosen] <= plain


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": (1, 3), "stride": (2, 1), "groups": 2},
    ],
)
def test_a_real_convolution_is_refitted_through_unfold(arguments):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, **arguments, dtype=torch.float64)
    images = torch.randn(5, 4, 9, 9, dtype=torch.float64)
    groups, per_group = conv.groups, 4 // conv.groups
    kept = torch.tensor([True, False, True, True][:per_group])
    new = torch.empty_like(conv.weight)
    for group in range(groups):
        rows = slice(group * 6 // groups, (group + 1) * 6 // groups)
        own = images[:, group * per_group : (group + 1) * per_group]
        patches = functional.unfold(own, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
        inputs = patches.transpose(1, 2).flatten(0, 1)
        weight = conv.weight[rows].flatten(2)
        new[rows] = refit(weight, inputs.T @ inputs, kept).reshape(conv.weight[rows].shape).detach()
    wanted = (conv(images) - conv.bias[:, None, None]).detach()
    thin = nn.Conv2d(4, 6, **arguments, bias=False, dtype=torch.float64)
    thin.weight.data = new
    got = thin(images)
    # Least squares: what is left is orthogonal to every kept input, hence to the gradient of each kept weight.
    (got - wanted).square().sum().backward()
    assert float(thin.weight.grad[:, kept].abs().max()) < 1e-9
    assert not new[:, ~kept].any()
    assert float((got - wanted).detach().abs().max()) > 1e-3


def test_wrong_shapes_and_counts_are_named():
    weight, gram = torch.ones(2, 3, 4), torch.eye(12)
    with pytest.raises(InputError, match=r"num_kept is 4 .* choose 0 to C"):
        lasso_channels(weight, gram, 4)
    with pytest.raises(InputError, match=r"gram has shape \(3, 3\); \(12, 12\) fits"):
        thinet_order(weight, torch.eye(3))
    with pytest.raises(InputError, match=r"cross has shape"):
        lasso_order(weight, gram, torch.eye(3))
    with pytest.raises(InputError, match=r"outputs, channels, kernel"):
        refit(torch.ones(2, 3), gram, torch.ones(3, dtype=torch.bool))
    with pytest.raises(InputError, match=r"kept is torch.float32 \(3,\)"):
        refit(weight, gram, torch.ones(3))
