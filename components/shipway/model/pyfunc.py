"""The MLflow flavour of a model package: `mlflow.pyfunc.load_model(folder).predict(raw_rows)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shipway.model.package import Package

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd


class PyfuncModel:
    """What MLflow calls: raw rows in, probabilities or values out."""

    def __init__(self, package: Package) -> None:
        self.package = package

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> npt.NDArray[np.floating[Any]]:
        """Returns probabilities (rows, classes), or values (rows, 1) for regression.

        Args:
            model_input: Raw rows; columns that the model does not take are ignored.
            params: MLflow's inference parameters; the model takes none.

        Raises:
            InputError: A column is missing or of another kind.
        """
        import polars as pl

        del params
        names = [column.name for column in self.package.info.inputs if column.name in model_input.columns]
        return self.package.predict(pl.from_pandas(model_input[names]))


def _load_pyfunc(path: str) -> PyfuncModel:
    """Loads a package's folder; MLflow calls this by its name."""
    return PyfuncModel(Package.load(path))
