"""Every solver against its definition: brute force over all masks, least squares on X, naive transcriptions."""

import math

import pytest
import torch

from prunus.solvers import Pattern, improve_mask, solver
from prunus.solvers.exact_obs import removal_cost
from prunus.solvers.least_squares import masked_least_squares
from prunus.solvers.problem import factored
from prunus.solvers.sparsegpt import inverse_root
from solvers.problems import best_error, gram, layer, loss, mask, masks_of, refit


def test_least_squares_equals_lstsq_on_the_inputs():
    weight, inputs = layer(6, 15)
    keep = mask(6, 15)
    keep[0], keep[1] = False, True
    solved = solver("lstsq").solve(weight, gram(inputs), keep=keep)
    torch.testing.assert_close(solved.weight, refit(weight, keep, inputs), rtol=1e-8, atol=1e-8)


def test_one_mask_for_all_rows_is_the_same_least_squares():
    weight, inputs = layer(6, 15)
    keep = mask(1, 15).expand(6, -1)
    solved = solver("lstsq").solve(weight, gram(inputs), keep=keep)
    torch.testing.assert_close(solved.weight, refit(weight, keep, inputs), rtol=1e-8, atol=1e-8)


def test_rows_solved_in_small_batches_equal_those_solved_at_once(monkeypatch):
    weight, inputs = layer(6, 15)
    keep, hessian = mask(6, 15), gram(inputs)
    at_once = masked_least_squares(weight, hessian, keep)
    monkeypatch.setattr("prunus.solvers.problem._BATCH", 1)
    torch.testing.assert_close(masked_least_squares(weight, hessian, keep), at_once, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spec", ["admm(rounds=3000)", "alps(damping=0, polish=40)", "obs", "swaps"])
def test_every_exact_refit_ends_in_the_least_squares_solution(spec):
    weight, inputs = layer(4, 12)
    keep = mask(4, 12)
    solved = solver(spec).solve(weight, gram(inputs), keep=keep)
    torch.testing.assert_close(solved.weight, refit(weight, keep, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", ["obs", "alps(damping=0)", "swaps"])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_no_solver_beats_brute_force_and_the_good_ones_come_near(spec, rows, seed):
    weight, inputs = layer(rows, 8, seed=seed)
    pattern = Pattern(4, 8)
    best = best_error(weight, inputs, 4)
    found = loss(weight, solver(spec).solve(weight, gram(inputs), pattern=pattern).weight, inputs)
    typical = sum(loss(weight, refit(weight, mask(rows, 8, seed=s), inputs), inputs) for s in range(9)) / 9
    assert best * (1 - 1e-9) <= found
    assert found <= best + 0.3 * (typical - best)


def obs_by_the_book(row, hessian, num_pruned):
    """Remove the cheapest weight, the inverse computed anew over what remains; returns the row."""
    row, left = row.clone(), list(range(len(row)))
    for _ in range(num_pruned):
        inverse = torch.linalg.inv(hessian[left][:, left])
        q = int((row[left].square() / inverse.diagonal()).argmin())
        row[left] -= row[left[q]] / inverse[q, q] * inverse[:, q]
        row[left[q]] = 0
        del left[q]
    return row


def test_exact_obs_equals_recomputing_the_inverse_each_time():
    weight, inputs = layer(5, 9)
    solved = solver("obs").solve(weight, gram(inputs), pattern=Pattern(4, 9))
    wanted = torch.stack([obs_by_the_book(row, gram(inputs), 5) for row in weight])
    torch.testing.assert_close(solved.weight, wanted, rtol=1e-6, atol=1e-8)


def test_exact_obs_merges_rows_by_the_cost_of_their_next_removal():
    weight, inputs = layer(3, 6)
    hessian = gram(inputs)
    taken = [0, 0, 0]
    for _ in range(8):
        before = [
            loss(w[None], obs_by_the_book(w, hessian, n)[None], inputs) for w, n in zip(weight, taken, strict=True)
        ]
        after = [
            loss(w[None], obs_by_the_book(w, hessian, n + 1)[None], inputs) if n < 6 else math.inf
            for w, n in zip(weight, taken, strict=True)
        ]
        costs = [now - then for now, then in zip(after, before, strict=True)]
        taken[costs.index(min(costs))] += 1
    solved = solver("obs").solve(weight, hessian, density=10 / 18)
    assert (~solved.keep).sum(dim=1).tolist() == taken


def test_the_cost_of_a_removal_is_the_exact_growth_of_the_loss():
    weight, inputs = layer(1, 7)
    hessian = 2 * gram(inputs)  # of the loss ‖X(w'−w)‖², so that w²/(2[H⁻¹]qq) needs no factor
    costs = removal_cost(weight[0], torch.linalg.inv(hessian).diagonal())
    for q, cost in enumerate(costs):
        keep = torch.arange(7).unsqueeze(0) != q
        assert float(cost) == pytest.approx(loss(weight, refit(weight, keep, inputs), inputs), rel=1e-8)


def test_the_squared_diagonal_of_the_root_is_the_obs_denominator_once_earlier_columns_are_gone():
    hessian = gram(layer(1, 9)[1])
    root = inverse_root(hessian)
    torch.testing.assert_close(root.T @ root, torch.linalg.inv(hessian), rtol=1e-8, atol=1e-10)
    for j in range(9):
        denominator = torch.linalg.inv(hessian[j:, j:])[0, 0]
        torch.testing.assert_close(root[j, j].square(), denominator, rtol=1e-8, atol=0)


def sparsegpt_by_the_book(weight, hessian, *, keep=None, num_pruned=0):
    """Column by column; the inverse over the columns from j on is computed anew. num_pruned in each column."""
    weight, kept = weight.clone(), torch.ones_like(weight, dtype=torch.bool) if keep is None else keep.clone()
    for j in range(weight.shape[1]):
        inverse = torch.linalg.inv(hessian[j:, j:])
        if keep is None:
            kept[weight[:, j].square().argsort(stable=True)[:num_pruned], j] = False
        lost = weight[:, j].masked_fill(kept[:, j], 0)
        weight[:, j:] -= torch.outer(lost / inverse[0, 0], inverse[0])
        weight[~kept[:, j], j] = 0
    return weight


def damped(inputs, damping=0.01):
    g = gram(inputs)
    return g + damping * g.diagonal().mean() * torch.eye(len(g), dtype=g.dtype)


def test_sparsegpt_by_single_columns_equals_its_definition():
    weight, inputs = layer(6, 10)
    solved = solver("sparsegpt(block=1)").solve(weight, gram(inputs), density=0.5)
    wanted = sparsegpt_by_the_book(weight, damped(inputs), num_pruned=3)
    torch.testing.assert_close(solved.weight, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("block", [1, 4, 128])
def test_sparsegpt_with_a_given_mask_equals_its_definition_whatever_the_block(block):
    weight, inputs = layer(6, 10)
    keep = mask(6, 10)
    solved = solver(f"sparsegpt(block={block})").solve(weight, gram(inputs), keep=keep)
    torch.testing.assert_close(
        solved.weight, sparsegpt_by_the_book(weight, damped(inputs), keep=keep), rtol=1e-8, atol=1e-10
    )


def test_sparsegpt_chooses_n_of_m_from_the_weights_of_the_moment_across_blocks():
    weight, inputs = layer(4, 11)
    hessian = damped(inputs)
    root, now, keep = inverse_root(hessian), weight.clone(), torch.ones(4, 11, dtype=torch.bool)
    for j in range(11):
        if j % 4 == 0:
            group = slice(j, min(j + 4, 11))
            scores = (now[:, group] / root.diagonal()[group]).square()
            keep[:, group] = scores.argsort(dim=1).argsort(dim=1) >= scores.shape[1] // 2
        now[:, j:] -= torch.outer(now[:, j].masked_fill(keep[:, j], 0) / root[j, j], root[j, j:])
        now[~keep[:, j], j] = 0
    keep_last = keep[:, 8:].sum(dim=1)
    assert (keep_last == 2).all()  # ceil(3·2/4)
    for block in (3, 6, 128):
        solved = solver(f"sparsegpt(block={block})").solve(weight, gram(inputs), pattern=Pattern(2, 4))
        torch.testing.assert_close(solved.weight, now, rtol=1e-8, atol=1e-10)


def swap_losses(weight, keep, inputs, allowed):
    """The loss of the mask and of every mask one swap away, by enumeration."""
    for kept in keep.nonzero().flatten().tolist():
        for out in (~keep).nonzero().flatten().tolist():
            if allowed(kept, out):
                other = keep.clone()
                other[kept], other[out] = False, True
                yield loss(weight.unsqueeze(0), (weight * other).unsqueeze(0), inputs)


@pytest.mark.parametrize("pattern", [None, Pattern(2, 4), Pattern(1, 3)])
def test_no_single_swap_improves_what_swaps_returns(pattern):
    weight, inputs = layer(5, 10)
    request = {"density": 0.5} if pattern is None else {"pattern": pattern}
    start = solver("swaps(refit=none)").solve(weight, gram(inputs), keep=mask(5, 10)).keep
    improved = improve_mask(weight, gram(inputs), start)
    assert torch.equal(improved.sum(dim=1), start.sum(dim=1))
    assert loss(weight, weight * improved, inputs) < loss(weight, weight * start, inputs)
    solved = solver("swaps(refit=none)").solve(weight, gram(inputs), **request)
    torch.testing.assert_close(solved.weight, weight * solved.keep)
    for keep, size in ((improved, 10), (solved.keep, 10 if pattern is None else pattern.m)):
        for row, kept in zip(weight, keep, strict=True):
            own = loss(row.unsqueeze(0), (row * kept).unsqueeze(0), inputs)
            others = swap_losses(row, kept, inputs, lambda a, b, size=size: a // size == b // size)
            assert own <= min(others, default=math.inf) * (1 + 1e-9)


def test_swaps_take_the_best_pair_first():
    weight, inputs = layer(1, 6)
    g = gram(inputs)
    masks = masks_of(6, 3)
    start = masks[int(torch.tensor([loss(weight, weight * m, inputs) for m in masks]).argmax())]
    best = min(swap_losses(weight[0], start, inputs, lambda *_: True))
    improved = improve_mask(weight, g, start.unsqueeze(0))
    assert loss(weight, weight * improved, inputs) <= best * (1 + 1e-9)


@pytest.mark.parametrize("target", [{"density": 0.5}, {"density": 0.3}, {"pattern": Pattern(2, 4)}])
def test_alps_beats_wanda_refitted_on_every_random_layer(target):
    for seed in range(10):
        weight, inputs = layer(16, 32, seed=seed, dtype=torch.float32)
        g = gram(inputs)
        scores = weight.abs() * g.diagonal().sqrt()
        if "pattern" in target:
            keep = ~target["pattern"].lowest(scores)
        else:
            kept = round(target["density"] * 32)
            keep = scores.argsort(dim=1).argsort(dim=1) >= 32 - kept
        if "density" in target:
            target = {"density": float(keep.double().mean())}
        wanda = solver("lstsq").solve(weight, g, keep=keep)
        assert solver("alps").solve(weight, g, **target).error < wanda.error


def test_damping_grows_tenfold_where_the_factor_fails_and_says_so():
    singular = torch.ones(3, 3)
    with pytest.warns(UserWarning, match=r"damped with 0\.001, not 0"):
        found = factored(singular, 0.0)
    torch.testing.assert_close(found.hessian, singular.double() + 0.001 * torch.eye(3).double())
    indefinite = torch.tensor([[1.0, 1.05], [1.05, 1.0]])
    with pytest.warns(UserWarning, match=r"damped with 0\.1, not 0\.01"):
        factored(indefinite, 0.01)


def test_the_last_resort_is_the_diagonal_never_the_identity():
    hopeless = torch.tensor([[4.0, 99.0], [99.0, 9.0]])
    with pytest.warns(UserWarning, match="only its diagonal is used"):
        found = factored(hopeless, 0.0)
    assert found.hessian.tolist() == [[4, 0], [0, 9]]
    assert found.lower.tolist() == [[2, 0], [0, 3]]
