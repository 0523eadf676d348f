"""Labels: which classes there are, and their indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from shipway.errors import InputError

_MAX_CLASSES = 10_000
_SHOWN = 10


@dataclass(frozen=True)
class LabelEncoder:
    """Turns labels into what training takes.

    Attributes:
        column: The label's column.
        task: binary, multiclass or regression.
        classes: The training part's labels in the order of class indices; [] for regression.
        rows: How many training rows have a label.
    """

    column: str
    task: str
    classes: list[str | int | bool]
    rows: int

    def encode(self, labels: pl.Series) -> pl.Series:
        """Returns class indices (Int64), or values (Float64) for regression, of labels without nulls or unknowns."""
        if self.task == "regression":
            return _numeric(labels, self.column)
        return _plain(labels, self.column).replace_strict(
            pl.Series(self.classes), pl.int_range(len(self.classes), eager=True), return_dtype=pl.Int64
        )

    def check(self, rows: pl.LazyFrame, part: str) -> None:
        """Checks the labels of another part.

        Raises:
            InputError: Some are unknown to the training part, or not finite, or no row has one.
        """
        labels = rows.select(pl.col(self.column).drop_nulls().unique()).collect(engine="streaming")[self.column]
        if labels.is_empty():
            raise InputError(f"the {part} part has no rows with a label (column {self.column!r} is all null)")
        if self.task == "regression":
            _refuse_infinite(_numeric(labels, self.column), self.column, part)
            return
        found: list[Any] = _plain(labels, self.column).to_list()
        unknown = sorted(value for value in found if value not in self.classes or type(value) is not self._kind)
        if unknown:
            raise InputError(
                f"label {self.column!r}: the {part} part has {_listed(unknown)}, "
                f"which the training part has not (it has {_listed(self.classes)})"
            )

    @property
    def _kind(self) -> type:
        return type(self.classes[0])


def fit_labels(rows: pl.LazyFrame, column: str, task: str, positive: str | int | bool | None) -> LabelEncoder:
    """Finds the classes in the training part's rows that have a label.

    Args:
        rows: The training part, rows without a label left out.
        column: The label's column.
        task: binary, multiclass or regression.
        positive: For binary tasks, the label that counts as positive; default: the greater one (true, 1).

    Raises:
        InputError: There are no rows, or the labels do not fit the task.
    """
    counts = rows.group_by(column).agg(pl.len().alias("shipway_rows")).collect(engine="streaming")
    count = int(counts["shipway_rows"].sum())
    if count == 0:
        raise InputError(f"the training part has no rows with a label (column {column!r} is all null)")
    if task == "regression":
        _refuse_infinite(_numeric(counts[column], column), column, "training")
        return LabelEncoder(column, task, [], count)
    classes: list[str | int | bool] = _plain(counts[column], column).unique().sort().to_list()
    if len(classes) > _MAX_CLASSES:
        raise InputError(f"label {column!r}: {len(classes)} distinct values; is this a regression task?")
    if task == "multiclass":
        if len(classes) < 2:
            raise InputError(f"label {column!r}: the training part has one class only, {_listed(classes)}")
        return LabelEncoder(column, task, classes, count)
    if len(classes) != 2:
        raise InputError(
            f"label {column!r}: a binary task needs exactly 2 classes in the training part, "
            f"found {len(classes)}: {_listed(classes)}"
        )
    if positive is None:
        return LabelEncoder(column, task, classes, count)
    if positive not in classes:
        raise InputError(f"data.positive: {positive!r} is no label of the training part, which has {_listed(classes)}")
    return LabelEncoder(column, task, sorted(classes, key=lambda value: value == positive), count)


def _plain(labels: pl.Series, column: str) -> pl.Series:
    """Returns class labels as strings, integers or booleans.

    Raises:
        InputError: They are none of these.
    """
    dtype = labels.dtype
    if dtype in (pl.Boolean, pl.String):
        return labels
    if dtype in (pl.Categorical, pl.Enum):
        return labels.cast(pl.String)
    if dtype.is_integer():
        return labels.cast(pl.Int64)
    if dtype.is_float() and bool((labels == labels.floor()).all()) and bool(labels.is_finite().all()):
        return labels.cast(pl.Int64)
    raise InputError(f"label {column!r}: class labels are text, integers or booleans, found {dtype}")


def _numeric(labels: pl.Series, column: str) -> pl.Series:
    if not (labels.dtype.is_numeric() or labels.dtype == pl.Boolean):
        raise InputError(f"label {column!r}: a regression task needs numbers, found {labels.dtype}")
    return labels.cast(pl.Float64)


def _refuse_infinite(values: pl.Series, column: str, part: str) -> None:
    if not values.is_finite().all():
        raise InputError(f"label {column!r}: the {part} part has values that are NaN or infinite")


def _listed(values: list[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:_SHOWN])
    return shown if len(values) <= _SHOWN else f"{shown} and {len(values) - _SHOWN} more"
