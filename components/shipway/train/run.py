"""The train step: features in, a tracked training, a model package out."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

from shipway.errors import InputError
from shipway.lineage.digests import digest_file, digest_json, digest_tree
from shipway.lineage.git import git_sha
from shipway.lineage.project import project_folder, run_id, state_folder
from shipway.model.estimator import Task
from shipway.model.package import Prediction, build_package
from shipway.model.preprocessor import ModelFacts, read_common, read_state
from shipway.model.user_files import copy_code
from shipway.spec import SklearnTrain, TorchTrain, load_train
from shipway.train.checkpoints import hold
from shipway.train.data import FeatureData, load_features, sample_rows
from shipway.train.metrics import part_metrics
from shipway.train.tracking import tracked_run
from shipway.train.trainers import TrainContext, make_trainer, user_file

CHECK_ROWS = 5_000


@dataclass(frozen=True)
class TrainResult:
    """A packaged model and how it was trained.

    Attributes:
        name: The model's name.
        task: binary, multiclass or regression.
        trainer: sklearn or torch.
        digest: The package's digest.
        onnx: Whether the package holds an ONNX graph.
        onnx_note: Why not, when it does not.
        metrics: Final metrics of both parts, as `val_loss` or `train_roc_auc`.
        epochs: How many epochs were trained; None where the trainer knows none.
        best_epoch: The epoch whose weights were kept; None likewise.
        resumed_from_epoch: The epoch after which a checkpoint was taken up; 0 when training began anew.
        mlflow_run_id: MLflow's id of the run.
    """

    name: str
    task: str
    trainer: str
    digest: str
    onnx: bool
    onnx_note: str
    metrics: dict[str, float]
    epochs: int | None
    best_epoch: int | None
    resumed_from_epoch: int
    mlflow_run_id: str

    def facts(self) -> dict[str, Any]:
        """Returns what is worth showing of the step."""
        validation = {name: value for name, value in self.metrics.items() if name.startswith("val_")}
        return {
            "model_digest": self.digest,
            "trainer": self.trainer,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "resumed_from_epoch": self.resumed_from_epoch,
            "onnx": self.onnx,
            "onnx_note": self.onnx_note,
            "mlflow_run_id": self.mlflow_run_id,
            **validation,
        }

    def metadata(self) -> dict[str, Any]:
        """Returns what the Model artifact says of the package."""
        return {
            "name": self.name,
            "task": self.task,
            "framework": self.trainer,
            "digest": self.digest,
            "onnx": self.onnx,
            "mlflow_run_id": self.mlflow_run_id,
        }


def train_model(
    *,
    train_features: str | Path,
    validation_features: str | Path,
    validation: str | Path,
    preprocessor: str | Path,
    statistics: str | Path,
    model: str | Path,
    section: str,
) -> TrainResult:
    """Trains a model and writes its package.

    A training that was killed goes on from its last checkpoint, when everything that its result depends on is the same;
    the result has the same bytes either way.

    Args:
        train_features: Dataset of features and label to fit on.
        validation_features: The like of the validation part, which chooses the best epoch.
        validation: The validation part's raw rows, which prove the package.
        preprocessor: The fitted preprocessor's folder.
        statistics: The Statistics document of the training part.
        model: Where the package goes.
        section: The spec's train section, as a pipeline parameter.

    Raises:
        InputError: The data or a setting cannot work.
        UserCodeError: The user's network or estimator raised.
        ShipwayError: MLflow cannot be reached, the training diverged, or another process runs the same one.
    """
    settings = load_train(section)
    facts, _, names = read_common(preprocessor, read_state(preprocessor))
    task = _task(facts)
    parts = {
        "train": load_features(train_features, names, len(facts.classes), settings.seed),
        "val": load_features(validation_features, names, len(facts.classes), settings.seed),
    }
    key = training_key(settings, section, parts, preprocessor)
    folder = state_folder() / "checkpoints" / key
    tags = {
        "shipway.run_id": run_id(),
        "shipway.training_key": key,
        "shipway.train_features_version": parts["train"].version,
        "shipway.validation_features_version": parts["val"].version,
        "shipway.seed": str(settings.seed),
    }
    commit = git_sha(project_folder())
    if commit != "unknown":
        tags["mlflow.source.git.commit"] = commit
    with _ended_by_signal(), hold(folder) as store:
        with tracked_run(facts.name, run_id() or "train", _hyperparameters(settings), tags, folder) as run:
            context = TrainContext(task, max(len(facts.classes), 1), store, run.epoch)
            fitted = make_trainer(settings).fit(parts["train"], parts["val"], context)
            predictions = {part: fitted.estimator.predict(data.features) for part, data in parts.items()}
            metrics = _final_metrics(task, predictions, parts)
            package = build_package(
                model,
                preprocessor_folder=preprocessor,
                estimator=fitted.estimator,
                statistics_path=statistics,
                check_rows=sample_rows(validation, CHECK_ROWS),
                trainer=settings.trainer,
                predictions=predictions["val"],
            )
            run.finish(fitted.history, metrics, {"shipway.model_digest": package.digest})
        store.clear()
    return TrainResult(
        name=facts.name,
        task=task,
        trainer=settings.trainer,
        digest=package.digest,
        onnx=package.info.onnx,
        onnx_note=package.info.onnx_note,
        metrics=metrics,
        epochs=len(fitted.history) or None,
        best_epoch=fitted.best_epoch,
        resumed_from_epoch=fitted.resumed_from_epoch,
        mlflow_run_id=run.run_id,
    )


def training_key(
    settings: TorchTrain | SklearnTrain, section: str, parts: Mapping[str, FeatureData], preprocessor: str | Path
) -> str:
    """Returns the name of a training: a digest of all that its result depends on."""
    depends: dict[str, Any] = {
        "section": section,
        "parts": {name: part.version for name, part in parts.items()},
        "preprocessor": digest_tree(preprocessor),
        "shipway": _code_digest(),
    }
    if isinstance(settings, TorchTrain):
        from shipway.train.torch_trainer import platform

        depends["platform"] = platform()
        source = user_file(settings.network, "train.network")
    else:
        source = user_file(settings.estimator, "train.estimator")
    if source is not None:
        with tempfile.TemporaryDirectory() as copied:
            copy_code(source, Path(copied))
            depends["code"] = digest_tree(copied)
    return digest_json(depends).removeprefix("sha256:")[:32]


def _code_digest() -> str:
    """Returns the digest of the code that decides what comes of the data: the trainers' and the estimators'."""
    model = Path(__file__).parent.parent / "model"
    files = [model / name for name in ("estimator.py", "sklearn_estimator.py", "torch_estimator.py")]
    return digest_json([digest_tree(Path(__file__).parent), *map(digest_file, files)])


def _task(facts: ModelFacts) -> Task:
    count = len(facts.classes)
    fits = {"binary": count == 2, "multiclass": count >= 2, "regression": count == 0}
    if not fits.get(facts.task, False):
        raise InputError(f"preprocessor: the task is {facts.task}, but the classes are {facts.classes}")
    return cast("Task", facts.task)


def _hyperparameters(settings: TorchTrain | SklearnTrain) -> dict[str, Any]:
    values = settings.model_dump(mode="json", exclude_none=True)
    params = values.pop("params", {})
    return {**values, **{f"params.{name}": value for name, value in params.items()}}


def _final_metrics(
    task: Task, predictions: Mapping[str, Prediction], parts: Mapping[str, FeatureData]
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for part, data in parts.items():
        values = part_metrics(task, data.target, predictions[part])
        metrics |= {f"{part}_{name}": value for name, value in values.items()}
    return metrics


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Lets SIGTERM end the block as an exception would, so that the MLflow run is closed as KILLED."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
