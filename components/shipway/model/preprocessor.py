"""Preprocessor: what turns raw columns into features, and travels inside the model package.

Its folder holds `preprocessor.json` with `kind`, `name`, `task`, `label`, `classes`, `inputs` and `features`, so that
training and packaging need nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from shipway.errors import ShipwayError
from shipway.lineage.files import read_json
from shipway.model.signature import InputColumn

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx
    import polars as pl

PREPROCESSOR_FILE = "preprocessor.json"
LABEL_COLUMN = "__label__"


class NotConvertible(Exception):  # noqa: N818 - a fact about a model, told in its package; no error of anybody's
    """A part of a model has no ONNX form.

    Attributes:
        reason: Why, in one sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ModelFacts(BaseModel):
    """What a preprocessor knows about the model it is part of.

    Attributes:
        name: The model's name.
        task: binary, multiclass or regression.
        label: The column to predict.
        classes: The label's values in the order of class indices: [negative, positive] for binary tasks, [] for
            regression.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    name: str
    task: str
    label: str
    classes: list[str | int | bool]


class Preprocessor(Protocol):
    """Turns raw columns into a float32 matrix; fitted on the training part only.

    Attributes:
        facts: The model it belongs to.
        inputs: The raw columns it takes.
        features: The names of the columns it makes.
    """

    facts: ModelFacts
    inputs: list[InputColumn]
    features: list[str]

    def transform(self, frame: pl.DataFrame) -> npt.NDArray[np.float32]:
        """Returns the features of raw rows, shape (rows, features). Extra columns are ignored.

        Raises:
            InputError: A column is missing or of another kind.
        """

    def save(self, folder: Path) -> None:
        """Writes the preprocessor's folder; the same bytes for the same state."""

    def to_onnx(self) -> onnx.ModelProto:
        """Returns a graph of the same transform.

        Its inputs are one [None, 1] tensor for each raw column, in order (double for numbers and booleans, NaN for
        null; string for categories, `NULL_TOKEN` for null); its one output is `features`, float [None, F].

        Raises:
            NotConvertible: There is no such graph.
        """


def load_preprocessor(folder: str | Path) -> Preprocessor:
    """Loads a preprocessor from its folder.

    Raises:
        ShipwayError: The folder is missing a file, or holds a damaged one.
    """
    state = read_state(folder)
    if state["kind"] == "tabular":
        from shipway.model.tabular import TabularPreprocessor

        return TabularPreprocessor.load(folder, state)
    if state["kind"] == "transformer":
        from shipway.model.transformer import TransformerPreprocessor

        return TransformerPreprocessor.load(folder, state)
    raise ShipwayError(f"{Path(folder) / PREPROCESSOR_FILE}: unknown kind {state['kind']!r}")


def read_state(folder: str | Path) -> dict[str, Any]:
    """Reads `preprocessor.json`.

    Raises:
        ShipwayError: It is missing or damaged.
    """
    path = Path(folder) / PREPROCESSOR_FILE
    if not path.is_file():
        raise ShipwayError(f"{folder}: no preprocessor (no {PREPROCESSOR_FILE} in it)")
    try:
        state = read_json(path)
    except ValueError as error:
        raise ShipwayError(f"{path}: damaged: {error}") from error
    if not isinstance(state, dict) or "kind" not in state:
        raise ShipwayError(f"{path}: damaged: no `kind` in it")
    return state


def read_common(folder: str | Path, state: dict[str, Any]) -> tuple[ModelFacts, list[InputColumn], list[str]]:
    """Reads what every kind of preprocessor stores.

    Raises:
        ShipwayError: Something is missing or of the wrong type.
    """
    try:
        facts = ModelFacts.model_validate({key: state[key] for key in ModelFacts.model_fields})
        inputs = [InputColumn.model_validate(column) for column in state["inputs"]]
        features = [str(name) for name in state["features"]]
    except (KeyError, TypeError, ValidationError) as error:
        raise ShipwayError(f"{Path(folder) / PREPROCESSOR_FILE}: damaged: {type(error).__name__}: {error}") from error
    return facts, inputs, features


def common_state(kind: str, preprocessor: Preprocessor) -> dict[str, Any]:
    """Returns what every kind of preprocessor stores, to be written first in `preprocessor.json`."""
    return {
        "schema_version": 1,
        "kind": kind,
        **preprocessor.facts.model_dump(),
        "inputs": [column.model_dump() for column in preprocessor.inputs],
        "features": preprocessor.features,
    }
