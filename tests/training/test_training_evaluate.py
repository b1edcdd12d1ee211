"""Evaluation, losses and the errors of the user's code."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from prunus.batches import check_loader, first_inputs, num_samples
from prunus.errors import InputError, NameNotFound, TrainingError
from prunus.training.evaluate import correct_at, evaluate
from prunus.training.losses import LOSSES, loss_by_name


class Constant(nn.Module):
    """Answers class 1 with log-odds 2, whatever comes in."""

    def __init__(self, output=None):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.output = output

    def forward(self, x):
        if self.output is not None:
            return self.output
        return self.dropout(torch.tensor([[1.0, 3.0, 2.0]]).expand(len(x), 3))


def loader(*targets):
    return [(torch.zeros(len(t), 1), torch.tensor(t)) for t in targets]


def test_evaluate_weighs_samples_not_batches():
    model = Constant().train()
    found = evaluate(model, loader([1, 1, 2], [0]), cross_entropy)
    norm = math.log(math.e + math.e**3 + math.e**2)
    assert found["top1"] == 0.5
    assert found["top5"] == 1.0  # fewer than five classes: every answer counts
    assert found["loss"] == pytest.approx(norm - (3 + 3 + 2 + 1) / 4)
    assert model.training


def test_top_k_of_dense_prediction_counts_every_position():
    output = torch.tensor([[[9.0, 0.0], [5.0, 1.0], [1.0, 2.0]]])  # (1, 3 classes, 2 positions)
    assert correct_at(output, torch.tensor([[1, 2]]), [1, 2]) == {1: 1, 2: 2}


def test_shapes_that_are_no_classes_are_refused():
    with pytest.raises(InputError, match=r"logits \(N, C, ...\).*got \(2, 3\)"):
        correct_at(torch.zeros(2, 3), torch.zeros(2, 3), [1])


def test_own_metric_may_return_a_float_or_a_dict():
    def seen(model, data):
        return {"batches": len(data), "mode": float(model.training)}

    assert evaluate(Constant(), loader([1]), cross_entropy, metrics=[seen]) == {"batches": 1.0, "mode": 0.0}
    assert evaluate(Constant(), loader([1]), cross_entropy, metrics=[two]) == {"two": 2.0}


def two(model, data):
    return torch.tensor(2.0)


def test_own_metric_that_fails_is_named():
    def broken(model, data):
        raise KeyError("labels")

    with pytest.raises(TrainingError, match=r"the metric broken on data.test raised KeyError: 'labels'"):
        evaluate(Constant(), loader([1]), cross_entropy, metrics=[broken], name="data.test")
    with pytest.raises(TrainingError, match=r"is nan; want a finite number"):
        evaluate(Constant(), loader([1]), cross_entropy, metrics=[lambda m, d: math.nan])
    with pytest.raises(TrainingError, match=r"returned str; want a float"):
        evaluate(Constant(), loader([1]), cross_entropy, metrics=[lambda m, d: "good"])
    with pytest.raises(NameNotFound, match=r"did you mean top1"):
        evaluate(Constant(), loader([1]), cross_entropy, metrics=["top11"])


def test_model_that_returns_no_tensor_is_named():
    with pytest.raises(TrainingError, match=r"the model Constant returned dict, want one tensor"):
        evaluate(Constant({"logits": torch.zeros(1, 3)}), loader([1]), cross_entropy, name="data.validation")


def test_empty_and_foreign_loaders_are_named():
    with pytest.raises(TrainingError, match=r"data.validation is empty"):
        evaluate(Constant(), [], cross_entropy, name="data.validation")
    with pytest.raises(TrainingError, match=r"yielded a dict; want pairs"):
        evaluate(Constant(), [{"x": 1}], cross_entropy)
    with pytest.raises(TrainingError, match=r"yielded x as str"):
        evaluate(Constant(), [("x", torch.zeros(1))], cross_entropy)


def test_loader_that_raises_is_named_with_its_batch():
    def rows():
        yield torch.zeros(1, 1), torch.tensor([1])
        raise OSError("disk on fire")

    class Failing:
        def __iter__(self):
            return rows()

    with pytest.raises(TrainingError, match=r"data at batch 2 raised OSError: disk on fire"):
        evaluate(Constant(), Failing(), cross_entropy)


def test_one_time_iterators_are_refused():
    with pytest.raises(InputError, match=r"read once only"):
        check_loader(iter([]), "data.train")
    with pytest.raises(InputError, match=r"data.train is a int"):
        check_loader(3, "data.train")
    check_loader([], "data.train")


def test_first_inputs_and_sizes():
    data = [((torch.arange(6.0).reshape(3, 2), torch.ones(3)), torch.zeros(3)), (torch.zeros(1, 2), None)]
    first, second = first_inputs(data, "data.train", 2)
    assert first.tolist() == [[0, 1], [2, 3]]
    assert second.tolist() == [1, 1]
    assert num_samples(data, "data.train") == 4
    dataset = torch.utils.data.TensorDataset(torch.zeros(7, 1), torch.zeros(7))
    assert num_samples(torch.utils.data.DataLoader(dataset, batch_size=4, drop_last=True), "d") == 7


@pytest.mark.parametrize("name", LOSSES)
def test_every_named_loss_is_one_number(name):
    target = torch.tensor([1, 0]) if name in ("cross_entropy", "nll_loss") else torch.full((2, 3), 0.5)
    assert loss_by_name(name)(torch.full((2, 3), 0.4), target).dim() == 0


def test_misspelt_loss_lists_near_names():
    with pytest.raises(NameNotFound, match=r"did you mean cross_entropy"):
        loss_by_name("crossentropy")
