"""A candidate with a fault that no offline gate sees: its features ask a service that is slow under load."""

import time

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

NUMBERS = ["departure_delay", "scheduled_minutes", "distance", "departure_minute"]


class AskedElsewhere(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Numbers as they are, after a wait for each batch of rows, as a remote feature store makes one wait."""

    def fit(self, rows: pd.DataFrame, label: object = None) -> "AskedElsewhere":  # noqa: ARG002 - scikit-learn's form
        """Remembers that it was fitted."""
        self.columns_ = list(NUMBERS)
        return self

    def transform(self, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Returns the numbers of each row, shape (rows, 4)."""
        time.sleep(0.03)
        return rows[self.columns_].fillna(0.0).to_numpy(dtype=np.float64) / 100


def transformer() -> AskedElsewhere:
    """Returns the unfitted transformer."""
    return AskedElsewhere()
