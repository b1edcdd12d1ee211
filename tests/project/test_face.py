"""The face of the package is frozen: a new name has to be argued for here."""

import subprocess
import sys

import prunus

FACE = [
    "Graph",
    "MagnitudeParameterPruner",
    "MaskSet",
    "Plan",
    "Policy",
    "PruningScheduler",
    "PrunusError",
    "__version__",
    "density",
    "load",
    "measure",
    "nnz",
    "perform_sensitivity_analysis",
    "plan",
    "prune",
    "save",
    "sparse",
    "sparsity",
    "summary",
    "trace",
]
HEAVY = (
    "jinja2",
    "lightning",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "optuna",
    "ray",
    "sklearn",
    "timm",
    "torchvision",
    "transformers",
)


def test_the_face_is_exactly_the_frozen_list():
    assert sorted(prunus.__all__) == FACE


def test_every_name_of_the_face_is_there_and_documented():
    for name in FACE:
        found = getattr(prunus, name)
        assert name == "__version__" or found.__doc__, f"prunus.{name} has no docstring"


def test_importing_the_package_stays_light():
    look = f"import prunus, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_leaves_cuda_alone():
    look = "import prunus, torch; print(torch.cuda.is_initialized())"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
