"""Features as training takes them: in memory, in an order that does not depend on how the rows came."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from shipway.dataset import batches, read_info, row_hashes, scan
from shipway.errors import InputError
from shipway.model.preprocessor import LABEL_COLUMN as LABEL

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class FeatureData:
    """One part's features and target.

    Attributes:
        features: Shape (rows, features).
        target: Shape (rows,): class indices (int64), or values (float64) for regression.
        names: The features' names, in order.
        version: The dataset's content hash.
    """

    features: npt.NDArray[np.float32]
    target: npt.NDArray[Any]
    names: list[str]
    version: str

    def __len__(self) -> int:
        return len(self.target)


def load_features(folder: str | Path, names: list[str], classes: int, seed: int) -> FeatureData:
    """Loads the features of one part.

    The rows are sorted by all their values and then shuffled by the seed: the same rows in another order give the same
    matrix, and no estimator that cuts its rows into runs (as unshuffled cross-validation does) meets sorted ones.

    Args:
        folder: A dataset with a Float32 column for each feature and the column `__label__`.
        names: The features to take, in this order.
        classes: Number of classes; 0 for regression.
        seed: Seed of the shuffle.

    Raises:
        InputError: A column is missing, the part is empty, or a label is no class index or no finite number.
    """
    info = read_info(folder)
    missing = [name for name in (*names, LABEL) if name not in info.columns]
    if missing:
        raise InputError(f"{folder}: no columns {missing}; featurize writes one for each feature, and {LABEL}")
    if not names:
        raise InputError(f"{folder}: no features to train on")
    if info.rows == 0:
        raise InputError(f"{folder}: no rows to train or validate on")
    # Adding 0.0 turns -0.0, which sorts as equal to 0.0, into it.
    features = [pl.col(name).cast(pl.Float32) + 0.0 for name in names]
    frame = scan(folder).select(*features, LABEL).collect().sort([*names, LABEL])
    target = _target(frame[LABEL], classes, folder)
    order = np.random.default_rng(seed).permutation(frame.height)
    matrix = frame.select(names).to_numpy().astype(np.float32, copy=False)
    return FeatureData(np.ascontiguousarray(matrix[order]), target[order], list(names), info.version)


def sample_rows(folder: str | Path, rows: int) -> pl.DataFrame:
    """Returns at most `rows` rows of a dataset, the same ones in the same order however the dataset's rows are ordered.

    They are those with the smallest hashes, found in one pass in bounded memory.

    Args:
        folder: The dataset.
        rows: How many rows at most.
    """
    hashed = "__shipway_hash__"
    kept: pl.DataFrame | None = None
    for batch in batches(folder):
        marked = batch.with_columns(pl.Series(hashed, row_hashes(batch, batch.columns)))
        both = marked if kept is None else pl.concat([kept, marked])
        kept = both.sort(hashed).head(rows)
    if kept is None:
        return scan(folder).head(0).collect()
    return kept.drop(hashed)


def _target(labels: pl.Series, classes: int, folder: str | Path) -> npt.NDArray[Any]:
    if labels.null_count():
        raise InputError(f"{folder}: {LABEL} has {labels.null_count()} nulls; rows need a label to train on")
    if classes == 0:
        values = labels.cast(pl.Float64).to_numpy()
        if not np.isfinite(values).all():
            raise InputError(f"{folder}: {LABEL} has {int((~np.isfinite(values)).sum())} values that are not finite")
        return values
    if not labels.dtype.is_integer():
        raise InputError(f"{folder}: {LABEL} is {labels.dtype}; expected class indices (Int64)")
    indices = labels.cast(pl.Int64).to_numpy()
    if indices.min() < 0 or indices.max() >= classes:
        raise InputError(
            f"{folder}: {LABEL} runs from {indices.min()} to {indices.max()}; expected class indices 0 to {classes - 1}"
        )
    return indices
