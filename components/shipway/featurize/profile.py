"""Looks at the training part's columns: the statistics document, and what imputing, scaling and one-hot need.

Quantiles, means and deviations come from one sorted column at a time: a sum that threads share, or that follows the
rows, has other last bits for another order, and the model's digest would too. Columns too long for that are summed in
one pass over batches in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from shipway.dataset import batches, scan
from shipway.errors import InputError
from shipway.lineage.documents import CategoryStatistics, Grid, NumberStatistics
from shipway.model.bins import Bins
from shipway.model.signature import InputColumn, number_values
from shipway.model.statistics import MOST_CATEGORIES, QUANTILES, TOP, count_numbers, describe_numbers

EXACT_ROWS = 8_000_000
"""Up to so many rows quantiles are exact; of more, an even sample of about so many, so that memory stays bounded."""


@dataclass
class Moments:
    """Running count, nulls, mean, sum of squared deviations, least and greatest value of a numeric column."""

    count: int = 0
    nulls: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = np.inf
    greatest: float = -np.inf
    infinite: int = 0

    def update(self, values: npt.NDArray[np.float64]) -> None:
        """Adds values, NaN for null.

        Partial results merge by Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
        sample variances" (1979).
        """
        valid = values[~np.isnan(values)]
        self.nulls += values.size - valid.size
        if valid.size == 0:
            return
        least, greatest = float(valid.min()), float(valid.max())
        self.least, self.greatest = min(self.least, least), max(self.greatest, greatest)
        if not (np.isfinite(least) and np.isfinite(greatest)):
            self.infinite += int(np.isinf(valid).sum())
            return
        # What overflows is told by profile_numbers.
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(valid.mean())
            squares = float(np.square(valid - mean).sum())
        total = self.count + valid.size
        delta = mean - self.mean
        self.squares += squares + delta * delta * self.count * valid.size / total
        self.mean += delta * valid.size / total
        self.count = total

    @property
    def std(self) -> float:
        """The population's standard deviation; 0 for a constant column."""
        if self.count == 0 or self.least == self.greatest:
            return 0.0
        return float(np.sqrt(self.squares / self.count))


@dataclass(frozen=True)
class NumberProfile:
    """A numeric (or boolean) column: its statistics, and its mean and deviation."""

    statistics: NumberStatistics
    mean: float
    median: float
    std: float


@dataclass(frozen=True)
class CategoryProfile:
    """A text or boolean column: its statistics, and its values by falling count, then by value."""

    statistics: CategoryStatistics
    values: list[str]


def profile_numbers(folder: str | Path, columns: Sequence[InputColumn], label: str) -> dict[str, NumberProfile]:
    """Looks at numeric columns, in the rows that have a label.

    Raises:
        InputError: A column is not numeric, or holds infinities.
    """
    if not columns:
        return {}
    moments = {column.name: Moments() for column in columns}
    wanted = list(dict.fromkeys([*moments, label]))
    for batch in batches(folder, columns=wanted):
        frame = batch.filter(pl.col(label).is_not_null())
        for column in columns:
            moments[column.name].update(number_values(column, frame))
    infinite = [f"{name!r} ({found.infinite})" for name, found in moments.items() if found.infinite]
    if infinite:
        raise InputError(f"the training part holds infinite numbers, in columns (rows): {', '.join(infinite)}")
    huge = [repr(name) for name, found in moments.items() if not np.isfinite([found.mean, found.std]).all()]
    if huge:
        raise InputError(f"numbers in the training part are too large to be averaged, in columns {', '.join(huge)}")
    return {name: _number_profile(folder, name, label, found) for name, found in moments.items()}


def profile_category(folder: str | Path, name: str, label: str, boolean: bool = False) -> CategoryProfile:
    """Looks at a text or boolean column, in the rows that have a label.

    Raises:
        InputError: The column holds neither.
    """
    rows = scan(folder).filter(pl.col(label).is_not_null())
    value = pl.col(name).cast(pl.Boolean) if boolean else pl.col(name)
    try:
        counts = (
            rows.select(value.cast(pl.String).alias("value"))
            .group_by("value")
            .agg(pl.len().cast(pl.Int64).alias("rows"))
            .sort("rows", "value", descending=[True, False])
            .collect(engine="streaming")
        )
    except pl.exceptions.PolarsError as error:
        dtype = rows.collect_schema()[name]
        raise InputError(f"column {name!r}: expected {'booleans' if boolean else 'text'}, found {dtype}") from error
    nulls = int(counts.filter(pl.col("value").is_null())["rows"].sum())
    counts = counts.drop_nulls("value")
    statistics = CategoryStatistics(
        rows=int(counts["rows"].sum()) + nulls,
        nulls=nulls,
        counts=dict(counts.head(TOP).iter_rows()),
        others=int(counts["rows"].slice(TOP).sum()),
        rare=counts["value"].slice(TOP, MOST_CATEGORIES - TOP).to_list(),
        distinct=counts.height,
    )
    return CategoryProfile(statistics, counts["value"].head(MOST_CATEGORIES).to_list())


def _number_profile(folder: str | Path, name: str, label: str, moments: Moments) -> NumberProfile:
    rows = scan(folder).filter(pl.col(label).is_not_null())
    value = pl.col(name).cast(pl.Float64).fill_nan(None).drop_nulls()
    step = max(1, -(-moments.count // EXACT_ROWS))
    ordered = np.sort(rows.select(value.gather_every(step)).collect(engine="streaming")[name].to_numpy())
    statistics = describe_numbers(ordered, moments.nulls)
    if step > 1:
        statistics = _counted(folder, name, label, moments, statistics)
    quantiles = statistics.quantiles
    median = quantiles[QUANTILES.index(0.5)] if quantiles else 0.0
    return NumberProfile(statistics, mean=statistics.mean or 0.0, median=median, std=statistics.std or 0.0)


def _counted(
    folder: str | Path, name: str, label: str, moments: Moments, sampled: NumberStatistics
) -> NumberStatistics:
    """Returns the statistics of a sample with what all rows say: mean, deviation, least, greatest, and the counts."""
    constant = moments.least == moments.greatest
    mean = moments.least if constant else moments.mean
    grid = sampled.grid or Grid(edges=[], counts=[0], sums=[0.0])
    bins = Bins(np.array(grid.edges))
    counts, sums = np.zeros(len(grid.counts), dtype=np.int64), np.zeros(len(grid.counts))
    below = np.zeros(len(sampled.edges), dtype=np.int64)
    for batch in batches(folder, columns=list(dict.fromkeys([name, label]))):
        frame = batch.filter(pl.col(label).is_not_null())
        values = frame[name].cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy()
        found, totals = count_numbers(values, bins, mean)
        counts += found
        sums += totals
        below += np.searchsorted(np.sort(values), sampled.edges)
    return sampled.model_copy(
        update={
            "rows": moments.count + moments.nulls,
            "mean": mean,
            "std": moments.std,
            "quantiles": [moments.least, *sampled.quantiles[1:-1], moments.greatest],
            "counts": np.diff(below, prepend=0, append=moments.count).tolist(),
            "grid": Grid(edges=grid.edges, counts=counts.tolist(), sums=sums.tolist()),
        }
    )
