"""TransformerPreprocessor: a fitted scikit-learn transformer of the user's, saved without pickle and with its code.

The transformer gets a pandas DataFrame of the raw feature columns, always with the same dtypes: float64 for numbers and
booleans (1, 0, NaN for null), pandas' `str` for categories (NaN for null).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shipway.errors import InputError, ShipwayError, UserCodeError
from shipway.lineage.files import write_json
from shipway.lineage.project import project_file, split_import_path, user_code
from shipway.model import skops_file
from shipway.model.preprocessor import (
    LABEL_COLUMN,
    PREPROCESSOR_FILE,
    ModelFacts,
    NotConvertible,
    common_state,
    read_common,
)
from shipway.model.signature import InputColumn, number_values, require_columns, text_series
from shipway.model.tabular import unique_names
from shipway.model.user_files import copy_code, import_code, module_name

if TYPE_CHECKING:
    import onnx
    import pandas as pd
    import polars as pl

_OBJECT = "transformer.skops"


class TransformerPreprocessor:
    """The user's own preprocessor; see the module's docstring.

    Args:
        facts: The model it belongs to.
        inputs: The raw columns, in the schema's order.
        features: The names of the columns it makes.
        transformer: The fitted transformer.
        target: Where it came from, as the spec gives it (FILE.py:FUNCTION).
        source: Its Python file, or the loaded folder that holds a copy; None when it is an installed module.
    """

    def __init__(
        self,
        facts: ModelFacts,
        inputs: list[InputColumn],
        features: list[str],
        transformer: Any,
        target: str,
        source: Path | None,
    ) -> None:
        self.facts = facts
        self.inputs = inputs
        self.features = features
        self.transformer = transformer
        self.target = target
        self._source = source

    @classmethod
    def fitted(
        cls, facts: ModelFacts, inputs: list[InputColumn], transformer: Any, target: str, sample: pl.DataFrame
    ) -> TransformerPreprocessor:
        """Wraps a transformer that has just been fitted; its feature names come from it or from what it gives.

        Args:
            facts: The model it belongs to.
            inputs: The raw columns.
            transformer: The fitted transformer.
            target: Where it came from, as the spec gives it.
            sample: A few raw training rows.

        Raises:
            UserCodeError: It raised, or gives no matrix of numbers with a row for each row.
        """
        where = _where(target)
        with user_code(where):
            output = transformer.transform(pandas_frame(inputs, sample))
        width = _checked_shape(output, sample.height, None, where)
        module, _ = split_import_path(target)
        source = project_file(module, "features.transformer").absolute() if module.endswith(".py") else None
        fitted = cls(facts, inputs, _names(transformer, output, width, where), transformer, target, source)
        fitted.transform(sample)
        return fitted

    def transform(self, frame: pl.DataFrame) -> npt.NDArray[np.float32]:
        """Returns the features of raw rows, float32 of shape (rows, features).

        Raises:
            InputError: A column is missing or of another kind.
            UserCodeError: The transformer raised, or gave something that is no such matrix of finite numbers.
        """
        where = _where(self.target)
        if frame.height == 0:
            return np.zeros((0, len(self.features)), dtype=np.float32)
        with user_code(where):
            output = self.transformer.transform(pandas_frame(self.inputs, frame))
        _checked_shape(output, frame.height, len(self.features), where)
        features = _matrix(output, self.features, where)
        if not np.isfinite(features).all():
            counts = np.count_nonzero(~np.isfinite(features), axis=0)
            faults = [f"{self.features[i]} ({counts[i]} of {frame.height} rows)" for i in np.flatnonzero(counts)]
            raise UserCodeError(f"{where}: gave features that are NaN or infinite: {', '.join(faults)}")
        return features

    def save(self, folder: Path) -> None:
        """Writes `preprocessor.json`, the transformer and the user's code; the same bytes for the same state.

        Raises:
            UserCodeError: The transformer cannot be saved without pickle, or not be loaded again.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = copy_code(self._source, folder) if self._source is not None else []
        state = {**common_state("transformer", self), "transformer": self.target, "code": files}
        write_json(folder / PREPROCESSOR_FILE, state)
        try:
            skops_file.dump(self.transformer, folder / _OBJECT)
            skops_file.load(folder / _OBJECT, _trusted(self.target, files))
        except (InputError, ShipwayError) as error:
            raise UserCodeError(
                f"{_where(self.target)}: the fitted transformer cannot be saved and loaded again (its functions and "
                f"classes must be defined by name in a module, which lambdas are not): {str(error).partition(': ')[2]}"
            ) from error

    @classmethod
    def load(cls, folder: str | Path, state: dict[str, Any]) -> TransformerPreprocessor:
        """Restores a preprocessor; the user's code in the folder is imported.

        Raises:
            ShipwayError: A file is missing or damaged.
            UserCodeError: The user's code raised while it was imported.
        """
        facts, inputs, features = read_common(folder, state)
        place = Path(folder)
        try:
            target, files = str(state["transformer"]), [str(name) for name in state["code"]]
        except (KeyError, TypeError) as error:
            raise ShipwayError(f"{place / PREPROCESSOR_FILE}: damaged: no {error}") from error
        import_code(place, files)
        transformer = skops_file.load(place / _OBJECT, _trusted(target, files))
        entry = Path(split_import_path(target)[0]).name
        return cls(facts, inputs, features, transformer, target, place.absolute() / "code" / entry if files else None)

    def to_onnx(self) -> onnx.ModelProto:
        """Returns the same transform as an ONNX graph, where skl2onnx knows all of it; see `Preprocessor.to_onnx`."""
        from shipway.model.onnx_graph import transformer_graph

        if any(column.kind != "category" and column.nullable for column in self.inputs) is None:
            raise NotConvertible("")
        return transformer_graph(self.transformer, self.inputs, len(self.features))


def pandas_frame(inputs: Sequence[InputColumn], frame: pl.DataFrame) -> pd.DataFrame:
    """Returns what a user's transformer is fitted on and given: see the module's docstring.

    Raises:
        InputError: A column is missing or of another kind.
    """
    import pandas as pd

    require_columns(inputs, frame.columns)
    return pd.DataFrame(
        {
            column.name: (
                pd.Series(text_series(column, frame).to_list(), dtype="str")
                if column.kind == "category"
                else number_values(column, frame)
            )
            for column in inputs
        }
    )


def _where(target: str) -> str:
    return f"features.transformer {target}"


def _trusted(target: str, files: list[str]) -> list[str]:
    module, _ = split_import_path(target)
    if module.endswith(".py"):
        return [module_name(name) for name in files]
    return [module.partition(".")[0]]


def _checked_shape(output: Any, rows: int, width: int | None, where: str) -> int:
    """Returns the number of columns of what a transformer gave.

    Raises:
        UserCodeError: It is no matrix of the right shape.
    """
    shape = getattr(output, "shape", None)
    if shape is None or len(shape) != 2:
        found = type(output).__name__ if shape is None else f"shape {tuple(shape)}"
        raise UserCodeError(f"{where}: transform must give a matrix (rows, features), found {found}")
    if shape[0] != rows:
        raise UserCodeError(f"{where}: transform gave {shape[0]} rows for {rows} rows")
    if shape[1] == 0:
        raise UserCodeError(f"{where}: transform gave no features")
    if width is not None and shape[1] != width:
        raise UserCodeError(f"{where}: transform gave {shape[1]} features, {width} when it was fitted")
    return int(shape[1])


def _names(transformer: Any, output: Any, width: int, where: str) -> list[str]:
    names: list[str] | None = None
    if hasattr(transformer, "get_feature_names_out"):
        try:
            names = [str(name) for name in transformer.get_feature_names_out()]
        except (AttributeError, ValueError, TypeError, NotImplementedError):
            # A pipeline has the method even where one of its steps has not.
            names = None
    if names is None and hasattr(output, "columns"):
        names = [str(name) for name in output.columns]
    if names is None:
        names = [f"f{position}" for position in range(width)]
    if len(names) != width:
        raise UserCodeError(f"{where}: get_feature_names_out gives {len(names)} names for {width} features")
    return unique_names(names, taken=[LABEL_COLUMN])


def _matrix(output: Any, names: list[str], where: str) -> npt.NDArray[np.float32]:
    if hasattr(output, "toarray"):
        output = output.toarray()
    elif hasattr(output, "to_numpy"):
        output = output.to_numpy()
    values = np.asarray(output)
    if values.dtype.kind in "fiub":
        # Too large for float32 becomes an infinity, which is told as such.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, dtype=np.float32)
    columns = np.empty(values.shape, dtype=np.float32)
    for position, name in enumerate(names):
        try:
            columns[:, position] = values[:, position].astype(np.float64)
        except (TypeError, ValueError) as error:
            raise UserCodeError(f"{where}: feature {name!r} is not numeric: {error}") from error
    return columns
