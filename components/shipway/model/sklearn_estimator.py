"""A fitted scikit-learn estimator, saved without pickle."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from shipway.errors import InputError, ShipwayError
from shipway.model.estimator import (
    EstimatorState,
    Task,
    check_width,
    copy_entry,
    finish_graph,
    read_state,
    write_state,
)
from shipway.model.onnx_graph import OPSET, OPSET_ML
from shipway.model.user_files import CODE_FOLDER, import_code

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

_MODEL_FILE = "estimator.skops"


class SklearnState(EstimatorState):
    """`estimator.json` of a scikit-learn estimator.

    Attributes:
        estimator: Import path of its class.
        code: The user's files in `code/` that the class needs, the one that defines it first.
    """

    kind: Literal["sklearn"] = "sklearn"
    estimator: str
    code: list[str] = Field(default_factory=list)


class SklearnEstimator:
    """Predicts with `predict_proba`, or with `predict` for regression.

    Args:
        model: The fitted estimator; for classification its classes are 0 .. outputs - 1.
        task: binary, multiclass or regression.
        inputs: Number of features.
        outputs: Number of classes; of targets for regression.
        source: The user's file that defines the estimator's class, where it is no library's.
    """

    def __init__(self, model: Any, task: Task, inputs: int, outputs: int, source: Path | None = None) -> None:
        self.model = model
        self._source = source
        self._state = SklearnState(
            task=task,
            inputs=inputs,
            outputs=outputs,
            estimator=f"{type(model).__module__}:{type(model).__qualname__}",
        )

    @classmethod
    def load(cls, folder: Path) -> SklearnEstimator:
        """Loads an estimator from its folder.

        Raises:
            ShipwayError: A file is missing or damaged, or holds types of modules that are not trusted.
            UserCodeError: The user's file in it raised.
        """
        from shipway.model import skops_file

        state = read_state(SklearnState, folder)
        modules = import_code(folder, state.code) if state.code else []
        model = skops_file.load(folder / _MODEL_FILE, modules)
        source = folder / CODE_FOLDER / state.code[0] if state.code else None
        return cls(model, state.task, state.inputs, state.outputs, source)

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.floating[Any]]:
        """Returns probabilities of shape (rows, classes), or values of shape (rows, outputs)."""
        check_width(features, self._state.inputs)
        if len(features) == 0:
            return np.zeros((0, self._state.outputs))
        if self._state.task == "regression":
            values = np.asarray(self.model.predict(features), dtype=np.float64)
            return values.reshape(len(features), -1)
        return np.asarray(self.model.predict_proba(features))

    def save(self, folder: Path) -> None:
        """Writes the estimator's folder.

        Raises:
            InputError: The estimator holds something that cannot be saved, or not be loaded again, without pickle.
        """
        from shipway.model import skops_file

        folder.mkdir(parents=True, exist_ok=True)
        skops_file.dump(self.model, folder / _MODEL_FILE)
        code = copy_entry(self._source, folder) if self._source is not None else []
        write_state(self._state.model_copy(update={"code": code}), folder)
        try:
            skops_file.load(folder / _MODEL_FILE, [file.removesuffix(".py").replace("/", ".") for file in code])
        except ShipwayError as error:
            # Found here, and not when a server first needs it.
            reason = str(error).removeprefix(f"{folder / _MODEL_FILE}: ")
            raise InputError(f"{self._state.estimator} cannot be saved so that it loads again: {reason}") from error

    def to_onnx(self, n_features: int) -> onnx.ModelProto:
        """Returns the estimator as a graph from `features` to `prediction`.

        Raises:
            NotConvertible: skl2onnx does not know the estimator, or would convert it wrongly.
        """
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType
        from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

        from shipway.model.preprocessor import NotConvertible

        model = _convertible(self.model)
        classifies = self._state.task != "regression"
        try:
            graph = convert_sklearn(
                model,
                name="estimator",
                initial_types=[("features", FloatTensorType([None, n_features]))],
                options={id(model): {"zipmap": False}} if classifies else None,
                target_opset={"": OPSET, "ai.onnx.ml": OPSET_ML},
            )
        except (MissingConverter, MissingShapeCalculator) as error:
            raise NotConvertible(f"skl2onnx has no converter for {type(model).__name__}") from error
        except (
            ArithmeticError,
            AttributeError,
            ImportError,
            LookupError,
            NameError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            # NotImplementedError is a RuntimeError; the converters raise whatever they run into.
            reason = (str(error).strip().splitlines() or [""])[0]
            fault = f"{type(error).__name__}: {reason}"
            raise NotConvertible(f"skl2onnx cannot convert {type(model).__name__}: {fault}") from error
        output = graph.graph.output[1 if classifies else 0].name
        return finish_graph(graph, output, n_features, self._state.outputs)


def _convertible(model: Any) -> Any:
    """Returns a copy whose conversion is exact for float32 features.

    HistGradientBoosting compares features with float64 thresholds, of which the graph keeps the nearest float32. For a
    float32 x, x <= t holds exactly when x <= the greatest float32 that is not above t; so that is put in its place.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    from shipway.model.preprocessor import NotConvertible

    if not isinstance(model, HistGradientBoostingClassifier | HistGradientBoostingRegressor):
        return model
    if getattr(model, "is_categorical_", None) is not None:
        raise NotConvertible("skl2onnx ignores the categorical_features of HistGradientBoosting")
    rounded = copy.deepcopy(model)
    for stage in rounded._predictors:
        for predictor in stage:
            predictor.nodes["num_threshold"] = _round_down(predictor.nodes["num_threshold"])
    return rounded


def _round_down(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns for each value the greatest float32 that is not above it."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    below = np.nextafter(nearest, np.float32(-np.inf))
    return np.where(nearest > values, below, nearest).astype(np.float64)
