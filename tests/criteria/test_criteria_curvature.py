"""OBD against the whole Hessian and the whole Gauss-Newton matrix, OBS against least squares for every weight."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from criteria_tables import scores_of
from prunus.criteria import criterion
from prunus.errors import InputError, NameNotFound, TrainingError
from prunus.statistics import curvature


def tiny():
    """Eight weights in two layers, and biases that are not asked for."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()


def labelled(number=2, rows=5):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(rows, 2, generator=generator).double(), torch.randint(2, (rows,), generator=generator))
        for _ in range(number)
    ]


def loss_of(model, data, loss=functional.cross_entropy):
    """The mean loss as a function of the eight weights, all in one vector."""

    def value(flat):
        return sum(loss(outputs(model, x, flat), y) for x, y in data) / len(data)

    return value


def outputs(model, x, flat):
    return torch.func.functional_call(model, {"0.weight": flat[:4].view(2, 2), "2.weight": flat[4:].view(2, 2)}, x)


def flat_weights(model):
    return torch.cat([model[0].weight.detach().flatten(), model[2].weight.detach().flatten()])


def whole_hessian(model, data):
    return torch.autograd.functional.hessian(loss_of(model, data), flat_weights(model))


def flat(scores):
    return torch.cat([value.flatten() for value in scores.values()])


def test_hutchinson_over_all_sign_vectors_is_the_hessians_diagonal(monkeypatch):
    model, data = tiny(), labelled(1)
    every = itertools.product([-1.0, 1.0], repeat=8)
    waiting = []

    def next_signs(weight, _):
        if not waiting:
            vector = torch.tensor(next(every)).double()
            waiting.extend([vector[:4].view(2, 2), vector[4:].view(2, 2)])
        return waiting.pop(0)

    monkeypatch.setattr(curvature, "_signs", next_signs)
    scores = flat(scores_of(model, "obd(probes=256)", data, functional.cross_entropy))
    torch.testing.assert_close(scores, whole_hessian(model, data).diagonal() * flat_weights(model).square() / 2)


def test_hutchinson_converges_to_the_hessians_diagonal_of_all_batches():
    model, data = tiny(), labelled(2)
    expected = whole_hessian(model, data).diagonal() * flat_weights(model).square() / 2
    near, far = (
        (flat(scores_of(model, f"obd(probes={n})", data, functional.cross_entropy)) - expected).norm()
        for n in (1000, 2)
    )
    assert near < 0.05 * expected.norm()
    assert near < far


def test_hutchinson_draws_the_same_vectors_every_time():
    model, data = tiny(), labelled(2)
    first = flat(scores_of(model, "obd", data, functional.cross_entropy))
    torch.manual_seed(5)
    assert torch.equal(first, flat(scores_of(model, "obd", data, functional.cross_entropy)))


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "indefinite"])
def test_ggn_is_the_diagonal_of_the_dense_product(loss):
    """Σ_n J_nᵀ B_n J_n / N from whole Jacobians and whole Hessians by the output."""
    model, data = tiny(), labelled(2)
    losses = {
        "cross_entropy": functional.cross_entropy,
        "mse": lambda output, y: (output - functional.one_hot(y, 2)).square().mean(),
        "indefinite": lambda output, y: (output[:, 0] * output[:, 1]).mean(),
    }
    total = torch.zeros(8).double()
    rows = [(x[i : i + 1], y[i : i + 1]) for x, y in data for i in range(len(x))]
    for x, y in rows:
        output = partial(outputs, model, x)
        jacobian = torch.autograd.functional.jacobian(output, flat_weights(model)).view(2, 8)
        inner = torch.autograd.functional.hessian(lambda z, y=y: losses[loss](z, y), output(flat_weights(model)))
        total += (jacobian.T @ inner.view(2, 2) @ jacobian).diagonal()
    scores = flat(scores_of(model, "obd(estimator=ggn)", data, losses[loss]))
    torch.testing.assert_close(scores, total / len(rows) * flat_weights(model).square() / 2)


def test_ggn_is_the_hessian_of_the_last_layer():
    """The output is linear in it, so what Gauss and Newton leave out is zero."""
    model, data = tiny(), labelled(2)
    scores = scores_of(model, "obd(estimator=ggn)", data, functional.cross_entropy)["2.weight"].flatten()
    expected = whole_hessian(model, data).diagonal()[4:] * flat_weights(model)[4:].square() / 2
    torch.testing.assert_close(scores, expected)


def test_fisher_is_the_mean_square_of_each_samples_gradient():
    model, data = tiny(), labelled(2)
    rows = [(x[i : i + 1], y[i : i + 1]) for x, y in data for i in range(len(x))]
    slopes = [torch.autograd.functional.jacobian(loss_of(model, [row]), flat_weights(model)) for row in rows]
    expected = torch.stack(slopes).square().mean(dim=0) * flat_weights(model).square() / 2
    scores = flat(scores_of(model, "obd(estimator=fisher)", data, functional.cross_entropy))
    torch.testing.assert_close(scores, expected)


def test_a_unit_of_obd_is_the_sum_of_its_weights():
    model, data = tiny(), labelled(1)
    each = scores_of(model, "obd(estimator=ggn)", data, functional.cross_entropy)
    rows = scores_of(model, "obd(estimator=ggn)", data, functional.cross_entropy, "filter")
    for name in rows:
        torch.testing.assert_close(rows[name], each[name].sum(dim=1))


def test_a_loss_without_curvature_scores_zero():
    model = nn.Sequential(nn.Linear(3, 2)).double()
    data = [(torch.randn(4, 3).double(), None)]
    for spec in ("obd", "obd(estimator=ggn)", "grasp"):
        assert scores_of(model, spec, data, lambda y, _: y.mean())["0.weight"].tolist() == [[0.0] * 3] * 2


def test_too_large_and_unknown_outputs_are_named():
    model = nn.Sequential(nn.Linear(3, 4097))
    with pytest.raises(InputError, match="one sample has 4097 numbers"):
        scores_of(model, "obd(estimator=ggn)", [(torch.randn(2, 3), None)], lambda y, _: y.square().mean())

    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(TrainingError, match=r"returned tuple; a tensor, or an object with .logits"):
        scores_of(Pair(3, 2), "obd(estimator=ggn)", [(torch.randn(2, 3), None)], lambda y, _: y[0].square().mean())


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("obd(estimator=hessian)", NameNotFound, "estimator of obd"),
        ("obd(probes=0)", InputError, "whole number of at least 1"),
        ("obd(estimator=fisher, probes=3)", InputError, "fisher draws none"),
        ("obs(damping=-1)", InputError, "damping of obs"),
        ("woodfisher(block=0)", InputError, "block of woodfisher"),
        ("woodfisher(damp=0)", InputError, "damp of woodfisher"),
    ],
)
def test_wrong_options_are_explained(spec, error, words):
    with pytest.raises(error, match=words):
        criterion(spec)


LAYERS = {
    "linear": (nn.Linear(5, 3), (7, 5)),
    "conv": (nn.Conv2d(3, 4, 2, stride=2, padding=1), (4, 3, 5, 5)),
    "grouped": (nn.Conv2d(4, 6, 2, groups=2), (5, 4, 3, 3)),
    "transposed": (nn.ConvTranspose2d(3, 2, 2, stride=2), (5, 3, 3, 3)),
    "transposed, grouped": (nn.ConvTranspose1d(4, 6, 2, stride=2, groups=2), (6, 4, 3)),
}


@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_obs_is_what_the_squared_error_grows_by_when_the_rest_is_solved_for_anew(layer, shape):
    """The output is linear in the weight: its Jacobian is the design matrix, lstsq without a column the best rest."""
    layer = layer.double()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    weight = layer.weight.detach()
    run = lambda w: torch.func.functional_call(layer, {"weight": w}, x)  # noqa: E731
    design = torch.autograd.functional.jacobian(run, weight).reshape(-1, weight.numel())
    whole = design @ weight.flatten()
    losses = []
    for q in range(weight.numel()):
        rest = torch.cat([design[:, :q], design[:, q + 1 :]], dim=1)
        solved = torch.linalg.lstsq(rest, whole.unsqueeze(1), driver="gelsd").solution
        losses.append((rest @ solved - whole.unsqueeze(1)).square().sum())
    scores = scores_of(nn.Sequential(layer), "obs(damping=0)", [x])["0.weight"]
    torch.testing.assert_close(scores.flatten(), torch.stack(losses), rtol=1e-6, atol=1e-9)


def test_obs_of_a_map_that_is_stored_the_other_way():
    class Turned(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, x):
            return x @ self.weight

    linear = nn.Linear(5, 3, bias=False).double()
    x = torch.randn(9, 5).double()
    turned = scores_of(Turned(linear.weight.detach().T.contiguous()), "obs", [x])["weight"]
    torch.testing.assert_close(turned.T, scores_of(nn.Sequential(linear), "obs", [x])["0.weight"])


def test_obs_damps_by_a_share_of_the_mean_diagonal():
    linear, x = nn.Linear(4, 2, bias=False).double(), torch.randn(9, 4).double()
    hessian = 2 * x.T @ x
    hessian += 0.3 * hessian.diagonal().mean() * torch.eye(4)
    expected = linear.weight.detach().square() / (2 * torch.linalg.inv(hessian).diagonal())
    torch.testing.assert_close(scores_of(nn.Sequential(linear), "obs(damping=0.3)", [x])["0.weight"], expected)


def test_obs_of_a_dead_input_is_zero_and_the_others_do_not_feel_it():
    linear, x = nn.Linear(4, 2, bias=False).double(), torch.randn(9, 4).double()
    x[:, 1] = 0
    scores = scores_of(nn.Sequential(linear), "obs", [x])["0.weight"]
    assert scores[:, 1].tolist() == [0, 0]
    narrow = nn.Linear(3, 2, bias=False).double()
    narrow.weight.data = linear.weight.detach()[:, [0, 2, 3]]
    others = scores_of(nn.Sequential(narrow), "obs", [x[:, [0, 2, 3]]])["0.weight"]
    torch.testing.assert_close(scores[:, [0, 2, 3]], others)
    assert scores_of(nn.Sequential(linear), "obs", [torch.zeros(3, 4).double()])["0.weight"].abs().sum() == 0


def test_obs_of_too_few_rows_says_how_it_was_damped():
    linear = nn.Linear(6, 2, bias=False).double()
    with pytest.warns(UserWarning, match="not positive definite; damped with"):
        scores = scores_of(nn.Sequential(linear), "obs(damping=0)", [torch.randn(3, 6).double()])
    assert scores["0.weight"].isfinite().all()


def test_woodfisher_is_the_saliency_by_the_dense_inverse_of_each_block():
    """Blocks of three within each tensor of four weights: {0, 1, 2} and {3}."""
    model, data = tiny(), labelled(2)
    rows = [(x[i : i + 1], y[i : i + 1]) for x, y in data for i in range(len(x))]
    slopes = torch.stack([torch.autograd.functional.jacobian(loss_of(model, [r]), flat_weights(model)) for r in rows])
    whole = slopes.T @ slopes / len(rows)
    blocks = [whole[b][:, b] for b in torch.arange(8).split([3, 1, 3, 1])]
    inverse = torch.cat(
        [torch.linalg.inv(b + 1e-3 * b.diagonal().mean() * torch.eye(len(b))).diagonal() for b in blocks]
    )
    scores = scores_of(model, "woodfisher(block=3, damp=0.001)", data, functional.cross_entropy)
    torch.testing.assert_close(flat(scores), flat_weights(model).square() / (2 * inverse), rtol=1e-6, atol=0)
    units = scores_of(model, "woodfisher(block=3, damp=0.001)", data, functional.cross_entropy, "filter")
    torch.testing.assert_close(units["0.weight"], scores["0.weight"].sum(dim=1))
