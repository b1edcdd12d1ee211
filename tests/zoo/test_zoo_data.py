"""Readers, splits and loaders against files made by hand; every damaged file is one clear error."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from prunus import zoo
from prunus.errors import FileError, InputError
from prunus.zoo import _idx, data

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def idx_bytes(values: torch.Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.dim()]) + sizes + values.numpy().tobytes()


def write_set(folder: Path, *, num_train: int = 40, num_test: int = 10, compress: bool = True) -> Path:
    """A small set in Fashion-MNIST's files: the first pixel of every image is its index, its label that modulo 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", num_train), ("t10k", num_test)):
        images = torch.zeros(count, 28, 28, dtype=torch.uint8)
        images[:, 0, 0] = torch.arange(count)
        for name, values in (("images-idx3", images), ("labels-idx1", images[:, 0, 0] % 10)):
            content = idx_bytes(values)
            path = folder / f"{prefix}-{name}-ubyte{'.gz' if compress else ''}"
            path.write_bytes(gzip.compress(content) if compress else content)
    return folder


def indices(dataset: TensorDataset, of: data.Data) -> torch.Tensor:
    return (dataset.tensors[0][:, 0, 0, 0] * of.std + of.mean).mul(255).round().long()


def test_read_idx_gives_the_values_gzipped_or_plain(tmp_path: Path) -> None:
    values = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx_bytes(values))
    (tmp_path / "packed").write_bytes(gzip.compress(idx_bytes(values)))
    assert torch.equal(_idx.read_idx(tmp_path / "plain"), values)
    assert torch.equal(_idx.read_idx(tmp_path / "packed"), values)


@pytest.mark.parametrize("compress", [False, True])
def test_every_truncation_of_an_idx_file_is_a_file_error(tmp_path: Path, compress: bool) -> None:
    content = idx_bytes(torch.arange(12, dtype=torch.uint8).view(3, 4))
    content = gzip.compress(content) if compress else content
    path = tmp_path / "cut"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FileError, match="cut"):
            _idx.read_idx(path)


@given(st.binary(max_size=80))
def test_junk_is_a_file_error_or_a_true_idx_file(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "junk"
    path.write_bytes(junk)
    try:
        values = _idx.read_idx(path)
    except FileError:
        return
    assert idx_bytes(values) == junk


@pytest.mark.parametrize(
    "content",
    [
        idx_bytes(torch.zeros(3, dtype=torch.uint8)) + b"x",
        b"\x00\x00\x0d" + idx_bytes(torch.zeros(3, dtype=torch.uint8))[3:],
        bytes([0, 0, 8, 2]) + b"\xff" * 8,
        b"\x1f\x8b" + b"no gzip stream after all",
    ],
    ids=["longer", "floats", "dimensions beyond the file", "gzip magic only"],
)
def test_wrong_idx_files_are_file_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wrong"
    path.write_bytes(content)
    with pytest.raises(FileError, match="wrong"):
        _idx.read_idx(path)


@pytest.mark.parametrize("compress", [False, True])
def test_fashion_mnist_splits_without_overlap_and_keeps_labels_with_images(tmp_path: Path, compress: bool) -> None:
    write_set(tmp_path, compress=compress)
    loaded = zoo.fashion_mnist(tmp_path, num_validation=10)
    train, validation = indices(loaded.train, loaded), indices(loaded.validation, loaded)
    assert sorted(torch.cat([train, validation]).tolist()) == list(range(40))
    assert len(validation) == 10
    assert indices(loaded.test, loaded).tolist() == list(range(10))
    for part in (loaded.train, loaded.validation, loaded.test):
        assert torch.equal(indices(part, loaded) % 10, part.tensors[1])


def test_fashion_mnist_split_does_not_depend_on_the_global_seed(tmp_path: Path) -> None:
    write_set(tmp_path)
    torch.manual_seed(1)
    first = zoo.fashion_mnist(tmp_path, num_validation=10)
    torch.manual_seed(2)
    second = zoo.fashion_mnist(tmp_path, num_validation=10)
    assert torch.equal(first.train.tensors[0], second.train.tensors[0])


def test_limit_shortens_training_and_leaves_validation(tmp_path: Path) -> None:
    write_set(tmp_path)
    whole = zoo.fashion_mnist(tmp_path, num_validation=10)
    short = zoo.fashion_mnist(tmp_path, num_validation=10, limit=7)
    assert len(short.train) == 7
    assert torch.equal(indices(short.validation, short), indices(whole.validation, whole))


def test_training_pixels_have_mean_0_and_deviation_1(tmp_path: Path) -> None:
    loaded = zoo.fashion_mnist(write_set(tmp_path), num_validation=10)
    pixels = loaded.train.tensors[0].double()
    assert abs(float(pixels.mean())) < 1e-5
    assert abs(float(pixels.std()) - 1) < 1e-5


@pytest.mark.parametrize("num_validation", [0, 40, -1])
def test_validation_must_leave_images_on_both_sides(tmp_path: Path, num_validation: int) -> None:
    with pytest.raises(InputError, match=f"{num_validation} of 40"):
        zoo.fashion_mnist(write_set(tmp_path), num_validation=num_validation)


def test_images_and_labels_must_agree(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(torch.zeros(39, dtype=torch.uint8)))
    with pytest.raises(FileError, match="belong together"):
        zoo.fashion_mnist(tmp_path)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any data set: an empty home, an empty working folder, no Debian package, no network."""
    for variable in ("PRUNUS_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(data, "_DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(_idx, "ADDRESSES", ((tmp_path / "server").as_uri(),))
    monkeypatch.setattr(_idx.download, "__kwdefaults__", {"addresses": _idx.ADDRESSES})
    return tmp_path


def test_the_search_prefers_earlier_places(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNUS_DATA", str(nowhere / "env"))
    places = [
        nowhere / "home/.cache/prunus/fashion-mnist",
        nowhere / "home/data/FashionMNIST/raw",
        nowhere / "work/data/FashionMNIST/raw",
        nowhere / "debian",
        nowhere / "env/FashionMNIST/raw",
        nowhere / "env",
    ]
    for num_test, place in enumerate(places, start=2):
        write_set(place, num_test=num_test)
        assert len(zoo.fashion_mnist(num_validation=10).test) == num_test


def test_half_a_set_is_not_found(nowhere: Path) -> None:
    write_set(nowhere / "debian")
    (nowhere / "debian" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileError, match="none of"):
        zoo.fashion_mnist(download=False)


def test_data_that_is_nowhere_names_the_places_and_the_cure(nowhere: Path) -> None:
    with pytest.raises(FileError, match="dataset-fashion-mnist") as caught:
        zoo.fashion_mnist()
    for word in (str(nowhere / "debian"), "FashionMNIST/raw", "PRUNUS_DATA", "--data digits", "download failed"):
        assert word in str(caught.value)


def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small set at the address of the download, with the digests that make it pass for the real one."""
    server = write_set(folder / "server")
    contents = {name: gzip.decompress((server / f"{name}.gz").read_bytes()) for name in _idx.FILES}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(_idx, "_FASHION_SHA256", digests)
    return server


def test_a_given_root_is_the_only_place(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(nowhere / "debian")
    serve(nowhere, monkeypatch)
    with pytest.raises(FileError, match="elsewhere"):
        zoo.fashion_mnist(nowhere / "elsewhere")


def test_a_download_lands_in_the_cache_and_is_used_again(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(nowhere, monkeypatch)
    assert len(zoo.fashion_mnist(num_validation=10).test) == 10
    for path in server.iterdir():
        path.unlink()
    assert len(zoo.fashion_mnist(num_validation=10).test) == 10


def test_an_interrupted_download_goes_on(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(nowhere, monkeypatch)
    cache = nowhere / "home/.cache/prunus/fashion-mnist"
    cache.mkdir(parents=True)
    (server / f"{_idx.FILES[0]}.gz").rename(cache / f"{_idx.FILES[0]}.gz")  # no longer to be had at the address
    assert len(zoo.fashion_mnist(num_validation=10).test) == 10


@pytest.mark.parametrize("damage", ["other content", "truncated"])
def test_a_download_of_something_else_leaves_no_file(nowhere: Path, damage: str) -> None:
    server = write_set(nowhere / "server")
    if damage == "truncated":
        path = server / f"{_idx.FILES[0]}.gz"
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileError, match=r"train-images-idx3-ubyte\.gz came"):
        zoo.fashion_mnist()
    assert not list((nowhere / "home").rglob("*ubyte*"))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_debians_files_are_the_ones_that_a_download_would_accept() -> None:
    for name in _idx.FILES:
        content = gzip.decompress((DEBIAN / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == _idx._FASHION_SHA256[name]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_real_fashion_mnist_has_its_known_statistics() -> None:
    loaded = zoo.fashion_mnist(DEBIAN)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (55_000, 5_000, 10_000)
    assert loaded.mean == pytest.approx(0.2860, abs=5e-4)  # of all 60,000
    assert loaded.std == pytest.approx(0.3530, abs=5e-4)
    assert torch.bincount(loaded.test.tensors[1]).tolist() == [1000] * 10


def test_digits_split_all_1797() -> None:
    loaded = zoo.digits()
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (1257, 180, 360)
    images = torch.cat([part.tensors[0] for part in (loaded.train, loaded.validation, loaded.test)])
    assert images.shape == (1797, 1, 8, 8)
    assert len(torch.unique(images.flatten(1), dim=0)) == 1797


def write_mnist(folder: Path, *, per_digit: int = 10) -> Path:
    for digit in range(10):
        values = torch.full((per_digit, 784), digit / 10).flatten().tolist()
        (folder / f"{digit}.json").write_text(json.dumps({"data": values}))
    return folder


def test_mnist_subset_keeps_labels_with_images_and_says_what_it_is(tmp_path: Path) -> None:
    loaded = zoo.mnist_subset(write_mnist(tmp_path))
    assert (len(loaded.train), len(loaded.validation), len(loaded.test)) == (70, 10, 20)
    assert loaded.name == "MNIST 10k subset"
    for part in (loaded.train, loaded.validation, loaded.test):
        pixels = part.tensors[0][:, 0, 0, 0] * loaded.std + loaded.mean
        assert torch.equal((pixels * 10).round().long(), part.tensors[1])


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '{"data": [1, 2]}', '{"data": "x"}', "\x00\xff", None])
def test_damaged_mnist_files_are_file_errors(tmp_path: Path, text: str | None) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "3.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(FileError, match=r"3\.json"):
        zoo.mnist_subset(tmp_path)


def numbered(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count), torch.arange(count) * 2)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("count", "batch_size"), [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_a_loader_gives_every_example_once_with_its_label(count: int, batch_size: int, shuffle: bool) -> None:
    loader = zoo.TensorLoader(numbered(count), batch_size=batch_size, shuffle=shuffle)
    batches = list(loader)
    assert len(loader) == len(batches)
    assert all(len(x) == batch_size for x, _ in batches[:-1])
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(y, x * 2)
    assert sorted(x.tolist()) == list(range(count))


def test_shuffling_follows_the_global_seed_and_changes_every_pass() -> None:
    loader = zoo.TensorLoader(numbered(50), batch_size=50, shuffle=True)
    torch.manual_seed(3)
    passes = [next(iter(loader))[0] for _ in range(2)]
    torch.manual_seed(3)
    assert torch.equal(next(iter(loader))[0], passes[0])
    assert not torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[0], torch.arange(50))


def test_only_the_training_loader_shuffles(tmp_path: Path) -> None:
    made = zoo.loaders(zoo.fashion_mnist(write_set(tmp_path), num_validation=10), batch_size=8)
    assert (made.train.shuffle, made.validation.shuffle, made.test.shuffle) == (True, False, False)
    assert (made.num_classes, made.name, made.train.batch_size) == (10, "Fashion-MNIST", 8)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size = 0"):
        zoo.TensorLoader(numbered(3), batch_size=0)
