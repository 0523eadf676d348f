"""Which bin each of many numbers is in: what `numpy.searchsorted` says, several times as fast.

A table over evenly spaced cells tells how many edges lie below a cell. Which cell a number is in rises with the number,
so that edges in lower cells are below it and those in higher cells above it, however the arithmetic rounds; only edges
in the number's own cell are left to compare with.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_CELLS = 4096
# With fewer edges, or fewer numbers, a table does not pay.
_FEW_EDGES, _FEW_NUMBERS = 8, 4096


class Bins:
    """The bins between rising edges: bin i holds `edges[i - 1] <= value < edges[i]`.

    Args:
        edges: Finite numbers, strictly rising; shape (edges,).

    Attributes:
        count: How many bins there are.
    """

    def __init__(self, edges: F64) -> None:
        self._edges = edges
        self.count = len(edges) + 1
        width = float(edges[-1]) - float(edges[0]) if len(edges) >= _FEW_EDGES else 0.0
        self._scale = (_CELLS - 2) / width if width > 0 and np.isfinite(width) else np.inf
        self._low = float(edges[0]) if len(edges) else 0.0
        if not np.isfinite(self._scale):
            return
        cells = self._cells(edges)
        inside = np.bincount(cells, minlength=_CELLS)
        self._below = (np.cumsum(inside) - inside).astype(np.int32)
        # The only edge of a cell; none where there is no edge, or more than one.
        self._edge = np.full(_CELLS, np.inf)
        single = inside[cells] == 1
        self._edge[cells[single]] = edges[single]
        self._crowded = inside > 1

    def __call__(self, values: F64) -> I64:
        """Returns the bin of each number; shape (values,).

        Args:
            values: Finite numbers; shape (values,).
        """
        if not np.isfinite(self._scale) or len(values) < _FEW_NUMBERS:
            return np.searchsorted(self._edges, values, side="right")
        cells = self._cells(values)
        bins = self._below[cells] + (values >= self._edge[cells])
        crowded = self._crowded[cells]
        if crowded.any():
            bins[crowded] = np.searchsorted(self._edges, values[crowded], side="right")
        return bins.astype(np.int64)

    def _cells(self, values: F64) -> npt.NDArray[np.int32]:
        """Returns the cell of each number: the first is for what lies below the edges, the last for what lies above."""
        # Clipped first: a number far out would overflow.
        places = (np.clip(values, self._low, self._edges[-1]) - self._low) * self._scale
        places += values >= self._low
        return places.astype(np.int32)
