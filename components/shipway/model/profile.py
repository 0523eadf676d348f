"""Counts of rows in the bins of a Statistics document: what drift is measured from.

Counts add up, so that rows are looked at once, in any number of parts, and neither they nor the training part's rows
have to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from shipway.errors import ShipwayError
from shipway.lineage.digests import digest_json
from shipway.lineage.documents import CategoryStatistics, Document, NumberStatistics, Statistics
from shipway.model.bins import Bins
from shipway.model.signature import InputColumn, number_values, require_columns, text_series
from shipway.model.statistics import count_numbers, describe_categories, describe_numbers

if TYPE_CHECKING:
    import polars as pl

    from shipway.model.package import PackageInfo

F64 = npt.NDArray[np.float64]
Reference = NumberStatistics | CategoryStatistics

_NEW_VALUES = 20
_LONGEST = 100
_PREDICTION = "prediction"


class NumberCounts(BaseModel):
    """Numbers in the bins of the grid of their statistics, or of the histogram where these have no grid.

    Attributes:
        kind: `number`.
        rows: Rows, those without a value included.
        nulls: Rows without a value: null, NaN or infinite.
        counts: Rows of each bin.
        sums: Sum of the values' distances from the statistics' mean, bin by bin.
        least: The least value; None without any.
        greatest: The greatest.
    """

    kind: Literal["number"] = "number"
    rows: int = 0
    nulls: int = 0
    counts: list[int]
    sums: list[float]
    least: float | None = None
    greatest: float | None = None

    def plus(self, other: NumberCounts) -> NumberCounts:
        """Returns both together."""
        return NumberCounts(
            rows=self.rows + other.rows,
            nulls=self.nulls + other.nulls,
            counts=[mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)],
            sums=[mine + theirs for mine, theirs in zip(self.sums, other.sums, strict=True)],
            least=min((value for value in (self.least, other.least) if value is not None), default=None),
            greatest=max((value for value in (self.greatest, other.greatest) if value is not None), default=None),
        )


class CategoryCounts(BaseModel):
    """Texts, by the values that their statistics list.

    Attributes:
        kind: `category`.
        rows: Rows, those without a value included.
        nulls: Rows without a value.
        counts: The listed values with their rows.
        others: Rows with any other value.
        new: Of these, rows with a value that training never saw; None where that cannot be told.
        new_values: The first 20 such values in the order of their text, cut to 100 characters, with their rows.
    """

    kind: Literal["category"] = "category"
    rows: int = 0
    nulls: int = 0
    counts: dict[str, int]
    others: int = 0
    new: int | None = 0
    new_values: dict[str, int] = Field(default_factory=dict)

    def plus(self, other: CategoryCounts) -> CategoryCounts:
        """Returns both together."""
        return CategoryCounts(
            rows=self.rows + other.rows,
            nulls=self.nulls + other.nulls,
            counts={value: rows + other.counts[value] for value, rows in self.counts.items()},
            others=self.others + other.others,
            new=None if self.new is None or other.new is None else self.new + other.new,
            new_values=_first_values(self.new_values, other.new_values),
        )


Counts = NumberCounts | CategoryCounts
_AnyCounts = Annotated[Counts, Field(discriminator="kind")]


class Profile(Document):
    """Rows and their predictions, counted.

    Attributes:
        reference: Digest of the statistics in whose bins they are counted.
        rows: How many rows.
        columns: Raw column -> its counts.
        predictions: The counts of the predictions; None where nobody has counted any.
    """

    reference: str
    rows: int = 0
    columns: dict[str, _AnyCounts]
    predictions: _AnyCounts | None = None

    def plus(self, other: Profile) -> Profile:
        """Returns both together.

        Raises:
            ShipwayError: They are counted in the bins of different statistics.
        """
        if self.reference != other.reference:
            raise ShipwayError(
                f"profiles that cannot be added: one is counted against the statistics {self.reference}, the other "
                f"against {other.reference}; count the rows of one model at a time"
            )
        return Profile(
            reference=self.reference,
            rows=self.rows + other.rows,
            columns={name: _added(counts, other.columns[name]) for name, counts in self.columns.items()},
            predictions=(
                _added(self.predictions, other.predictions)
                if self.predictions is not None and other.predictions is not None
                else self.predictions or other.predictions
            ),
        )


class Profiler:
    """Counts rows, batch by batch.

    Args:
        statistics: The training part's.
        info: The model's package.
        predictions: Statistics of its predictions of the validation part; None counts no predictions.
    """

    def __init__(self, statistics: Statistics, info: PackageInfo, predictions: Reference | None) -> None:
        self._info = info
        self._reference = reference_digest(statistics, predictions)
        self._inputs = [column for column in info.inputs if column.name in statistics.columns]
        self._counters = {column.name: _counter(statistics.columns[column.name]) for column in self._inputs}
        self._predictions = None if predictions is None else _counter(predictions)
        self._rows = 0

    def update(self, frame: pl.DataFrame, prediction: npt.NDArray[Any] | None) -> None:
        """Counts rows.

        Args:
            frame: Raw rows by column name; other columns are ignored.
            prediction: Their predictions as `Package.predict` gives them; None for none.

        Raises:
            InputError: A column is missing, or of another kind.
        """
        require_columns(self._inputs, frame.columns)
        for column in self._inputs:
            self._counters[column.name].update(_values(column, self._counters[column.name], frame))
        if prediction is not None and self._predictions is not None:
            self._predictions.update(_as_counted(self._predictions, prediction_values(self._info, prediction)))
        self._rows += frame.height

    def profile(self) -> Profile:
        """Returns the counts of all rows so far."""
        return Profile(
            reference=self._reference,
            rows=self._rows,
            columns={name: counter.counts() for name, counter in self._counters.items()},
            predictions=self._predictions.counts() if self._predictions is not None else None,
        )


def prediction_values(info: PackageInfo, prediction: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns what is counted of predictions, shape (rows,).

    Args:
        info: The model.
        prediction: (rows, classes) probabilities, or (rows, 1) values.

    Returns:
        Binary tasks: the positive class's probability; multiclass: the most probable label as text; regression: the
        value.
    """
    return _prediction_values(info.task, info.classes, prediction)


def describe_predictions(task: str, classes: Sequence[str | int | bool], prediction: npt.NDArray[Any]) -> Reference:
    """Returns the statistics of predictions.

    Args:
        task: binary, multiclass or regression.
        classes: What the columns of a prediction stand for.
        prediction: As for `prediction_values`.
    """
    values = _prediction_values(task, classes, prediction)
    if task != "multiclass":
        return describe_numbers(np.sort(values[np.isfinite(values)]), int((~np.isfinite(values)).sum()))
    names, counts = np.unique(values.astype(str), return_counts=True)
    return describe_categories(dict(zip(names.tolist(), counts.tolist(), strict=True)))


def class_name(value: str | int | bool) -> str:
    """Returns a class as text, booleans as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def reference_digest(statistics: Statistics, predictions: Reference | None) -> str:
    """Returns the digest that a profile against these statistics has as its `reference`."""
    return digest_json([statistics.content_digest(), predictions.model_dump(mode="json") if predictions else None])


def _prediction_values(
    task: str, classes: Sequence[str | int | bool], prediction: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    if task != "multiclass":
        return np.asarray(prediction[:, -1], dtype=np.float64)
    names = np.array([class_name(value) for value in classes], dtype=object)
    labels: npt.NDArray[Any] = names[prediction.argmax(axis=1)]
    return labels


class _NumberCounter:
    def __init__(self, reference: NumberStatistics) -> None:
        edges = reference.edges if reference.grid is None else reference.grid.edges
        self._bins = Bins(np.array(edges, dtype=np.float64))
        self._centre = reference.mean or 0.0
        self._rows = self._nulls = 0
        self._counts, self._sums = np.zeros(len(edges) + 1, dtype=np.int64), np.zeros(len(edges) + 1)
        self._least, self._greatest = np.inf, -np.inf

    def update(self, values: F64) -> None:
        self._rows += len(values)
        finite = np.isfinite(values)
        if not finite.all():
            values = values[finite]
            self._nulls += len(finite) - len(values)
        if len(values) == 0:
            return
        counts, sums = count_numbers(values, self._bins, self._centre)
        self._counts += counts
        self._sums += sums
        self._least, self._greatest = min(self._least, float(values.min())), max(self._greatest, float(values.max()))

    def counts(self) -> NumberCounts:
        return NumberCounts(
            rows=self._rows,
            nulls=self._nulls,
            counts=self._counts.tolist(),
            sums=self._sums.tolist(),
            least=self._least if np.isfinite(self._least) else None,
            greatest=self._greatest if np.isfinite(self._greatest) else None,
        )


class _CategoryCounter:
    def __init__(self, reference: CategoryStatistics) -> None:
        import polars as pl

        self._complete = reference.complete
        self._listed = list(reference.counts)
        known = [*self._listed, *reference.rare]
        # A listed value has its place in the list, a rare one the place after the last, a new one none.
        places = [*range(len(self._listed)), *[len(self._listed)] * len(reference.rare)]
        self._known = pl.DataFrame({"value": known, "place": places}, schema={"value": pl.String, "place": pl.Int64})
        self._rows = self._nulls = self._others = self._new = 0
        self._counts = np.zeros(len(self._listed) + 1, dtype=np.int64)
        self._new_values: dict[str, int] = {}

    def update(self, values: pl.Series) -> None:
        import polars as pl

        self._rows += len(values)
        self._nulls += values.null_count()
        found = values.drop_nulls().alias("value").value_counts(name="rows").join(self._known, on="value", how="left")
        placed = found.drop_nulls("place")
        # No weights, whose sums are floats.
        np.add.at(self._counts, placed["place"].to_numpy(), placed["rows"].to_numpy().astype(np.int64))
        new = found.filter(pl.col("place").is_null())
        self._new += int(new["rows"].sum())
        if self._complete and new.height:
            first = (
                new.with_columns(pl.col("value").str.head(_LONGEST))
                .group_by("value")
                .agg(pl.col("rows").sum())
                .sort("value")
            )
            self._new_values = _first_values(self._new_values, dict(first.head(_NEW_VALUES).iter_rows()))

    def counts(self) -> CategoryCounts:
        *listed, rare = self._counts.tolist()
        return CategoryCounts(
            rows=self._rows,
            nulls=self._nulls,
            counts=dict(zip(self._listed, listed, strict=True)),
            others=rare + self._new,
            new=self._new if self._complete else None,
            new_values=self._new_values,
        )


def _counter(reference: Reference) -> Any:
    return _NumberCounter(reference) if isinstance(reference, NumberStatistics) else _CategoryCounter(reference)


def _values(column: InputColumn, counter: Any, frame: pl.DataFrame) -> Any:
    import polars as pl

    if isinstance(counter, _NumberCounter):
        return number_values(column, frame)
    if column.kind == "boolean" and frame.schema[column.name] != pl.Boolean:
        return pl.Series(number_values(column, frame)).fill_nan(None).cast(pl.Boolean).cast(pl.String)
    return text_series(column, frame)


def _as_counted(counter: Any, values: npt.NDArray[Any]) -> Any:
    import polars as pl

    return values if isinstance(counter, _NumberCounter) else pl.Series(_PREDICTION, values, dtype=pl.String)


def _added(mine: Any, theirs: Any) -> Any:
    return mine.plus(theirs)


def _first_values(mine: dict[str, int], theirs: dict[str, int]) -> dict[str, int]:
    names = sorted({*mine, *theirs})[:_NEW_VALUES]
    return {name: mine.get(name, 0) + theirs.get(name, 0) for name in names}
