"""Slices: the rows where a raw column has one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shipway.dataset import read_info, scan
from shipway.errors import InputError
from shipway.evaluate.metrics import I64

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


def plan_slices(test: str | Path, columns: list[str], label: str) -> list[SliceColumn]:
    """Decides how each column is cut, from the values it has in rows with a label.

    Text, booleans and dates have a slice a value, and so have numbers of at most 20 values; other numbers are cut at
    their quintiles.

    Args:
        test: The test dataset.
        columns: Raw columns to slice by.
        label: The label column.

    Raises:
        InputError: A column does not exist, is nested, or has more than 100 values.
    """
    import polars as pl

    found = read_info(test).columns
    unknown = [name for name in columns if name not in found]
    if unknown:
        raise InputError(
            f"evaluate.slices: the test part has no column {', '.join(unknown)}; it has {', '.join(found)}"
        )
    rows = scan(test).filter(pl.col(label).is_not_null())
    planned = []
    for name in columns:
        distinct = rows.select(pl.col(name).drop_nulls().unique()).collect(engine="streaming")[name]
        if distinct.dtype.is_nested():
            raise InputError(f"evaluate.slices: column {name!r} holds {distinct.dtype}, which cannot be sliced by")
        if distinct.dtype.is_numeric() and len(distinct) > _DISTINCT_NUMBERS:
            planned.append(_cut(name, rows))
            continue
        if len(distinct) > MAX_VALUES:
            raise InputError(
                f"evaluate.slices: column {name!r} has {len(distinct)} distinct values in the test part, "
                f"at most {MAX_VALUES} can be sliced by"
            )
        values = _plain(distinct).sort()
        names = values.cast(pl.String).to_list()
        planned.append(SliceColumn(name, [*names, _missing(names)], values=values.to_list()))
    return planned


def _cut(name: str, rows: pl.LazyFrame) -> SliceColumn:
    import polars as pl

    at = [step / _GROUPS for step in range(1, _GROUPS)]
    numbers = pl.col(name).cast(pl.Float64)
    table = rows.select(numbers.quantile(share, "lower").alias(str(share)) for share in at).collect(engine="streaming")
    edges = sorted(set(table.row(0)))
    shown = [f"{edge:.12g}" for edge in edges]
    middle = [f"({low}, {high}]" for low, high in pairwise(shown)]
    return SliceColumn(name, [f"<= {shown[0]}", *middle, f"> {shown[-1]}", MISSING], edges=edges)


def _plain(series: pl.Series) -> pl.Series:
    import polars as pl

    return series.cast(pl.String) if series.dtype in (pl.Categorical, pl.Enum) else series


def _missing(names: list[str]) -> str:
    return MISSING if MISSING not in names else f"{MISSING} (null)"
