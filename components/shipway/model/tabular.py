"""TabularPreprocessor: impute, scale and one-hot; its whole state is JSON, and its ONNX form agrees bit for bit.

Features come in this order: every number and boolean, then the missing indicators, then each category column's values.
Everything is computed in float64 and cast to float32 at the end, here and in the ONNX graph alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from shipway.errors import ShipwayError
from shipway.lineage.files import write_json
from shipway.model.preprocessor import LABEL_COLUMN, PREPROCESSOR_FILE, ModelFacts, common_state, read_common
from shipway.model.signature import NULL_TOKEN, InputColumn, number_values, require_columns, text_series

if TYPE_CHECKING:
    import onnx
    import polars as pl

LIMIT = 1e30
"""Features are clipped to this magnitude, so that no finite number in a row becomes an infinite float32."""


class NumberTransform(BaseModel):
    """`(value or impute - mean) / std`, and whether the column gets an indicator of missing values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    impute: float
    mean: float
    std: float
    indicator: bool


class CategoryTransform(BaseModel):
    """One-hot columns: one for each of `values`, one for any other, and one for null when `missing` is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    values: list[str]
    missing: bool

    @property
    def width(self) -> int:
        """How many feature columns it makes."""
        return len(self.values) + 1 + self.missing

    @property
    def other(self) -> int:
        """Code of values that are not listed; null counts among them unless it has its own column."""
        return len(self.values)

    def codes(self) -> tuple[list[str], list[int]]:
        """Returns the texts that have a code of their own, and their codes."""
        texts = [*self.values, NULL_TOKEN] if self.missing else self.values
        return texts, [*range(len(self.values)), len(self.values) + 1][: len(texts)]


class TabularPreprocessor:
    """The default preprocessor; see the module's docstring.

    Args:
        facts: The model it belongs to.
        inputs: The raw columns, in the schema's order.
        numbers: What happens to each number and boolean column, in the order of `inputs`.
        categories: What happens to each category column, in the order of `inputs`.
    """

    def __init__(
        self,
        facts: ModelFacts,
        inputs: list[InputColumn],
        numbers: list[NumberTransform],
        categories: list[CategoryTransform],
    ) -> None:
        self.facts = facts
        self.inputs = inputs
        self.numbers = numbers
        self.categories = categories
        self.features = _feature_names(numbers, categories)
        self._columns = {column.name: column for column in inputs}

    def transform(self, frame: pl.DataFrame) -> npt.NDArray[np.float32]:
        """Returns the features of raw rows, float32 of shape (rows, features).

        Raises:
            InputError: A column is missing or of another kind.
        """
        require_columns(self.inputs, frame.columns)
        # Column by column in memory, which is how the values come and how they are written to Parquet.
        features = np.zeros((len(self.features), frame.height), dtype=np.float32)
        indicators = len(self.numbers)
        for position, number in enumerate(self.numbers):
            values = number_values(self._columns[number.column], frame)
            missing = np.isnan(values)
            with np.errstate(over="ignore"):
                scaled = (np.where(missing, number.impute, values) - number.mean) / number.std
            features[position] = np.clip(scaled, -LIMIT, LIMIT)
            if number.indicator:
                features[indicators] = missing
                indicators += 1
        first, rows = indicators, np.arange(frame.height)
        for category in self.categories:
            texts, codes = category.codes()
            series = text_series(self._columns[category.column], frame).fill_null(NULL_TOKEN)
            features[first + _lookup(series, texts, codes, category.other), rows] = 1.0
            first += category.width
        return features.T

    def save(self, folder: Path) -> None:
        """Writes `preprocessor.json`; the same bytes for the same state."""
        write_json(
            Path(folder) / PREPROCESSOR_FILE,
            {
                **common_state("tabular", self),
                "numbers": [number.model_dump() for number in self.numbers],
                "categories": [category.model_dump() for category in self.categories],
            },
        )

    @classmethod
    def load(cls, folder: str | Path, state: dict[str, Any]) -> TabularPreprocessor:
        """Restores a preprocessor from the content of its `preprocessor.json`.

        Raises:
            ShipwayError: Something is missing or of the wrong type.
        """
        facts, inputs, features = read_common(folder, state)
        try:
            loaded = cls(
                facts,
                inputs,
                [NumberTransform.model_validate(number) for number in state["numbers"]],
                [CategoryTransform.model_validate(category) for category in state["categories"]],
            )
        except (KeyError, TypeError, ValidationError) as error:
            raise ShipwayError(f"{Path(folder) / PREPROCESSOR_FILE}: damaged: {error}") from error
        if loaded.features != features:
            raise ShipwayError(
                f"{Path(folder) / PREPROCESSOR_FILE}: damaged: features do not follow from its transforms"
            )
        return loaded

    def to_onnx(self) -> onnx.ModelProto:
        """Returns the same transform as an ONNX graph; see `Preprocessor.to_onnx`."""
        from shipway.model.onnx_graph import tabular_graph

        return tabular_graph(self)


def unique_names(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Returns the names with `#2`, `#3`... behind those that are already taken."""
    seen = set(taken)
    result: list[str] = []
    for name in names:
        candidate, count = name, 1
        while candidate in seen:
            count += 1
            candidate = f"{name}#{count}"
        seen.add(candidate)
        result.append(candidate)
    return result


def _feature_names(numbers: Sequence[NumberTransform], categories: Sequence[CategoryTransform]) -> list[str]:
    names = [number.column for number in numbers]
    names += [f"{number.column}__missing" for number in numbers if number.indicator]
    for category in categories:
        # Quotes tell a category that is really called "other" or "missing" from the column for the rest.
        shown = [f'"{value}"' if value in ("other", "missing") else value for value in category.values]
        names += [
            f"{category.column}={value}" for value in (*shown, "other", *(["missing"] if category.missing else []))
        ]
    return unique_names(names, taken=[LABEL_COLUMN])


def _lookup(series: pl.Series, texts: list[str], codes: list[int], default: int) -> npt.NDArray[np.int64]:
    import polars as pl

    if not texts:
        return np.full(len(series), default, dtype=np.int64)
    found: npt.NDArray[np.int64] = series.replace_strict(
        texts, codes, default=default, return_dtype=pl.Int64
    ).to_numpy()
    return found
