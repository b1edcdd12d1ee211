"""What must be observed: statistics of inputs, gradients and curvature, collected once for all who need them."""

from prunus.statistics import blocks, curvature, experts, flow, gradients, inputs  # noqa: F401  (their names are registered)
from prunus.statistics.batchnorm import recalibrate_
from prunus.statistics.calibration import Batch, Calibration, Loss, calibration
from prunus.statistics.collect import Requests, collect
from prunus.statistics.kinds import (
    OfGradients,
    OfInputGradients,
    OfInputs,
    OfModel,
    OfTraining,
    register,
    statistic,
    statistic_names,
    wide,
)
from prunus.statistics.layers import Layer
from prunus.statistics.modes import device_of, evaluating, restored, undisturbed
from prunus.statistics.reading import Readers, Reading, readings
from prunus.statistics.stopping import Stop, until_stopped
from prunus.statistics.store import Statistics

__all__ = [
    "Batch",
    "Calibration",
    "Layer",
    "Loss",
    "OfGradients",
    "OfInputGradients",
    "OfInputs",
    "OfModel",
    "OfTraining",
    "Readers",
    "Reading",
    "Requests",
    "Statistics",
    "Stop",
    "calibration",
    "collect",
    "device_of",
    "evaluating",
    "readings",
    "recalibrate_",
    "register",
    "restored",
    "statistic",
    "statistic_names",
    "undisturbed",
    "until_stopped",
    "wide",
]
