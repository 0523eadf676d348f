"""The metrics that training reports of its own parts; the judgement on the test part is evaluation's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.floating[Any]]
_SMALLEST = 1e-15


def part_metrics(task: str, target: npt.NDArray[Any], prediction: _Floats) -> dict[str, float]:
    """Returns the metrics of one part.

    Args:
        task: binary, multiclass or regression.
        target: Class indices or values, shape (rows,).
        prediction: Probabilities of shape (rows, classes), or values of shape (rows, 1).

    Returns:
        For classification `loss` (mean negative log likelihood), `accuracy` and `roc_auc` (multiclass: mean of each
        class against the rest; left out while a class has no rows or all of them). For regression `loss` (mean squared
        error), `rmse`, `mae` (in the target's units) and `r2`.
    """
    if task == "regression":
        return _regression(target.astype(np.float64), prediction[:, 0].astype(np.float64))
    chosen = prediction[np.arange(len(target)), target].astype(np.float64)
    metrics = {
        "loss": float(-np.log(np.clip(chosen, _SMALLEST, 1)).mean()),
        "accuracy": float((prediction.argmax(axis=1) == target).mean()),
    }
    columns = [1] if task == "binary" else range(prediction.shape[1])
    areas = [roc_auc(target == column, prediction[:, column]) for column in columns]
    known = [area for area in areas if area is not None]
    if len(known) == len(areas):
        metrics["roc_auc"] = float(np.mean(known))
    return metrics


def roc_auc(positive: npt.NDArray[np.bool_], score: _Floats) -> float | None:
    """Returns the area under the ROC curve, or None where one class is missing.

    It is the Mann-Whitney statistic: the share of pairs in which the positive row scores higher, ties counting half.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, group, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = counts.cumsum() - (counts - 1) / 2
    above = float(ranks[group[positive]].sum()) - positives * (positives + 1) / 2
    return above / positives / negatives


def _regression(target: npt.NDArray[np.float64], prediction: npt.NDArray[np.float64]) -> dict[str, float]:
    squares = float(((target - prediction) ** 2).mean())
    spread = float(((target - target.mean()) ** 2).mean())
    metrics = {"loss": squares, "rmse": squares**0.5, "mae": float(np.abs(target - prediction).mean())}
    if spread > 0:
        metrics["r2"] = 1 - squares / spread
    return metrics
