"""Layers as matrices: the matrix times the unfolded input is the layer itself, and groups are solved apart."""

import pytest
import torch
from torch.nn import functional

from prunus.errors import InputError, NameNotFound
from prunus.solvers import matrix_of, solve_layer, solver, weight_of
from solvers.problems import mask, refit

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d}


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unfolded(x, kernel):
    """(groups' inputs · kernel) by positions, without padding or stride: (N, C, *kernel, positions)."""
    for dim, size in enumerate(kernel):
        x = x.unfold(dim + 2, size, 1)
    num = len(kernel)
    order = (0, 1, *range(2 + num, 2 + 2 * num), *range(2, 2 + num))
    return x.permute(order).flatten(2 + num)


def rows_of(x, kernel, groups):
    """(groups, T, C): what every position of every group reads."""
    patches = unfolded(x, kernel)
    grouped = patches.reshape(x.shape[0], groups, -1, patches.shape[-1])
    return grouped.permute(1, 0, 3, 2).flatten(1, 2)


@pytest.mark.parametrize("num_dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_its_matrices_on_the_unfolded_input(num_dims, groups):
    kernel = (3, 2, 2)[:num_dims]
    weight, x = randn(6, 4 // groups, *kernel), randn(2, 4, *(5, 4, 3)[:num_dims], seed=1)
    wanted = CONV[num_dims](x, weight, groups=groups)
    out = rows_of(x, kernel, groups) @ matrix_of(weight, "conv", groups=groups).transpose(1, 2)
    got = out.reshape(groups, 2, -1, 6 // groups).permute(1, 0, 3, 2).reshape(wanted.shape)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(weight_of(matrix_of(weight, "conv", groups=groups), "conv", weight.shape), weight)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_its_matrices_on_the_spread_input(groups):
    weight, x = randn(4, 3, 3), randn(2, 4, 5, seed=1)
    wanted = functional.conv_transpose1d(x, weight, stride=2, groups=groups)
    spread = torch.zeros(2, 4, 9 + 4, dtype=torch.float64)
    spread[..., 2:11:2] = x
    taps = unfolded(spread, (3,)).flip(2)  # tap k reads the input k places back
    rows = taps.reshape(2, groups, -1, taps.shape[-1]).permute(1, 0, 3, 2).flatten(1, 2)
    out = rows @ matrix_of(weight, "conv_transpose", groups=groups).transpose(1, 2)
    got = out.reshape(groups, 2, -1, 3).permute(1, 0, 3, 2).reshape(wanted.shape)
    torch.testing.assert_close(got, wanted)
    back = weight_of(matrix_of(weight, "conv_transpose", groups=groups), "conv_transpose", weight.shape)
    torch.testing.assert_close(back, weight)


def test_a_hugging_face_conv1d_is_the_transposed_linear_map():
    weight, x = randn(5, 3), randn(7, 5, seed=1)
    torch.testing.assert_close(x @ matrix_of(weight, "conv1d_hf")[0].T, x @ weight)
    torch.testing.assert_close(weight_of(matrix_of(weight, "conv1d_hf"), "conv1d_hf", weight.shape), weight)


def grouped_problem(groups=2, channels=8):
    weight, x = randn(6, channels // groups, 3, 3), randn(4, channels, 6, 6, seed=1)
    rows = rows_of(x, (3, 3), groups)
    return weight, x, rows.transpose(1, 2) @ rows


@pytest.mark.parametrize("spec", ["alps", "sparsegpt", "obs", "swaps", "admm(gradual=yes)"])
def test_n_of_m_of_a_convolution_runs_along_its_inputs_at_every_tap(spec):
    weight, x, grams = grouped_problem()
    solved = solve_layer(weight, grams, solver(spec), kind="conv", groups=2, pattern=(2, 4))
    assert (solved.keep.sum(dim=1) == 2).all()
    off = functional.conv2d(x, solved.weight - weight, groups=2).square().sum()
    assert solved.error == pytest.approx(float(off / functional.conv2d(x, weight, groups=2).square().sum()), rel=1e-8)


def test_three_inputs_make_a_short_group():
    weight, _, grams = grouped_problem(groups=1, channels=3)
    solved = solve_layer(weight, grams, solver("alps"), kind="conv", pattern=(2, 4))
    assert (solved.keep.sum(dim=1) == 2).all()  # ceil(3·2/4)


@pytest.mark.parametrize("density", [0.1, 0.37, 0.5])
def test_a_density_is_exact_over_all_groups(density):
    weight, _, grams = grouped_problem()
    solved = solve_layer(weight, grams, solver("alps"), kind="conv", groups=2, density=density)
    assert int(solved.keep.sum()) == round(density * weight.numel())
    keep = mask(6, weight[0].numel(), 0.8).view(weight.shape)
    within = solve_layer(weight, grams, solver("alps"), kind="conv", groups=2, density=density, keep=keep)
    assert int(within.keep.sum()) == round(density * weight.numel())
    assert not (within.keep & ~keep).any()


def test_a_mask_is_refitted_in_the_layers_own_shape():
    weight, x, grams = grouped_problem()
    keep = mask(6, weight[0].numel()).view(weight.shape)
    solved = solve_layer(weight, grams, solver("lstsq"), kind="conv", groups=2, keep=keep)
    assert torch.equal(solved.keep, keep)
    matrices, masks, rows = (
        matrix_of(weight, "conv", groups=2),
        matrix_of(keep, "conv", groups=2),
        rows_of(x, (3, 3), 2),
    )
    wanted = torch.stack([refit(*of_group) for of_group in zip(matrices, masks, rows, strict=True)])
    torch.testing.assert_close(solved.weight, weight_of(wanted, "conv", weight.shape), rtol=1e-7, atol=1e-9)


def test_what_does_not_fit_is_named():
    weight, _, grams = grouped_problem()
    with pytest.raises(NameNotFound, match="kind of layer"):
        matrix_of(weight, "convolution")
    with pytest.raises(InputError, match=r"linear with weight \(6, 4, 3, 3\)"):
        matrix_of(weight, "linear")
    with pytest.raises(InputError, match="does not divide into 5 groups"):
        matrix_of(weight, "conv", groups=5)
    with pytest.raises(InputError, match=r"\(2, C, C\), one per group"):
        solve_layer(weight, grams[:1], solver("alps"), kind="conv", groups=2, density=0.5)
    with pytest.raises(InputError, match="group 0: gram is"):
        solve_layer(weight, grams[:, :9, :9], solver("alps"), kind="conv", groups=2, density=0.5)
