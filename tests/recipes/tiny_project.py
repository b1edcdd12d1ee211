"""A user's folder: a tiny net, a slice of the digits, a recipe; the pieces that tests replace are arguments."""

from pathlib import Path

import pytest
import yaml

from prunus.recipes import open_recipe, run

USER = '''
import os, signal
import torch
from torch import nn
from torch.utils.data import TensorDataset
from prunus import zoo

seen = 0

class Counting:
    """A loader that ends its process, or interrupts it, at the batch that the environment names."""
    def __init__(self, loader):
        self.loader, self.dataset = loader, loader.dataset
    def __len__(self):
        return len(self.loader)
    def __iter__(self):
        global seen
        for batch in self.loader:
            seen += 1
            if str(seen) == os.environ.get("TINY_KILL"):
                os.kill(os.getpid(), signal.SIGKILL)
            if str(seen) == os.environ.get("TINY_INTERRUPT"):
                raise KeyboardInterrupt
            yield batch

def net(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Dropout(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    )

def data(limit=128):
    digits = zoo.digits()
    train = TensorDataset(*(t[:limit] for t in digits.train.tensors))
    validation = TensorDataset(*(t[:64] for t in digits.validation.tensors))
    test = TensorDataset(*(t[:64] for t in digits.test.tensors))
    loader = zoo.TensorLoader
    return {
        "train": Counting(loader(train, batch_size=32, shuffle=True)),
        "validation": loader(validation, batch_size=64),
        "test": loader(test, batch_size=64),
        "name": "tiny digits",
    }
'''

OWN_CLASS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()
    def forward(self, x):
        return self.body(x)
"""

RECIPE = """
version: 1
name: tiny
model: user.py:net
data: user.py:data
seed: 3
threads: 1
train:
  epochs: 3
  optimizer: {name: adam, lr: 0.01}
  lr_schedule: one_cycle
sensitivity: {levels: [0.5], granularity: filter}
prune:
  epochs: 3
  optimizer: {name: sgd, lr: 0.05, momentum: 0.9}
  policies:
    - name: filters
      granularity: filter
      criterion: l2
      schedule: {kind: agp, final: 0.5, begin: 0ep, end: 2ep, every: 1ep}
    - name: zeros
      granularity: element
      targets: 3.weight
      schedule: {kind: agp, final: 0.9, begin: 0ep, end: 2ep, every: 1ep}
fine_tune: {epochs: 2, lr_schedule: cosine}
finish: {latency: false}
out: out
"""


def write_project(folder: Path, *, more: str = "", **changes) -> Path:
    """Write user.py (with `more` behind it) and recipe.yaml with changed top-level keys; returns the recipe's path.

    A key set to None is left out. `out` lies in the folder.
    """
    values = {**yaml.safe_load(RECIPE), "out": str(folder / "out"), **changes}
    (folder / "user.py").write_text(USER + more)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return recipe


def policy(**changes) -> dict:
    """A `prune` section with one policy."""
    one = {"granularity": "filter", "schedule": {"kind": "one_shot", "final": 0.5}, **changes}
    return {"epochs": 1, "policies": [one]}


def interrupted_and_resumed(recipe: Path, batch: int) -> dict:
    """The facts of a run that is interrupted at a batch and goes on."""
    opened = open_recipe(recipe)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TINY_INTERRUPT", str(batch))
        with pytest.raises(KeyboardInterrupt):
            run(opened)
    return run(opened, resume=True).facts
