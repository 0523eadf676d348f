"""A candidate with a fault that no offline gate sees: a carrier that its training data lacked makes it fail."""

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

NUMBERS = ["departure_delay", "scheduled_minutes", "distance", "departure_minute"]


class KnownCarriers(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Numbers, and each carrier's number in the list of those seen in training."""

    def fit(self, rows: pd.DataFrame, label: object = None) -> "KnownCarriers":  # noqa: ARG002 - scikit-learn's form
        """Learns the carriers."""
        self.carriers_ = sorted(rows["carrier"].dropna().unique().tolist())
        return self

    def transform(self, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Returns five numbers a row.

        Raises:
            ValueError: A carrier was not in the training rows.
        """
        codes = [float(self.carriers_.index(carrier)) for carrier in rows["carrier"]]
        numbers = rows[NUMBERS].fillna(0.0).to_numpy(dtype=np.float64) / 100
        return np.column_stack([numbers, codes])


def transformer() -> KnownCarriers:
    """Returns the unfitted transformer."""
    return KnownCarriers()
