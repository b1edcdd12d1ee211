"""Names, keywords and old spellings of schedule files; regularizers; who leads a group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distiller.nets import made, make_convnet, make_linear, run, traced
from prunus.axes import trace
from prunus.distiller import REGULARIZERS, Window, pruner, regularizer
from prunus.errors import InputError, NameNotFound
from prunus.regularizers import Regularizers

AGP = {"initial_sparsity": 0.0, "final_sparsity": 0.5}


class Stream(nn.Module):
    """`b` and `a` make one residual stream, `c` feeds `out` alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Conv2d(n, 6, 3, padding=1) for n in (1, 6, 6))
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.out(self.c(h + self.b(h.relu())).relu())


@pytest.mark.parametrize("written", ["3.weight", "module.3.weight", "3.module.weight"])
def test_names_may_carry_the_segments_of_data_parallel(written: str) -> None:
    (policy,) = made("AutomatedGradualPruner", make_convnet(), weights=[written], **AGP)
    assert policy.targets == ["3.weight"]


def test_names_without_segments_find_modules_in_data_parallel() -> None:
    model = nn.Sequential(nn.DataParallel(nn.Sequential(nn.Linear(2, 2))), nn.Linear(2, 2))
    (policy,) = made("AutomatedGradualPruner", model, weights="module.0.0.weight", **AGP)
    assert policy.targets == ["0.module.0.weight"]
    run(model, [policy])


def test_a_bare_string_is_one_name_and_no_substring() -> None:
    model = nn.Sequential()
    model.add_module("conv1", nn.Linear(4, 4))
    model.add_module("conv10", nn.Linear(4, 4))
    (policy,) = made("AutomatedGradualPruner", model, weights="module.conv10.weight", **AGP)
    run(model, [policy])
    assert model.conv1.weight.all()
    assert int((model.conv10.weight == 0).sum()) == 8


def test_patterns_stand_where_lists_do() -> None:
    (policy,) = made("AutomatedGradualPruner", make_convnet(), weights="module.*.weight", **AGP)
    assert policy.targets == ["*.weight"]
    (policy,) = made("MagnitudeParameterPruner", make_linear([[0.1, 2.0]]), thresholds={"module.0.*": 1.0})
    assert policy.targets == ["0.*"]


def test_a_name_that_matches_nothing_lists_near_ones() -> None:
    with pytest.raises(NameNotFound, match=r"'3\.wieght'; did you mean 3\.weight"):
        made("AutomatedGradualPruner", make_convnet(), weights="module.3.wieght", **AGP)
    with pytest.raises(InputError, match="at least one"):
        made("AutomatedGradualPruner", make_convnet(), weights=[], **AGP)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("AutomatedGradualPruner", {**AGP, "weights": "a", "levels": 1}, "takes no 'levels'; it takes .*weights"),
        ("BernoulliFilterPruner", {"group_type": "3D", "weights": "a"}, "needs 'desired_sparsity'"),
        ("SplicingPruner", {"sensitivities": {"a": 1}}, "needs 'low_thresh_mult'"),
        ("AutomatedGradualPrunr", {}, "did you mean AutomatedGradualPruner"),
    ],
)  # fmt: skip
def test_unknown_and_missing_keywords_are_refused_with_those_that_are_taken(
    kind: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        pruner(kind, options)


def test_old_spellings_are_taken_with_a_warning() -> None:
    options = {"initial_sparsity": 0.1, "final_sparsity": 0.5, "reg_regims": {"fc": "Rows", "fd": "Rows"}}
    with pytest.warns(UserWarning, match="is an old") as seen:
        found = pruner("StructuredAutomatedGradualPruner", options)
    assert [str(warning.message).split(";")[0] for warning in seen] == [
        "StructuredAutomatedGradualPruner is an old name",
        "L1RankedStructureParameterPruner_AGP: reg_regims is an old spelling",
    ]
    new = {"initial_sparsity": 0.1, "final_sparsity": 0.5, "group_type": "Rows", "weights": ["fc", "fd"]}
    assert found == pruner("L1RankedStructureParameterPruner_AGP", new)
    with pytest.raises(InputError, match="Filters, Rows; make a pruner for each"):
        pruner("L1RankedStructureParameterPruner", {"reg_regims": {"a": "Rows", "b": "Filters"}})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"group_type": "Filter"}, "did you mean Filters"),
        ({"group_dependency": "Follower"}, "no group_dependency named 'Follower'"),
        ({"kwargs": {"block": 1}}, "did you mean block_shape"),
    ],
)
def test_wrong_words_are_refused(changes: dict[str, Any], words: str) -> None:
    options = {"group_type": "Filters", "weights": "3.weight", "desired_sparsity": 0.5, **changes}
    with pytest.raises(NameNotFound, match=words):
        made("L1RankedStructureParameterPruner", make_convnet(), **options)
    with pytest.raises(InputError, match=r"\[number, group type\]"):
        made("StructureParameterPruner", make_convnet(), reg_regims={"3.weight": 0.1})
    with pytest.raises(NameNotFound, match="threshold_criteria"):
        made("StructureParameterPruner", make_convnet(), reg_regims={"3.weight": [0.1, "3D"]}, threshold_criteria="L3")


@pytest.mark.parametrize("weights", [["module.b.weight", "module.a.weight"], ["a.weight", "b.weight"]])
def test_the_leader_decides_for_all_that_go_with_it(weights: list[str]) -> None:
    model = Stream()
    leader = getattr(model, weights[0].split(".")[-2]).weight.detach().abs().sum((1, 2, 3))
    graph = trace(model, torch.randn(1, 1, 5, 5))
    options = {"group_type": "Filters", "weights": weights, "group_dependency": "Leader", "desired_sparsity": 0.5}
    scheduler = run(model, made("L1RankedStructureParameterPruner", model, graph=graph, **options), graph=graph)
    (pruned,) = scheduler.pruned_units().values()
    assert pruned.nonzero().flatten().tolist() == sorted(leader.argsort()[:3].tolist())
    for layer in (model.a, model.b):
        assert not layer.weight[pruned].any()


def test_a_leader_of_what_does_not_go_together_is_refused() -> None:
    model = Stream()
    graph = trace(model, torch.randn(1, 1, 5, 5))
    options = {"group_type": "Filters", "group_dependency": "Leader", "desired_sparsity": 0.5}
    with pytest.raises(InputError, match="several groups"):
        made("L1RankedStructureParameterPruner", model, graph=graph, weights=["a.weight", "c.weight"], **options)
    with pytest.raises(InputError, match="give graph="):
        made("L1RankedStructureParameterPruner", model, weights=["a.weight", "b.weight"], **options)
    made("L1RankedStructureParameterPruner", model, weights=["c.weight"], **options)


def penalty(model: nn.Module, kind: str, **options: Any) -> float:
    return float(Regularizers(model, regularizer(kind, options).terms(model))().detach())


def test_regularizers_are_their_formulas() -> None:
    model = make_convnet()
    conv, fc = model[3].weight.detach(), model[6].weight.detach()
    regimes = {"module.3.weight": 0.1, "6.weight": 0.2}
    assert penalty(model, "L1Regularizer", reg_regims=regimes) == pytest.approx(
        float(0.1 * conv.abs().sum() + 0.2 * fc.abs().sum()), rel=1e-5
    )
    norms = {
        "2D": conv.flatten(2).norm(dim=2), "3D": conv.flatten(1).norm(dim=1), "4D": conv.norm(),
        "Channels": conv.transpose(0, 1).flatten(1).norm(dim=1),
    }  # fmt: skip
    norms["Channels+4D"] = norms["Channels"].sum() + norms["4D"]
    for group_type, wanted in norms.items():
        found = penalty(model, "GroupLassoRegularizer", reg_regims={"3.weight": [0.3, group_type]})
        assert found == pytest.approx(float(0.3 * wanted.sum()), rel=1e-5), group_type
    rows_and_columns = {"module.6.weight": [0.5, "Rows+Cols"]}
    assert penalty(model, "GroupLassoRegularizer", reg_regims=rows_and_columns) == pytest.approx(
        float(0.5 * (fc.norm(dim=1).sum() + fc.norm(dim=0).sum())), rel=1e-5
    )
    assert penalty(model, "GroupVarianceRegularizer", reg_regims={"3.weight": [0.3, "Channels"]}) == pytest.approx(
        float(0.3 / norms["Channels"].var()), rel=1e-4
    )


def test_each_term_of_a_regularizer_has_its_own_name() -> None:
    regimes = {"0.weight": 0.1, "3.weight": 0.2, "6.weight": 0.1}
    terms = regularizer("L1Regularizer", {"reg_regims": regimes}).terms(make_convnet(), name="mine")
    assert [(term.name, term.strength, term.targets) for term in terms] == [
        ("mine_1", 0.1, ["0.weight", "6.weight"]), ("mine_2", 0.2, ["3.weight"]),
    ]  # fmt: skip


def test_threshold_criteria_add_the_policies_that_zero_small_groups() -> None:
    model = make_linear([[0.1, 0.9], [0.6, 0.6]])
    regimes = {"0.weight": [0.55, "Rows"]}
    group = regularizer("GroupLassoRegularizer", {"reg_regims": regimes, "threshold_criteria": "Mean_Abs"})
    run(model, group.policies(model, Window()))
    assert model[0].weight.tolist() == [[0, 0], [pytest.approx(0.6)] * 2]
    single = regularizer("L1Regularizer", {"reg_regims": {"0.weight": 0.7}, "threshold_criteria": "Mean_Abs"})
    assert single.policies(model, Window())[0].allocation == {"threshold": {"0.weight": 0.7}}
    for kind, given in (("L1Regularizer", 0.7), ("GroupVarianceRegularizer", [1, "Channels"])):
        assert regularizer(kind, {"reg_regims": {"0.weight": given}}).policies(model, Window()) == []


def test_variance_is_over_channels_alone() -> None:
    with pytest.raises(NameNotFound, match="group_type"):
        regularizer("GroupVarianceRegularizer", {"reg_regims": {"3.weight": [1, "3D"]}}).terms(make_convnet())
    assert sorted(REGULARIZERS) == ["GroupLassoRegularizer", "GroupVarianceRegularizer", "L1Regularizer"]


def test_the_same_policy_serves_graphs_and_plain_models() -> None:
    model = make_convnet()
    options = {"group_type": "3D", "weights": "0.weight", "desired_sparsity": 0.5}
    (policy,) = made("L1RankedStructureParameterPruner", model, **options)
    scheduler = run(model, [policy], graph=traced(model))
    assert [int(units.sum()) for units in scheduler.pruned_units().values()] == [4]
