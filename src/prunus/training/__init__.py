"""Who trains? A plain loop for one epoch, evaluation, and what a resumable run needs.

Every function takes what it needs: a model, an iterable of (x, y), an optimizer of torch's.
"""

from prunus.batches import check_loader, first_inputs, num_samples
from prunus.statistics import recalibrate_
from prunus.training.checkpoint import load_checkpoint, save_checkpoint
from prunus.training.evaluate import Evaluation, evaluate
from prunus.training.loop import EpochResult, check_batch, train_epoch
from prunus.training.losses import loss_by_name
from prunus.training.optimizers import build_optimizer, check_optimizer
from prunus.training.progress import Reporter, Silent, reporter
from prunus.training.rates import Rate, build_rate, check_rate
from prunus.training.seeding import random_state, reseed

__all__ = [
    "EpochResult",
    "Evaluation",
    "Rate",
    "Reporter",
    "Silent",
    "build_optimizer",
    "build_rate",
    "check_batch",
    "check_loader",
    "check_optimizer",
    "check_rate",
    "evaluate",
    "first_inputs",
    "load_checkpoint",
    "loss_by_name",
    "num_samples",
    "random_state",
    "recalibrate_",
    "reporter",
    "reseed",
    "save_checkpoint",
    "train_epoch",
]
