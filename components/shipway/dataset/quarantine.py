"""How rows that failed validation lie in a quarantine dataset: what `screen` writes and `predict` leaves out.

    shipway_row       int64   the row's number in the batch, from 0
    shipway_reasons   text    every rule that it broke

then the batch's columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shipway.dataset.parts import batches

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ROW = "shipway_row"
REASONS = "shipway_reasons"


def quarantined_rows(folder: str | Path) -> npt.NDArray[np.int64]:
    """Returns the numbers of the rows that were set aside, rising; shape (rows set aside,).

    Raises:
        InputError: It is no dataset, or a damaged one.
    """
    import numpy as np

    numbers = [batch[ROW].to_numpy() for batch in batches(folder, columns=[ROW])]
    return np.concatenate(numbers) if numbers else np.empty(0, dtype=np.int64)
