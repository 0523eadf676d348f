"""Trains any scikit-learn estimator."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from shipway.errors import InputError
from shipway.lineage.project import load_object, user_code
from shipway.model.estimator import Task
from shipway.model.sklearn_estimator import SklearnEstimator
from shipway.spec import SklearnTrain
from shipway.train.data import FeatureData
from shipway.train.trainers import Fitted, TrainContext, seed_everything, user_file

THREADS = 1
_SEED = "random_state"


class SklearnTrainer:
    """Fits the estimator that the settings name, by default HistGradientBoosting.

    `random_state` is set to the seed where the estimator has it. The validation part is left alone: whether an
    estimator stops early, and on which share of the training part, is for its own parameters to say.
    """

    def __init__(self, settings: SklearnTrain) -> None:
        self._settings = settings

    def fit(self, train: FeatureData, validation: FeatureData, context: TrainContext) -> Fitted:  # noqa: ARG002 - the interface's
        """Fits the estimator on `train`.

        Raises:
            InputError: No such estimator or parameter, a parameter's value is refused, or it does not fit the task.
            UserCodeError: Fitting raised.
        """
        from sklearn.utils._param_validation import InvalidParameterError
        from threadpoolctl import threadpool_limits

        target = self._settings.estimator or default_estimator(context.task)
        estimator = self._build(target, context.task)
        seed_everything(self._settings.seed)
        # Sums in parallel, in BLAS as in HistGradientBoosting's loops, depend on the number of threads.
        with threadpool_limits(THREADS), user_code(f"train.estimator {target}"):
            try:
                estimator.fit(train.features, train.target)
            except InvalidParameterError as error:
                raise InputError(f"train.params: {error}") from error
        if context.task != "regression":
            found = [int(value) for value in np.asarray(estimator.classes_)]
            if found != list(range(context.outputs)):
                raise InputError(
                    f"train.estimator {target}: it learned the classes {found} of 0 to {context.outputs - 1}; "
                    "every class needs rows in the training part"
                )
        source = user_file(target, "train.estimator")
        return Fitted(SklearnEstimator(estimator, context.task, train.features.shape[1], context.outputs, source))

    def _build(self, target: str, task: Task) -> Any:
        factory = load_object(target, "train.estimator")
        params = dict(self._settings.params)
        known = _parameters(factory)
        if known is not None:
            unknown = sorted(set(params) - set(known))
            if unknown:
                raise InputError(
                    f"train.params: {target} has no parameter {', '.join(map(repr, unknown))}; "
                    f"there are {', '.join(known)}"
                )
            if _SEED in known:
                params.setdefault(_SEED, self._settings.seed % 2**32)
        with user_code(f"train.estimator {target}"):
            estimator = factory(**params)
        _check_fits(estimator, target, task)
        return estimator


def default_estimator(task: Task) -> str:
    """Returns the import path of the estimator for a spec that names none."""
    kind = "Regressor" if task == "regression" else "Classifier"
    return f"sklearn.ensemble:HistGradientBoosting{kind}"


def _parameters(factory: Any) -> list[str] | None:
    """Returns the names of the parameters, or None where any are taken."""
    if not callable(factory):
        return None
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_POSITIONAL]


def _check_fits(estimator: Any, target: str, task: Task) -> None:
    from sklearn.base import is_classifier

    if not hasattr(estimator, "fit") or not hasattr(estimator, "predict"):
        raise InputError(f"train.estimator {target}: no estimator: it lacks fit or predict")
    if task == "regression" and is_classifier(estimator):
        raise InputError(f"train.estimator {target}: a classifier, but the task is regression")
    if task != "regression" and not hasattr(estimator, "predict_proba"):
        raise InputError(
            f"train.estimator {target}: no predict_proba (with these parameters), which a {task} task needs; "
            "take a classifier that gives probabilities"
        )
