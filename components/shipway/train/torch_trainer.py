"""Trains a network with AdamW, from checkpoint to checkpoint, bit-identical however often it is interrupted.

What makes it so: rows in canonical order, one thread (sums in parallel depend on the number of threads), deterministic
algorithms, and all of an epoch's randomness drawn from generators seeded by (seed, epoch). Bits may differ between
versions of torch, kinds of processor, and CPU and GPU.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shipway.errors import InputError, ShipwayError
from shipway.lineage.project import load_object, split_import_path, user_code
from shipway.model.torch_estimator import NetworkFactory, TorchEstimator, TorchState, build_network
from shipway.spec import TorchTrain
from shipway.train.checkpoints import Checkpoint
from shipway.train.data import FeatureData
from shipway.train.trainers import Fitted, TrainContext, derived_seed, seed_everything, user_file

if TYPE_CHECKING:
    import torch

THREADS = 1
_VALIDATION_ROWS = 65_536


class TorchTrainer:
    """Fits a multilayer perceptron, or the user's network.

    Classification minimises the cross entropy of a softmax, regression the squared error of the standardised target.
    After each epoch the validation loss is measured; the epoch with the least is kept, and training stops after
    `patience` epochs without a lesser one.
    """

    def __init__(self, settings: TorchTrain) -> None:
        self._settings = settings

    def fit(self, train: FeatureData, validation: FeatureData, context: TrainContext) -> Fitted:
        """Fits on `train`, going on from the newest checkpoint in the context's store.

        Raises:
            InputError: Features are not finite, or the user's network does not fit the data.
            UserCodeError: The user's network raised.
            ShipwayError: The loss is no longer finite.
        """
        for part in (train, validation):
            _check_finite(part)
        network = self._settings.network
        source = user_file(network, "train.network")
        factory = load_object(network, "train.network") if network else None
        state = self._state(train, context)
        with _deterministic():
            run = _Run.begin(self._settings, state, factory, train, validation)
            found = context.store.latest()
            history: list[dict[str, float]] = []
            best: dict[str, torch.Tensor] = {}
            if found is not None:
                history = found.facts["history"]
                best = run.restore(found)
            resumed = len(history)
            while not self._is_done(history):
                epoch = len(history) + 1
                history.append(run.epoch(epoch))
                if _best_epoch(history) == epoch:
                    best = run.weights()
                context.store.save(run.checkpoint(epoch, history, best))
                context.on_epoch(epoch, history[-1])
        return Fitted(TorchEstimator(state, best, source, factory), history, _best_epoch(history), resumed)

    def _state(self, train: FeatureData, context: TrainContext) -> TorchState:
        settings = self._settings
        state = TorchState(task=context.task, inputs=train.features.shape[1], outputs=context.outputs)
        if settings.network:
            path, name = split_import_path(settings.network)
            if not path.endswith(".py"):
                raise InputError(f"train.network: expected FILE.py:FUNCTION, found {settings.network!r}")
            state = state.model_copy(update={"network": f"{Path(path).name}:{name}"})
        else:
            state = state.model_copy(update={"hidden": settings.hidden, "dropout": settings.dropout})
        if context.task == "regression":
            mean, std = float(train.target.mean()), float(train.target.std())
            state = state.model_copy(update={"target_mean": mean, "target_std": std if std > 0 else 1.0})
        return state

    def _is_done(self, history: list[dict[str, float]]) -> bool:
        epochs = len(history)
        if epochs == 0:
            return False
        return epochs >= self._settings.epochs or epochs - _best_epoch(history) >= self._settings.patience


def platform() -> str:
    """Returns what the bits of a result depend on besides its inputs: torch's version and the kind of device."""
    import torch

    return f"{torch.__version__} {_device().type}"


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class _Run:
    """A network, its optimiser and the data, on one device."""

    settings: TorchTrain
    state: TorchState
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    train: tuple[torch.Tensor, torch.Tensor]
    validation: tuple[torch.Tensor, torch.Tensor]
    device: torch.device

    @classmethod
    def begin(
        cls,
        settings: TorchTrain,
        state: TorchState,
        factory: NetworkFactory | None,
        train: FeatureData,
        validation: FeatureData,
    ) -> _Run:
        import torch

        device = _device()
        _seed_all(settings.seed, 0)
        network = build_network(state, factory).to(device)
        parameters = list(network.parameters())
        if not any(parameter.requires_grad for parameter in parameters):
            raise InputError(f"train.network {state.network}: it has no parameters to train")
        optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        run = cls(
            settings=settings,
            state=state,
            network=network,
            optimizer=optimizer,
            train=_tensors(train, state, device),
            validation=_tensors(validation, state, device),
            device=device,
        )
        run._check_outputs()
        return run

    def epoch(self, epoch: int) -> dict[str, float]:
        """Trains one epoch and returns its mean losses, for regression in the target's units."""
        import torch

        features, target = self.train
        seed = _seed_all(self.settings.seed, epoch)
        order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed)).to(self.device)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with self._explained():
            self.network.train()
            for start, stop in _cuts(len(target), self.settings.batch_size):
                rows = order[start:stop]
                loss = self._loss(self.network(features[rows]), target[rows])
                self.optimizer.zero_grad()
                torch.autograd.backward(loss)
                self.optimizer.step()
                total += loss.detach().double() * (stop - start)
        losses = {"train_loss": float(total) / len(target), "val_loss": self._validation_loss()}
        if not all(math.isfinite(loss) for loss in losses.values()):
            raise ShipwayError(
                f"training diverged: in epoch {epoch} the losses are {losses}; a smaller train.lr than "
                f"{self.settings.lr:g} may help"
            )
        scale = self.state.target_std**2
        return {name: loss * scale for name, loss in losses.items()}

    def weights(self) -> dict[str, torch.Tensor]:
        """Returns a copy of the network's state on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}

    def checkpoint(self, epoch: int, history: list[dict[str, float]], best: dict[str, torch.Tensor]) -> Checkpoint:
        """Returns all that the next epoch depends on."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in values.items()}
        return Checkpoint(epoch, tensors, {"history": history})

    def restore(self, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
        """Puts a checkpoint's state in place and returns the best epoch's weights."""
        groups: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "best": {}, "optimizer": {}}
        for name, tensor in checkpoint.tensors.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = tensor
        self.network.load_state_dict(groups["weights"])
        states: dict[int, dict[str, Any]] = {}
        for name, tensor in groups["optimizer"].items():
            index, _, key = name.partition("/")
            states.setdefault(int(index), {})[key] = tensor
        current = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": states, "param_groups": current["param_groups"]})
        return groups["best"]

    def _validation_loss(self) -> float:
        import torch

        features, target = self.validation
        total = 0.0
        with torch.inference_mode(), self._explained():
            self.network.eval()
            for start in range(0, len(target), _VALIDATION_ROWS):
                rows = slice(start, start + _VALIDATION_ROWS)
                loss = self._loss(self.network(features[rows]), target[rows], reduction="sum")
                total += float(loss)
        return total / len(target)

    def _loss(self, outputs: torch.Tensor, target: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        import torch

        if self.state.task == "regression":
            return torch.nn.functional.mse_loss(outputs.reshape(-1), target, reduction=reduction)
        return torch.nn.functional.cross_entropy(outputs, target, reduction=reduction)

    def _check_outputs(self) -> None:
        import torch

        rows = self.train[0][:2]
        with torch.inference_mode(), self._explained():
            self.network.eval()
            outputs = self.network(rows)
        expected: list[tuple[int, ...]] = [(len(rows), self.state.outputs)]
        if self.state.task == "regression":
            expected.append((len(rows),))
        found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        if found not in expected:
            raise InputError(
                f"train.network {self.state.network}: {len(rows)} rows give {found}, expected a tensor {expected[0]}"
            )

    def _explained(self) -> AbstractContextManager[None]:
        return user_code(f"train.network {self.state.network}") if self.state.network else nullcontext()


def _best_epoch(history: list[dict[str, float]]) -> int:
    losses = [metrics["val_loss"] for metrics in history]
    return losses.index(min(losses)) + 1


def _cuts(rows: int, batch: int) -> Iterator[tuple[int, int]]:
    """Yields the bounds of batches; a last batch of one row, which batch norm cannot take, joins the one before."""
    starts = list(range(0, rows, batch))
    if len(starts) > 1 and rows - starts[-1] == 1:
        starts.pop()
    yield from zip(starts, [*starts[1:], rows], strict=True)


def _tensors(data: FeatureData, state: TorchState, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    target = data.target
    if state.task == "regression":
        target = ((target - state.target_mean) / state.target_std).astype(np.float32)
    return torch.from_numpy(data.features).to(device), torch.from_numpy(target).to(device)


def _check_finite(data: FeatureData) -> None:
    broken = ~np.isfinite(data.features)
    if broken.any():
        counts = broken.sum(axis=0)
        columns = ", ".join(f"{data.names[index]} ({counts[index]} rows)" for index in np.flatnonzero(counts)[:5])
        raise InputError(
            f"features: a network takes finite numbers only, found missing or infinite ones in {columns}; "
            "let the features' transformer fill them"
        )


def _seed_all(seed: int, step: int) -> int:
    import torch

    derived = derived_seed(seed, step)
    seed_everything(derived)
    torch.manual_seed(derived)
    return derived


@contextmanager
def _deterministic() -> Iterator[None]:
    import torch

    # cuBLAS reads it when the GPU is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict)
        torch.set_num_threads(threads)
