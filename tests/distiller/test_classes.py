"""Each of Distiller's pruner classes means here what its formula says."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from distiller.nets import made, make_convnet, make_linear, missing, run, zeros
from prunus.allocation import ScoredTarget
from prunus.axes import trace
from prunus.distiller import PRUNERS, Window, pruner
from prunus.distiller.chance import Bernoulli
from prunus.errors import InputError, NameNotFound
from prunus.schedules import AGP, BaiduRNN, Listed, OneShot, Policy, Repeated

FILTERS = {"group_type": "Filters", "weights": "module.3.weight"}


def test_a_window_is_exclusive_at_its_end_and_counts_from_its_origin() -> None:
    assert Window(starting_epoch=2, ending_epoch=9, frequency=3).times == (2, 5, 8)
    assert Window(epochs=[184, 180], origin=180).times == (0, 4)
    assert Window().times == (0,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"starting_epoch": 3, "ending_epoch": 3}, "from epoch 3 to 3 is empty"),
        ({"frequency": 0}, "frequency is 0"),
        ({"epochs": [5], "origin": 6}, "before the origin"),
        ({"epochs": [5], "mini_batch_pruning_frequency": 1}, "acts all along"),
    ],
)
def test_wrong_windows_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Window(**options)


def test_magnitude_thresholds_act_at_every_epoch_and_star_is_the_default() -> None:
    model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 3, bias=False))
    thresholds = {"*": 0.5, "module.0.weight": 2.0}
    (policy,) = made("MagnitudeParameterPruner", model, Window(ending_epoch=4, frequency=2), thresholds=thresholds)
    assert policy.schedule == Repeated(begin=0, end=2, every=2)
    model[0].weight.data = torch.tensor([[-2.0, 2.1, 1.0]])
    model[1].weight.data = torch.tensor([[0.5], [-0.6], [0.4]])
    run(model, [policy])
    assert zeros(model[0].weight) == [[0, 0], [0, 2]]
    assert zeros(model[1].weight) == [[0, 0], [2, 0]]


def test_levels_are_met_exactly_per_parameter() -> None:
    model = nn.Sequential(nn.Linear(10, 1, bias=False), nn.Linear(1, 10, bias=False))
    levels = {"0.weight": 0.3, "*": 0.7}
    run(model, made("SparsityLevelParameterPruner", model, levels=levels))
    assert [len(zeros(layer.weight)) for layer in model] == [3, 7]


def test_splicing_grows_its_sensitivity_by_the_multiplier_per_epoch() -> None:
    model = make_linear([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    options = {"sensitivities": {"module.0.weight": 0.5}, "low_thresh_mult": 0.9, "hi_thresh_mult": 1.1}
    window = Window(starting_epoch=1, ending_epoch=5)
    (policy,) = made("SplicingPruner", model, window, **options, sensitivity_multiplier=0.2)
    final = policy.allocation["splicing"]["sensitivities"]["0.weight"]
    in_force = [final * policy.schedule.fraction(epoch) for epoch in range(6)]
    wanted = [0.5 * (1 + 0.2 * (epoch - 1)) for epoch in range(1, 5)]
    assert in_force == pytest.approx([0, *wanted, wanted[-1]])
    (plain,) = made("SplicingPruner", model, Window(ending_epoch=3, mini_batch_pruning_frequency=2), **options)
    assert plain.allocation["splicing"] == {"sensitivities": {"0.weight": 0.5}, "low": 0.9, "high": 1.1}
    assert plain.schedule.acts_within(1, 4)
    assert not plain.schedule.acts_within(1, 5)


@pytest.mark.parametrize("epochs", [(), (1, 3, 5, 7)])
def test_baidus_thresholds_are_distillers(epochs: tuple[int, ...]) -> None:
    model = make_linear([[1.0, 2.0]])
    window = Window(epochs=epochs) if epochs else Window(starting_epoch=1, ending_epoch=8, frequency=2)
    options = {"q": 0.3, "ramp_epoch_offset": 2, "ramp_slope_mult": 1.5, "weights": ["0.weight"]}
    (policy,) = made("BaiduRNNPruner", model, window, **options)
    start, ramp, end = 1, 3, 8
    slope = 2 * 0.3 / (2 * (ramp - start) + 3 * (end - ramp))
    wanted = [slope * 1, slope * 3 + 1.5 * slope * 1, slope * 3 + 1.5 * slope * 3, slope * 3 + 1.5 * slope * 5]
    top = policy.allocation["threshold"]["0.weight"]
    assert [top * policy.schedule.fraction(epoch) for epoch in (1, 3, 5, 7)] == pytest.approx(wanted)
    assert isinstance(policy.schedule, Listed if epochs else BaiduRNN)


def test_structure_thresholds_judge_groups_by_mean_or_maximum() -> None:
    rows = [[0.1, 0.9], [0.6, 0.6], [2.0, 0.0]]  # rows: means .5, .6, 1, maxima .9, .6, 2; columns: .9, .5
    for criteria, group_type, limit, gone in (
        ("Mean_Abs", "Rows", 0.55, {0}), ("Max", "Rows", 0.7, {1}), ("Mean_Abs", "Cols", 0.6, {1}),
        ("Mean_Abs", "4D", 0.8, {0, 1}), ("Mean_Abs", "4D", 0.6, set()),
    ):  # fmt: skip
        model = make_linear(rows)
        regimes = {"0.weight": [limit, group_type]}
        run(model, made("StructureParameterPruner", model, reg_regims=regimes, threshold_criteria=criteria))
        weight = model[0].weight if group_type == "Rows" else model[0].weight.T
        assert {index for index, group in enumerate(weight) if not group.any()} == gone, (criteria, group_type)


@pytest.mark.parametrize(("limit", "gone"), [(0.25, [True, False, False]), (0.19, [False, False, False])])
def test_structure_thresholds_are_in_their_own_unit_for_coupled_groups_too(limit: float, gone: list[bool]) -> None:
    """A residual stream goes where all its makers are below: nothing is normalised first."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(2, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            return self.out(h + self.b(h).relu())

    model = Residual()
    model.a.weight.data = torch.tensor([[0.1, 0.1], [0.1, 0.1], [5.0, 5.0]])
    model.b.weight.data = torch.tensor([[0.2, 0.2, 0.2], [3.0, 3.0, 3.0], [0.2, 0.2, 0.2]])
    graph = trace(model, torch.ones(1, 2))
    regimes = {"a.weight": [limit, "Filters"]}
    scheduler = run(model, made("StructureParameterPruner", model, reg_regims=regimes), graph=graph)
    assert [units.tolist() for units in scheduler.pruned_units().values()] == [gone]


def test_regimes_of_several_group_types_are_a_policy_each() -> None:
    model = make_convnet()
    regimes = {"module.0.weight": [0.1, "2D"], "module.3.weight": [0.1, "3D"], "6.weight": [0.1, "Rows"]}
    found = pruner("StructureParameterPruner", {"reg_regims": regimes}).policies(model, Window(), name="p")
    assert [(policy.name, policy.granularity) for policy in found] == [
        ("p#1", "kernel"), ("p#2", "filter"), ("p#3", "filter"),
    ]  # fmt: skip


def test_ranked_rows_of_a_linear_layer_are_columns_as_they_were() -> None:
    model = make_linear([[1.0, 2.0, 0.1], [1.0, 2.0, 0.1]])
    options = {"group_type": "Rows", "weights": "0.weight", "desired_sparsity": 0.34}
    run(model, made("L1RankedStructureParameterPruner", model, **options))
    assert zeros(model[0].weight) == [[0, 2], [1, 2]]


@pytest.mark.parametrize(("kind", "gone"), [("L1", 1), ("L2", 0)])
def test_the_norm_decides_between_l1_and_l2(kind: str, gone: int) -> None:
    model = make_linear([[1.5, 2.6], [1.5, 0.0]])  # columns: L1 3 and 2.6, L2 2.12 and 2.6
    options = {"group_type": "Channels", "weights": "0.weight", "desired_sparsity": 0.5}
    run(model, made(f"{kind}RankedStructureParameterPruner", model, **options))
    assert model[0].weight[:, gone].tolist() == [0, 0]
    assert model[0].weight[:, 1 - gone].any()


@pytest.mark.parametrize("shape", [[1, 4, 1, 1], [2, 1, 1, 1], [2, 2, 1, 1]])
def test_blocks_are_tiles_of_filters_and_channels_at_one_kernel_position(shape: list[int]) -> None:
    model = make_convnet()
    before = model[3].weight.detach().clone()
    options = {"group_type": "Blocks", "weights": "3.weight", "kwargs": {"block_shape": shape}}
    run(model, made("L1RankedStructureParameterPruner", model, **options, desired_sparsity=0.25))
    f, c = shape[:2]
    tiles = before.abs().reshape(8 // f, f, 8 // c, c, 3, 3).sum((1, 3))
    keep = tiles > tiles.flatten().sort().values[tiles.numel() // 4 - 1]
    wanted = before * keep.repeat_interleave(f, 0).repeat_interleave(c, 1)
    torch.testing.assert_close(model[3].weight.detach(), wanted)


@pytest.mark.parametrize("shape", [[1, 3, 1, 1], [1, 4, 2, 2], [4, 4], None])
def test_block_shapes_that_do_not_fit_are_refused(shape: list[int] | None) -> None:
    model = make_convnet()
    kwargs = {} if shape is None else {"block_shape": shape}
    with pytest.raises(InputError, match="block"):
        run(model, made("L1RankedStructureParameterPruner_AGP", model, group_type="Blocks", weights="3.weight",
                        kwargs=kwargs, initial_sparsity=0.1, final_sparsity=0.5))  # fmt: skip


def test_agp_forms_end_at_their_final_sparsity_at_the_last_scheduled_epoch() -> None:
    model = make_convnet()
    window = Window(starting_epoch=1, ending_epoch=6, frequency=2)
    options = {**FILTERS, "initial_sparsity": 0.1, "final_sparsity": 0.5}
    (policy,) = made("L2RankedStructureParameterPruner_AGP", model, window, **options)
    assert isinstance(policy.schedule, AGP)
    assert [policy.schedule.fraction(epoch) for epoch in range(7)] == pytest.approx([0, 0.1, 0.1, 0.45, 0.45, 0.5, 0.5])


@pytest.mark.parametrize("form", ["", "_AGP"])
@pytest.mark.parametrize(
    ("kind", "criterion"),
    [
        ("L1RankedStructureParameterPruner", "l1"),
        ("L2RankedStructureParameterPruner", "l2"),
        ("GradientRankedFilterPruner", "taylor"),
        ("RandomRankedFilterPruner", "random(seed=0)"),
        ("BernoulliFilterPruner", "random(seed=0)"),
        pytest.param("ActivationAPoZRankedFilterPruner", "apoz", marks=pytest.mark.skipif(**missing("apoz"))),
        pytest.param(
            "ActivationMeanRankedFilterPruner", "mean_activation",
            marks=pytest.mark.skipif(**missing("mean_activation")),
        ),
    ],
)  # fmt: skip
def test_ranked_classes_are_a_criterion_and_a_schedule(kind: str, criterion: str, form: str) -> None:
    model = make_convnet()
    amount = {"initial_sparsity": 0.1, "final_sparsity": 0.5} if form else {"desired_sparsity": 0.5}
    (policy,) = made(kind + form, model, Window(ending_epoch=3), **FILTERS, **amount)
    assert (policy.granularity, policy.criterion, policy.targets) == ("filter", criterion, ["3.weight"])
    assert policy.schedule.final == 0.5
    assert isinstance(policy.schedule, AGP if form else OneShot)


@pytest.mark.parametrize("kind", ["ActivationAPoZRankedFilterPruner", "ActivationMeanRankedFilterPruner"])
def test_classes_of_activations_can_be_made_before_their_criterion_is_asked_for(kind: str) -> None:
    assert pruner(kind, {**FILTERS, "desired_sparsity": 0.5}).group_type == "Filters"


def test_filters_only_classes_refuse_other_groups() -> None:
    for kind in ("GradientRankedFilterPruner", "FMReconstructionChannelPruner"):
        with pytest.raises(NameNotFound, match=f"group_type of {kind} named 'Rows'"):
            made(kind, make_convnet(), group_type="Rows", weights="3.weight", desired_sparsity=0.5)


def test_each_filter_of_a_bernoulli_pruner_is_a_coin_of_its_own() -> None:
    scores = ScoredTarget(torch.zeros(100))
    drawn = [Bernoulli(seed).counts({"t": scores}, 0.3)["t"] for seed in range(200)]
    # binomial: mean 30, standard deviation 4.58; of the mean of 200: .324
    assert abs(sum(drawn) / 200 - 30) < 4 * 0.324
    variance = sum((count - 30) ** 2 for count in drawn) / 200
    assert 21 * 0.6 < variance < 21 * 1.4
    growing = [Bernoulli(3).counts({"t": scores}, share / 10)["t"] for share in range(11)]
    assert growing == sorted(growing)
    assert growing[0] == 0


def test_random_levels_lie_in_their_range_and_never_fall() -> None:
    options = {"group_type": "Filters", "weights": "3.weight", "sparsity_range": [0.2, 0.6]}
    policy: Policy = made("RandomLevelStructureParameterPruner", make_convnet(), Window(ending_epoch=20), **options)[0]
    shares = [policy.schedule.fraction(epoch) for epoch in range(20)]
    assert shares == sorted(shares)
    assert 0.2 <= shares[0] < shares[-1] <= 0.6
    assert made("RandomLevelStructureParameterPruner", make_convnet(), Window(ending_epoch=20), **options)[0] == policy
    assert shares[0] == random.Random("0:0").uniform(0.2, 0.6)


def test_feature_map_reconstruction_fits_what_is_left_by_least_squares() -> None:
    model = make_convnet().eval()
    before = model[3].weight.detach().clone()
    images = torch.randn(64, 1, 8, 8)
    inputs = model[:3](images).detach()
    outputs = nn.functional.conv2d(inputs, before, padding=1)
    options = {"group_type": "Channels", "weights": "3.weight", "desired_sparsity": 0.25}
    run(model, made("FMReconstructionChannelPruner", model, **options), data=[images])
    kept = [channel for channel in range(8) if model[3].weight[:, channel].any()]
    assert kept == sorted(before.abs().mean((0, 2, 3)).argsort().tolist()[2:])
    rows = nn.functional.unfold(inputs[:, kept], 3, padding=1).transpose(1, 2).reshape(-1, 9 * 6).double()
    wanted = outputs.flatten(2).transpose(1, 2).reshape(-1, 8).double()
    best = torch.linalg.lstsq(rows, wanted).solution
    fitted = model[3].weight.detach()[:, kept].reshape(8, -1).T.double()
    lowest, found = ((rows @ each - wanted).square().sum() for each in (best, fitted))
    assert lowest <= found < 1.001 * lowest


def test_every_class_has_one_row_in_the_table() -> None:
    assert len(PRUNERS) == 23
    assert all(kind.__name__ == name for name, kind in PRUNERS.items())
