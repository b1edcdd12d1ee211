"""One epoch, its optimizer and its learning rate."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from prunus.errors import InputError, NameNotFound, TrainingError
from prunus.statistics.batchnorm import recalibrate_
from prunus.training.loop import train_epoch
from prunus.training.optimizers import build_optimizer, check_optimizer, optimizer_names
from prunus.training.rates import build_rate, check_rate, rate_names
from prunus.training.seeding import derived_seed, reseed


def line(weight=2.0):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    return model


def test_epoch_takes_the_steps_of_gradient_descent():
    model = line()
    data = [(torch.ones(2, 1), torch.zeros(2, 1)), (torch.ones(1, 1), torch.zeros(1, 1))]
    seen = []
    result = train_epoch(model, data, torch.optim.SGD(model.parameters(), lr=0.25), mse_loss, after_step=seen.append)
    # w <- w - 0.25 * 2w = w / 2, twice
    assert model.weight.item() == 0.5
    assert seen == [4.0, 1.0]
    assert result.loss == pytest.approx((4.0 * 2 + 1.0) / 3)
    assert result.steps == 2
    assert model.training


def test_nan_loss_names_stage_epoch_and_step_and_takes_no_step():
    model = line()
    data = [(torch.ones(1, 1), torch.zeros(1, 1)), (torch.ones(1, 1), torch.full((1, 1), math.nan))]
    with pytest.raises(TrainingError, match=r"train, epoch 3, step 2: the loss is nan; lower the learning rate"):
        train_epoch(model, data, torch.optim.SGD(model.parameters(), lr=0.25), mse_loss, where="train, epoch 3")
    assert model.weight.item() == 1.0


def test_losses_and_optimizers_that_fail_are_named():
    model, data = line(), [(torch.ones(2, 1), torch.zeros(2, 1))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match=r"step 1: the loss returned shape \(2, 1\)"):
        train_epoch(model, data, optimizer, lambda o, t: (o - t) ** 2)
    with pytest.raises(TrainingError, match=r"step 1: the loss returned float"):
        train_epoch(model, data, optimizer, lambda o, t: 1.0)
    with pytest.raises(TrainingError, match=r"step 1: the loss raised ValueError"):
        train_epoch(model, data, optimizer, cross_entropy_on_floats)
    with pytest.raises(TrainingError, match=r"the backward pass raised RuntimeError"):
        train_epoch(model, data, optimizer, lambda o, t: torch.tensor(1.0))


def cross_entropy_on_floats(output, target):
    return cross_entropy(output, target.long().flatten()[:1])


def test_bfloat16_casts_the_forward_only():
    model = line()
    kinds = []
    train_epoch(
        model, [(torch.ones(1, 1), torch.zeros(1, 1))], torch.optim.SGD(model.parameters(), lr=0.1),
        lambda o, t: kinds.append(o.dtype) or mse_loss(o.float(), t), precision="bfloat16",
    )  # fmt: skip
    assert kinds == [torch.bfloat16]
    assert model.weight.dtype == torch.float32
    with pytest.raises(InputError, match=r"precision is 'half'; want float32 or bfloat16"):
        train_epoch(model, [(torch.ones(1, 1), torch.zeros(1, 1))], None, mse_loss, precision="half")


@pytest.mark.parametrize("name", sorted(optimizer_names()))
def test_every_optimizer_of_torch_can_be_named(name):
    check_optimizer(name, {"lr": 0.01})


def test_optimizer_arguments_are_checked():
    with pytest.raises(NameNotFound, match=r"no optimizer named 'adamm'; did you mean"):
        check_optimizer("adamm", {})
    with pytest.raises(NameNotFound, match=r"did you mean weight_decay"):
        check_optimizer("adam", {"weightdecay": 0.1})
    with pytest.raises(InputError, match=r"Adam refuses its arguments.*Invalid learning rate: -1"):
        check_optimizer("adam", {"lr": -1.0})
    with pytest.raises(InputError, match=r"lr of SGD is '0.1'; want a number"):
        check_optimizer("SGD", {"lr": "0.1"})
    with pytest.raises(InputError, match=r"no trainable parameter"):
        build_optimizer("adam", nn.ReLU(), {})


def rates(name, epochs=2, steps=4, lr=1.0, **arguments):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    rate = build_rate(name, arguments, optimizer, epochs=epochs, steps_per_epoch=steps)
    seen = []
    for _ in range(epochs):
        for _ in range(steps):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            rate.step_end()
        rate.epoch_end()
    return [*seen, optimizer.param_groups[0]["lr"]]


def test_rates_follow_their_formulas():
    assert rates("constant") == [1.0] * 9
    assert rates("cosine") == pytest.approx([(1 + math.cos(math.pi * t / 8)) / 2 for t in range(9)], abs=1e-12)
    assert rates("step", epochs=3, steps=1) == pytest.approx([1.0, 0.1, 0.01, 0.001])
    assert rates("ExponentialLR", epochs=3, steps=2, gamma=0.5) == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]
    one_cycle = rates("one_cycle", steps=20)
    assert max(one_cycle) == pytest.approx(1.0, abs=1e-3)
    assert one_cycle[0] == pytest.approx(1 / 25)
    assert one_cycle[-2] < 1e-5  # the last rate that a step used


def test_rate_arguments_are_checked():
    with pytest.raises(NameNotFound, match=r"no lr_schedule named 'cosin'; did you mean cosine"):
        check_rate("cosin", {})
    with pytest.raises(NameNotFound, match=r"did you mean pct_start"):
        check_rate("one_cycle", {"pctstart": 0.3})
    with pytest.raises(InputError, match=r"the lr_schedule ExponentialLR refuses its arguments"):
        check_rate("ExponentialLR", {})
    with pytest.raises(NameNotFound):
        check_rate("constant", {"gamma": 1})
    assert "LambdaLR" not in rate_names()


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "step", "CosineAnnealingWarmRestarts"])
def test_rate_state_goes_on_where_it_was(name):
    arguments = {"T_0": 3} if name == "CosineAnnealingWarmRestarts" else {}

    def start():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
        return optimizer, build_rate(name, arguments, optimizer, epochs=4, steps_per_epoch=2)

    def epoch(optimizer, rate):
        for _ in range(2):
            optimizer.step()
            rate.step_end()
        rate.epoch_end()
        return [optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]]

    optimizer, rate = start()
    whole = [epoch(optimizer, rate) for _ in range(4)]
    optimizer, rate = start()
    first = [epoch(optimizer, rate) for _ in range(2)]
    kept = copy.deepcopy((optimizer.state_dict(), rate.state_dict()))
    optimizer, rate = start()
    optimizer.load_state_dict(kept[0])
    rate.load_state_dict(kept[1])
    assert first + [epoch(optimizer, rate) for _ in range(2)] == whole


def test_recalibration_is_the_mean_over_batches_and_restores_modes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 2)).train()
    model[2].eval()
    data = [(torch.randn(8, 3) * 2 + 5, None) for _ in range(4)]
    assert recalibrate_(model, data, num_batches=3) == 1
    torch.testing.assert_close(model[1].running_mean, torch.stack([x.mean(0) for x, _ in data[:3]]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([x.var(0) for x, _ in data[:3]]).mean(0))
    assert model[1].num_batches_tracked == 3
    assert model[1].momentum == 0.1
    assert [m.training for m in model] == [True, True, False]


def test_recalibration_without_batch_norm_reads_no_data():
    assert recalibrate_(nn.Linear(1, 1), None) == 0
    with pytest.raises(InputError, match=r"want at least 1"):
        recalibrate_(nn.Linear(1, 1), [], num_batches=0)


def test_reseed_repeats_an_epoch_and_its_loader():
    data = torch.utils.data.TensorDataset(torch.arange(50.0))
    generator = torch.Generator().manual_seed(3)
    loader = torch.utils.data.DataLoader(data, shuffle=True, batch_size=50, generator=generator)

    def draw(epoch):
        reseed(7, "train", epoch, loader)
        return torch.cat([torch.rand(3), next(iter(loader))[0]]).tolist()

    first = draw(1)
    assert draw(2) != first
    assert draw(1) == first
    assert len({derived_seed(s, stage, e) for s in range(3) for stage in ("a", "b") for e in range(9)}) == 54
