"""What the trainers have in common."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from shipway.lineage.project import project_file, split_import_path
from shipway.model.estimator import Estimator, Task
from shipway.train.checkpoints import CheckpointStore
from shipway.train.data import FeatureData

if TYPE_CHECKING:
    from shipway.spec import SklearnTrain, TorchTrain


@dataclass(frozen=True)
class TrainContext:
    """What a trainer needs besides its settings and the data.

    Attributes:
        task: binary, multiclass or regression.
        outputs: Number of classes; 1 for regression.
        store: Where checkpoints go and come from.
        on_epoch: Called after each epoch with its number, counted from 1, and its metrics.
    """

    task: Task
    outputs: int
    store: CheckpointStore
    on_epoch: Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Fitted:
    """A trained estimator and how it came about.

    Attributes:
        estimator: The estimator; of the best epoch, where there are epochs.
        history: Each epoch's metrics, from the first on.
        best_epoch: The epoch with the least validation loss; None without epochs.
        resumed_from_epoch: The epoch after which training went on from a checkpoint; 0 when it began anew.
    """

    estimator: Estimator
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    resumed_from_epoch: int = 0


class Trainer(Protocol):
    """Fits an estimator."""

    def fit(self, train: FeatureData, validation: FeatureData, context: TrainContext) -> Fitted:
        """Fits on `train`; `validation` may choose the best epoch, but is never fitted on.

        The same data, settings and seed give the same estimator, bit by bit.

        Raises:
            InputError: A setting does not fit the estimator or the data.
            UserCodeError: The user's code raised.
        """


def user_file(target: str | None, what: str) -> Path | None:
    """Returns the user's file that an import path names, or None for an installed module or no path.

    Raises:
        InputError: There is no such file.
    """
    if target is None:
        return None
    module, _ = split_import_path(target)
    return project_file(module, what).absolute() if module.endswith(".py") else None


def make_trainer(settings: TorchTrain | SklearnTrain) -> Trainer:
    """Returns the trainer that the settings name."""
    if settings.trainer == "torch":
        from shipway.train.torch_trainer import TorchTrainer

        return TorchTrainer(settings)
    from shipway.train.sklearn_trainer import SklearnTrainer

    return SklearnTrainer(settings)


def derived_seed(seed: int, step: int) -> int:
    """Returns a seed of 63 bits for one step (an epoch) of a training."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seeds Python's and NumPy's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
