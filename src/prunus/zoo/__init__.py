"""Small reference models and real data: own code, plain modules, no torchvision.

Every model runs under `torch.export`, and its forward names no channel count, so that a thinned copy runs
unchanged.
"""

from prunus.zoo.alexnet import AlexNet, AlexNetCifar
from prunus.zoo.data import (
    Data,
    Loaders,
    TensorLoader,
    digits,
    digits_loaders,
    fashion_mnist,
    fashion_mnist_loaders,
    loaders,
    mnist_subset,
    mnist_subset_loaders,
)
from prunus.zoo.densenet import DenseNet, densenet121, densenet_cifar
from prunus.zoo.lenet import LeNet5, LeNet300
from prunus.zoo.mobilenet import MobileNetV1, MobileNetV2
from prunus.zoo.quickstart import QuickstartNet, quickstart_net, quickstart_net_digits
from prunus.zoo.registry import MODELS, Entry, build, example_input
from prunus.zoo.resnet import ResNet, ResNetCifar, resnet18, resnet20, resnet50, resnet56
from prunus.zoo.transformer import GPT, ViT, gpt2_small, gpt_tiny, vit_cifar, vit_small, vit_tiny
from prunus.zoo.vgg import VGG16BN, VGG16BNCifar

# A recipe names a model as `prunus.zoo:lenet5`: the registry's names are importable names.
lenet_300_100 = LeNet300
lenet5 = LeNet5
alexnet = AlexNet
alexnet_cifar = AlexNetCifar
vgg16_bn = VGG16BN
vgg16_bn_cifar = VGG16BNCifar
mobilenet_v1 = MobileNetV1
mobilenet_v2 = MobileNetV2

__all__ = [
    "GPT",
    "MODELS",
    "VGG16BN",
    "AlexNet",
    "AlexNetCifar",
    "Data",
    "DenseNet",
    "Entry",
    "LeNet5",
    "LeNet300",
    "Loaders",
    "MobileNetV1",
    "MobileNetV2",
    "QuickstartNet",
    "ResNet",
    "ResNetCifar",
    "TensorLoader",
    "VGG16BNCifar",
    "ViT",
    "alexnet",
    "alexnet_cifar",
    "build",
    "densenet121",
    "densenet_cifar",
    "digits",
    "digits_loaders",
    "example_input",
    "fashion_mnist",
    "fashion_mnist_loaders",
    "gpt2_small",
    "gpt_tiny",
    "lenet5",
    "lenet_300_100",
    "loaders",
    "mnist_subset",
    "mnist_subset_loaders",
    "mobilenet_v1",
    "mobilenet_v2",
    "quickstart_net",
    "quickstart_net_digits",
    "resnet18",
    "resnet20",
    "resnet50",
    "resnet56",
    "vgg16_bn",
    "vgg16_bn_cifar",
    "vit_cifar",
    "vit_small",
    "vit_tiny",
]
