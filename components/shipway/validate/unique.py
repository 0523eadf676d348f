"""Rows that are not unique, without holding the rows: eight bytes each."""

from typing import Any

import polars as pl

from shipway.validate.samples import SAMPLES, samples


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
    key = pl.struct(columns).hash()
    hashes = rows.select(key).collect(engine="streaming").to_series().sort()
    twice = hashes.filter(hashes == hashes.shift(1)).unique()
    if not len(twice):
        return 0, []
    groups = (
        rows.select(columns)
        .filter(key.is_in(twice.implode()))
        .group_by(columns)
        .agg(pl.len().alias("rows of this value"))
        .filter(pl.col("rows of this value") > 1)
        .collect(engine="streaming")
    )
    if not groups.height:
        return 0, []
    total = int(groups["rows of this value"].sum()) - (0 if count == "all" else groups.height)
    order = ["rows of this value", *columns]
    top = groups.sort(order, descending=[True, *[False] * len(columns)]).head(SAMPLES).select(columns)
    values: list[Any] = [row[0] if len(row) == 1 else row for row in top.iter_rows()]
    return total, samples(values)
