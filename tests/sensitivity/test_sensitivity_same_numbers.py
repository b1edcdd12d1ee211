"""The fast way gives the naive loop's numbers, bit for bit, on nets of every family and in every granularity."""

import pytest
import torch
from torch import nn

import prunus
from prunus import zoo
from prunus.sensitivity import perform_sensitivity_analysis
from prunus.training import Evaluation
from prunus.zoo.densenet import DenseNet
from prunus.zoo.resnet import ResNetCifar
from sensitivity_oracle import assert_same, check, judge, naive_table, table


def randomised(model):
    """Batch norms that do something, so that a wrong one shows."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def densenet():
    stem = {"conv0": nn.Conv2d(3, 8, 3, padding=1)}
    return DenseNet(stem, channels=8, growth=4, depths=(2, 2), num_classes=5)


class VGG(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Linear(8 * 16, 5)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


IMAGES = [torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(n)) for n in (4, 4, 3)]
NETS = {
    "resnet": lambda: ResNetCifar(8, in_channels=3),
    "vgg": VGG,
    "densenet": densenet,
    "mobilenet_v1": lambda: zoo.build("mobilenet_v1", width=0.1, num_classes=5),
    "mobilenet_v2": lambda: zoo.build("mobilenet_v2", width=0.1, num_classes=5),
}


@pytest.mark.parametrize("name", NETS)
def test_convolutional_nets(name):
    torch.manual_seed(0)
    check(randomised(NETS[name]()), judge(*IMAGES), levels=(0.6,))


@pytest.mark.parametrize("kind", ["vector(4)", "2:4", "pattern(4)", "kernel", "filter", "channel"])
def test_granularities_of_single_weights(kind):
    torch.manual_seed(0)
    model = randomised(ResNetCifar(8, in_channels=4))
    images = [torch.cat([x, x[:, :1]], dim=1) for x in IMAGES]
    convolutions = [n for n, p in model.named_parameters() if p.dim() == 4 and p.shape[-1] == 3]
    check(model, judge(*images), granularity=kind, targets=convolutions)


@pytest.mark.parametrize("kind", ["filter", "channel"])
@pytest.mark.parametrize("name", ["resnet", "densenet"])
def test_coupled_groups_prune_several_tensors_and_buffers(name, kind):
    torch.manual_seed(0)
    model = randomised(NETS[name]())
    check(model, judge(*IMAGES), granularity=kind, graph=prunus.trace(model, IMAGES[0]))


@pytest.mark.parametrize("targets", ["*", {"kind": "head"}])
def test_heads_and_widths_of_transformers(targets):
    torch.manual_seed(0)
    model = zoo.build("vit_cifar", depth=2, dim=16, heads=4, image_size=16).eval()
    graph = prunus.trace(model, IMAGES[0])
    check(model, judge(*IMAGES), granularity="filter", graph=graph, targets=targets, levels=(0.5,))


def test_causal_language_model():
    torch.manual_seed(0)
    model = zoo.build("gpt_tiny", vocab_size=50, dim=16, depth=2, context=16).eval()
    tokens = [torch.randint(0, 50, (2, 12)), torch.randint(0, 50, (2, 9))]
    check(model, judge(*tokens), levels=(0.5,))


def test_a_ready_evaluation_reads_its_data_for_the_survey_and_once_per_pass():
    torch.manual_seed(0)
    model, reads = randomised(ResNetCifar(8, in_channels=3)), []

    class Data:
        def __iter__(self):
            reads.append(1)
            for x in IMAGES:
                yield x, torch.arange(len(x)) % 10

    evaluation = Evaluation(Data(), nn.functional.cross_entropy, metrics=("top1", "loss"))
    wanted = naive_table(model, evaluation)
    reads.clear()
    assert_same(table(perform_sensitivity_analysis(model, evaluation, levels=(0.3, 0.7))), wanted)
    assert len(reads) == 2


def test_a_function_among_the_metrics_is_called_per_cell():
    torch.manual_seed(0)
    model = randomised(VGG())
    data = [(x, torch.arange(len(x)) % 5) for x in IMAGES]

    def spread(model, loader):
        return float(torch.stack([model(x).std() for x, _ in loader]).double().sum())

    check(model, Evaluation(data, nn.functional.cross_entropy, metrics=("top1", spread)))


def test_levels_that_prune_the_same_units_are_computed_once(monkeypatch):
    from prunus.sensitivity.replay import Player

    played, plain = [], Player.play
    monkeypatch.setattr(Player, "play", lambda self, bit, weights: played.append(bit) or plain(self, bit, weights))
    torch.manual_seed(0)
    check(VGG().eval(), judge(IMAGES[0]), granularity="filter", targets="classifier", levels=(0.5, 0.55, 0.59))
    assert len(played) == 1
