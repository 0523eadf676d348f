"""Slices: the rows where a raw column has one value, and a model's metrics on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shipway.errors import InputError
from shipway.lineage.documents import SliceMetrics
from shipway.model.scoring import I64, Scorer
from shipway.spec.metrics import Task

if TYPE_CHECKING:
    import polars as pl

MAX_VALUES = 100
MISSING = "missing"
# A number with more values than this is cut into groups of about equal size.
_DISTINCT_NUMBERS = 20
_GROUPS = 5


@dataclass(frozen=True)
class SliceColumn:
    """How a column is cut into slices.

    Attributes:
        column: Its name.
        names: What each slice is called; the last one holds the rows without a value.
        values: The value of each other slice, in their order; empty when the column is cut at `edges`.
        edges: Rising bounds: a slice reaches from one (exclusive) to the next (inclusive).
    """

    column: str
    names: list[str]
    values: list[Any] = field(default_factory=list)
    edges: list[float] = field(default_factory=list)

    def codes(self, frame: pl.DataFrame) -> I64:
        """Returns the index of each row's slice in `names`."""
        import polars as pl

        last = len(self.names) - 1
        if not self.values:
            numbers = frame[self.column].cast(pl.Float64)
            places = np.searchsorted(np.array(self.edges), numbers.fill_null(0.0).to_numpy(), side="left")
            return np.where(numbers.is_null().to_numpy(), last, places).astype(np.int64)
        plain = _plain(frame[self.column])
        indices = plain.replace_strict(
            pl.Series(self.values, dtype=plain.dtype), list(range(last)), default=None, return_dtype=pl.Int64
        )
        return indices.fill_null(last).to_numpy().astype(np.int64)


def plan_slices(
    rows: pl.LazyFrame, columns: Sequence[str], where: str, edges: Mapping[str, Sequence[float]] | None = None
) -> list[SliceColumn]:
    """Decides how each column is cut, from the values it has.

    Text, booleans and dates have a slice a value, and so have numbers of at most 20 values; other numbers are cut at
    their quintiles.

    Args:
        rows: The rows, such as have a label.
        columns: Raw columns to slice by.
        where: Whose rows these are, for errors, as `the test part`.
        edges: Columns of numbers that were cut before -> their edges, so that the slices stay the same.

    Raises:
        InputError: A column does not exist, is nested, or has more than 100 values.
    """
    import polars as pl

    found = rows.collect_schema().names()
    unknown = [name for name in columns if name not in found]
    if unknown:
        raise InputError(f"evaluate.slices: {where} has no column {', '.join(unknown)}; it has {', '.join(found)}")
    planned = []
    for name in columns:
        if edges and name in edges:
            planned.append(_cut_at(name, edges[name]))
            continue
        distinct = rows.select(pl.col(name).drop_nulls().unique()).collect(engine="streaming")[name]
        if distinct.dtype.is_nested():
            raise InputError(f"evaluate.slices: column {name!r} holds {distinct.dtype}, which cannot be sliced by")
        if distinct.dtype.is_numeric() and len(distinct) > _DISTINCT_NUMBERS:
            planned.append(_cut(name, rows))
            continue
        if len(distinct) > MAX_VALUES:
            raise InputError(
                f"evaluate.slices: column {name!r} has {len(distinct)} distinct values in {where}, "
                f"at most {MAX_VALUES} can be sliced by"
            )
        values = _plain(distinct).sort()
        names = _names(values)
        planned.append(SliceColumn(name, [*names, _missing(names)], values=values.to_list()))
    return planned


def slice_metrics(
    task: Task,
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[np.floating[Any]],
    codes: Sequence[I64],
    slices: Sequence[SliceColumn],
    threshold: float,
) -> list[SliceMetrics]:
    """Returns the metrics of every slice that has rows.

    Args:
        task: binary, multiclass or regression.
        truth: As for `Scorer`.
        prediction: As for `Scorer`.
        codes: For each of `slices`, what its `codes` gives for these rows.
        slices: How the columns are cut.
        threshold: As for `Scorer`.
    """
    results = []
    for column, places in zip(slices, codes, strict=True):
        order = np.argsort(places, kind="stable")
        bounds = np.searchsorted(places[order], np.arange(len(column.names) + 1))
        for name, start, end in zip(column.names, bounds[:-1], bounds[1:], strict=True):
            rows = order[start:end]
            if len(rows):
                scorer = Scorer(task, truth[rows], prediction[rows], threshold)
                results.append(SliceMetrics(column=column.column, value=name, rows=len(rows), metrics=scorer.metrics()))
    return results


def _cut(name: str, rows: pl.LazyFrame) -> SliceColumn:
    import polars as pl

    at = [step / _GROUPS for step in range(1, _GROUPS)]
    numbers = pl.col(name).cast(pl.Float64)
    table = rows.select(numbers.quantile(share, "lower").alias(str(share)) for share in at).collect(engine="streaming")
    return _cut_at(name, sorted(set(table.row(0))))


def _cut_at(name: str, edges: Sequence[float]) -> SliceColumn:
    shown = [f"{edge:.12g}" for edge in edges]
    middle = [f"({low}, {high}]" for low, high in pairwise(shown)]
    return SliceColumn(name, [f"<= {shown[0]}", *middle, f"> {shown[-1]}", MISSING], edges=list(edges))


def _names(values: pl.Series) -> list[str]:
    """Returns what the slices of values are called: whole numbers alike, whether they are stored as floats or not."""
    import polars as pl

    whole = values.dtype.is_float() and bool((values.is_finite() & (values == values.round())).all())
    return (values.cast(pl.Int64) if whole else values).cast(pl.String).to_list()


def _plain(series: pl.Series) -> pl.Series:
    import polars as pl

    return series.cast(pl.String) if series.dtype in (pl.Categorical, pl.Enum) else series


def _missing(names: list[str]) -> str:
    return MISSING if MISSING not in names else f"{MISSING} (null)"
