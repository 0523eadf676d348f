"""Rows made up from counts: a column at a time by the inverse of its distribution, where no rows are kept.

Each column is distributed as what was counted, to within a bin of the statistics; how columns hang together is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shipway.lineage.documents import CategoryStatistics, NumberStatistics
from shipway.model.profile import CategoryCounts, NumberCounts

if TYPE_CHECKING:
    import polars as pl

OTHER = "(other)"
"""Stands for the values that the statistics do not list one by one."""

F64 = npt.NDArray[np.float64]
Reference = NumberStatistics | CategoryStatistics


def training_rows(references: Mapping[str, Reference], rows: int) -> pl.DataFrame:
    """Returns rows distributed as those that the statistics were made of.

    Args:
        references: Column -> its statistics.
        rows: How many.
    """
    return _frame({name: _training(reference, rows) for name, reference in references.items()}, rows)


def counted_rows(
    references: Mapping[str, Reference], counts: Mapping[str, NumberCounts | CategoryCounts], rows: int
) -> pl.DataFrame:
    """Returns rows distributed as those that were counted against the statistics.

    Args:
        references: Column -> its statistics.
        counts: Column -> its counts, for each of them.
        rows: How many.
    """
    return _frame({name: _counted(reference, counts[name], rows) for name, reference in references.items()}, rows)


def as_listed(frame: pl.DataFrame, references: Mapping[str, Reference]) -> pl.DataFrame:
    """Returns real rows with texts that the statistics do not list as `(other)`, and booleans as text."""
    import polars as pl

    columns = []
    for name, reference in references.items():
        if isinstance(reference, NumberStatistics):
            columns.append(frame[name].cast(pl.Float64))
            continue
        texts, listed = frame[name].cast(pl.String), list(reference.counts)
        columns.append(
            texts.replace_strict(listed, listed, default=OTHER, return_dtype=pl.String).set(texts.is_null(), None)
        )
    return pl.DataFrame(columns)


def _training(reference: Reference, rows: int) -> list[Any]:
    if isinstance(reference, CategoryStatistics):
        return _texts(
            [*reference.counts, OTHER, None], [*reference.counts.values(), reference.others, reference.nulls], rows
        )
    ends = (reference.quantiles[0], reference.quantiles[-1]) if reference.quantiles else None
    return _numbers(reference, (reference.grid or reference).counts, reference.nulls, ends, rows)


def _counted(reference: Reference, counts: NumberCounts | CategoryCounts, rows: int) -> list[Any]:
    if isinstance(counts, CategoryCounts):
        return _texts([*counts.counts, OTHER, None], [*counts.counts.values(), counts.others, counts.nulls], rows)
    if isinstance(reference, CategoryStatistics):
        raise TypeError("numbers counted against the statistics of texts")
    ends = None if counts.least is None or counts.greatest is None else (counts.least, counts.greatest)
    return _numbers(reference, counts.counts, counts.nulls, ends, rows)


def _shares(rows: int) -> F64:
    return (np.arange(rows) + 0.5) / rows


def _texts(values: Sequence[str | None], counts: Sequence[int], rows: int) -> list[Any]:
    total = np.cumsum(counts)
    if not total[-1]:
        return [None] * rows
    return [values[place] for place in np.searchsorted(total / total[-1], _shares(rows), side="right")]


def _numbers(
    reference: NumberStatistics, counts: Sequence[int], nulls: int, ends: tuple[float, float] | None, rows: int
) -> list[Any]:
    if ends is None:
        return [None] * rows
    edges = (reference.grid or reference).edges
    bounds = np.array([min([ends[0], *edges[:1]]), *edges, max([ends[1], *edges[-1:]])])
    # The first bin with rows begins with the least value, and the last one ends with the greatest.
    filled = np.flatnonzero(counts)
    bounds[filled[0]], bounds[filled[-1] + 1] = ends
    total = sum(counts)
    present = rows - round(rows * nulls / (nulls + total))
    above, wanted = np.cumsum(counts) / total, _shares(present)
    bins = np.searchsorted(above, wanted, side="right")
    into = (wanted - np.append(0.0, above)[bins]) / (np.array(counts)[bins] / total)
    values = bounds[bins] + into.clip(0, 1) * (bounds[bins + 1] - bounds[bins])
    if all(float(value).is_integer() for value in reference.quantiles):
        # Whole numbers; a frequent one has a narrow bin around it.
        values = np.round(values)
    return [*values.tolist(), *[None] * (rows - present)]


def _frame(columns: Mapping[str, list[Any]], rows: int) -> pl.DataFrame:
    import polars as pl

    # Shuffled, each column by itself: sorted ones would look like a trend.
    draw = np.random.default_rng(0)
    return pl.DataFrame(
        [
            pl.Series(name, values, dtype=pl.Float64 if not _is_text(values) else pl.String, strict=False)[
                draw.permutation(rows)
            ]
            for name, values in columns.items()
        ]
    )


def _is_text(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str) for value in values)
