"""Predictions counted by the values of raw columns, for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from shipway.lineage.batches import SliceTally

OTHERS = "(other values)"
# So many values of a column are told apart; the rest, those that come later, share one entry.
_MOST = 1000


class Tally:
    """Counts rows and sums predictions by the values of some columns.

    Args:
        columns: The columns.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._found: dict[tuple[str, str | None], SliceTally] = {}
        self._values: Counter[str] = Counter()

    def update(self, frame: pl.DataFrame, prediction: npt.NDArray[np.float64]) -> None:
        """Adds rows.

        Args:
            frame: Raw rows.
            prediction: Their predictions, shape (rows,).
        """
        for name in self._columns:
            value = frame[name].cast(pl.String)
            pairs = pl.DataFrame({"value": value, "total": prediction})
            # In the order of the rows, so that a sum's last bits are always the same.
            sums = pairs.group_by("value", maintain_order=True).agg(pl.len().alias("rows"), pl.col("total").sum())
            for text, rows, total in sums.select("value", "rows", "total").iter_rows():
                self._add(SliceTally(column=name, value=text, rows=rows, total=total))

    def merge(self, slices: Iterable[SliceTally]) -> None:
        """Adds what was counted elsewhere."""
        for entry in slices:
            self._add(entry)

    def slices(self) -> list[SliceTally]:
        """Returns the counts: by column, then the most rows first, then by value."""
        places = {name: place for place, name in enumerate(self._columns)}
        entries = self._found.values()
        return sorted(entries, key=lambda entry: (places[entry.column], -entry.rows, entry.value or ""))

    def _add(self, entry: SliceTally) -> None:
        key = (entry.column, entry.value)
        if key not in self._found and self._values[entry.column] >= _MOST:
            entry = entry.model_copy(update={"value": OTHERS})
            key = (entry.column, OTHERS)
        known = self._found.get(key)
        if known is None:
            self._values[entry.column] += 1
        else:
            total = (known.total or 0.0) + (entry.total or 0.0)
            entry = entry.model_copy(update={"rows": known.rows + entry.rows, "total": total})
        self._found[key] = entry
