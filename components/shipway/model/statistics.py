"""Describes values as the statistics that later rows are compared with: quantiles, and counts in two sets of bins."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from shipway.lineage.documents import CategoryStatistics, Grid, NumberStatistics
from shipway.model.bins import Bins

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
GRID_SHARE = 1 / 200
"""Greatest share of the described values in a bin of the grid that holds more than one distinct value."""
TOP = 100
MOST_CATEGORIES = 10_000

_EDGES = np.linspace(0.05, 0.95, 19)
# Closer together in the tails, where few rows lie far apart.
_TAIL = np.array([0.0001, 0.0005, 0.001, 0.002])
_GRID = np.concatenate([_TAIL, np.arange(1, round(1 / GRID_SHARE)) * GRID_SHARE, 1 - _TAIL[::-1]])
# Numbers that are closer are one: what float32 cannot tell apart, and a millionth of the deviation, by which a graph's
# predictions may differ from the native form's.
_SAME_VALUE = float(np.finfo(np.float32).eps)
_SAME_DEVIATION = 1e-6
# Beyond it a sum of values would be no finite number, and the document no JSON.
_HUGE = 1e200
# Rows counted at once, so that they and their bins stay in the processor's cache.
_CHUNK = 65_536


def describe_numbers(ordered: F64, nulls: int = 0) -> NumberStatistics:
    """Returns the statistics of rising finite numbers, in whose last bits the order of the rows does not show.

    Args:
        ordered: (n,) values in rising order.
        nulls: How many rows have none.
    """
    if ordered.size == 0:
        grid = Grid(edges=[], counts=[0], sums=[0.0])
        return NumberStatistics(
            rows=nulls, nulls=nulls, mean=None, std=None, quantiles=[], edges=[], counts=[0], grid=grid
        )
    least, greatest = float(ordered[0]), float(ordered[-1])
    mean = float(ordered.mean()) if least < greatest else least
    std = float(np.sqrt(np.square(ordered - mean).mean())) if least < greatest else 0.0
    edges = np.unique(np.quantile(ordered, _EDGES))
    fine = _grid_edges(ordered, std)
    fine_counts, sums = count_numbers(ordered, Bins(fine), mean)
    return NumberStatistics(
        rows=ordered.size + nulls,
        nulls=nulls,
        mean=mean,
        std=std,
        quantiles=np.quantile(ordered, QUANTILES).tolist(),
        edges=edges.tolist(),
        counts=np.diff(np.searchsorted(ordered, edges), prepend=0, append=ordered.size).tolist(),
        grid=Grid(edges=fine.tolist(), counts=fine_counts.tolist(), sums=sums.tolist()),
    )


def describe_categories(counts: Mapping[str, int], nulls: int = 0) -> CategoryStatistics:
    """Returns the statistics of texts.

    Args:
        counts: Value -> rows, in any order.
        nulls: How many rows have none.
    """
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return CategoryStatistics(
        rows=sum(counts.values()) + nulls,
        nulls=nulls,
        counts=dict(ranked[:TOP]),
        others=sum(rows for _, rows in ranked[TOP:]),
        rare=[value for value, _ in ranked[TOP:MOST_CATEGORIES]],
        distinct=len(ranked),
    )


def count_numbers(values: F64, bins: Bins, centre: float) -> tuple[I64, F64]:
    """Returns how many values each bin holds, and the sum of their distances from a centre; both (bins.count,).

    Args:
        values: (n,) finite numbers; those beyond +-1e200 are summed as that.
        bins: The bins.
        centre: What is taken from each value before it is summed.
    """
    counts, sums = np.zeros(bins.count, dtype=np.int64), np.zeros(bins.count)
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        places = bins(chunk)
        counts += np.bincount(places, minlength=len(counts))
        sums += np.bincount(places, weights=np.clip(chunk, -_HUGE, _HUGE) - centre, minlength=len(counts))
    return counts, sums


def _grid_edges(ordered: F64, std: float) -> F64:
    """Returns the grid's edges: quantiles half a percent apart, and each frequent value in a bin of its own.

    Without that a value as frequent as the zeros of a day's rainfall would share a bin with its neighbours, and rows
    that move from it to them would not show. The bins begin a little below the values, because the same value may come
    back as its float32; but never at or below the value before.
    """
    quantiles = np.quantile(ordered, _GRID, method="inverted_cdf")
    frequent = np.unique(quantiles[1:][quantiles[1:] == quantiles[:-1]])
    margin = np.maximum(_SAME_VALUE * np.abs(quantiles), _SAME_DEVIATION * std)
    first = np.searchsorted(ordered, quantiles, side="left")
    below = quantiles - np.minimum(margin, np.where(first > 0, (quantiles - ordered[first - 1]) / 2, np.inf))
    margin = np.maximum(_SAME_VALUE * np.abs(frequent), _SAME_DEVIATION * std)
    last = np.searchsorted(ordered, frequent, side="right")
    following = np.append(ordered, np.inf)[last]
    above = frequent + np.minimum(margin, (following - frequent) / 2)
    return np.unique(np.concatenate([below, np.maximum(above, np.nextafter(frequent, np.inf))]))
