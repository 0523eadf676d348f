"""Rows that are not unique, without holding the rows: eight bytes each."""

from typing import Any

import polars as pl

from shipway.validate.samples import SAMPLES, samples

_COUNT = "shipway: rows of this value"
_NUMBER = "shipway: the row's number"


def repeated_rows(rows: pl.LazyFrame, columns: list[str], count: str = "all") -> tuple[int, list[str]]:
    """Counts the rows whose values in some columns another row has too; nulls equal each other.

    A 64-bit hash of every row tells which could be repeated; only those are compared by their values.

    Args:
        rows: The rows.
        columns: The columns that together should be unique.
        count: Pandera's `report_duplicates`: `all` such rows; `exclude_first` and `exclude_last` leave one of each out.

    Returns:
        How many, and a few of the values, the most frequent first.
    """
    groups = _repeated(rows, columns)
    if not groups.height:
        return 0, []
    total = int(groups[_COUNT].sum()) - (0 if count == "all" else groups.height)
    order = [_COUNT, *columns]
    top = groups.sort(order, descending=[True, *[False] * len(columns)]).head(SAMPLES).select(columns)
    values: list[Any] = [row[0] if len(row) == 1 else row for row in top.iter_rows()]
    return total, samples(values)


def repeated_numbers(rows: pl.LazyFrame, columns: list[str], count: str = "all") -> pl.Series:
    """Returns the numbers, from 0, of the rows that `repeated_rows` counts."""
    values = _repeated(rows, columns).lazy().select(columns)
    # The numbers come first: a join leaves no order to count in.
    found = rows.select(columns).with_row_index(_NUMBER).join(values, on=columns, how="semi", nulls_equal=True)
    hits = found.collect(engine="streaming").sort(_NUMBER)
    value = pl.struct(columns)
    if count == "exclude_first":
        hits = hits.filter(~value.is_first_distinct())
    elif count == "exclude_last":
        hits = hits.filter(~value.is_last_distinct())
    return hits[_NUMBER]


def _repeated(rows: pl.LazyFrame, columns: list[str]) -> pl.DataFrame:
    """Returns the values that more than one row has, with how many have them."""
    key = pl.struct(columns).hash()
    hashes = rows.select(key).collect(engine="streaming").to_series().sort()
    twice = hashes.filter(hashes == hashes.shift(1)).unique()
    if not len(twice):
        return rows.select(columns).head(0).with_columns(pl.lit(0).alias(_COUNT)).collect()
    return (
        rows.select(columns)
        .filter(key.is_in(twice.implode()))
        .group_by(columns)
        .agg(pl.len().alias(_COUNT))
        .filter(pl.col(_COUNT) > 1)
        .collect(engine="streaming")
    )
