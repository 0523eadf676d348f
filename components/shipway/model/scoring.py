"""Metrics of many weightings of the same rows at once: all rows, and every resample of a bootstrap.

Each metric is written as sums over rows times a weight, so that a resample (a row drawn k times has weight k) costs
one pass over rows that were sorted once. Definitions are scikit-learn's; a ratio whose denominator is zero (recall
without positive rows, R2 of a constant) is undefined and comes out as NaN here, which `defined` leaves out: a made-up 0
or 1 would open gaps between slices that are not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shipway.errors import InputError
from shipway.spec.metrics import METRICS, Task

if TYPE_CHECKING:
    import polars as pl

    from shipway.model.package import PackageInfo

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

CALIBRATION_BINS = 15
_SHOWN = 5
# The least distance of a probability from 0 and 1 in the log loss: float32's precision, which is what the ONNX graph
# of a package answers in (scikit-learn too clips at the precision of its input's type).
PROBABILITY_EPSILON = float(np.finfo(np.float32).eps)


class Scorer:
    """Computes a task's metrics for weighted rows; sorting is done once, when it is made.

    Args:
        task: binary, multiclass or regression.
        truth: (n,) class indices, or values for regression.
        prediction: (n, classes) probabilities, or (n, 1) values for regression; finite.
        threshold: Binary tasks: the probability from which a row counts as positive.
    """

    def __init__(
        self, task: Task, truth: npt.NDArray[Any], prediction: npt.NDArray[Any], threshold: float = 0.5
    ) -> None:
        self._task = task
        self._scores = np.asarray(prediction, dtype=np.float64)
        if task == "regression":
            self._values = np.asarray(truth, dtype=np.float64)
            return
        self._truth = np.asarray(truth, dtype=np.int64)
        self._classes = self._scores.shape[1]
        own = self._scores[np.arange(len(self._truth)), self._truth]
        self._loss = -np.log(np.clip(own, PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON))
        if task == "binary":
            self._predicted = (self._scores[:, 1] >= threshold).astype(np.int64)
            self._rankings = [Ranking(self._truth == 1, self._scores[:, 1])]
            self._bins = calibration_bin(self._scores[:, 1])
        else:
            self._predicted = self._scores.argmax(axis=1)
            self._rankings = [Ranking(self._truth == k, self._scores[:, k]) for k in range(self._classes)]

    @property
    def rows(self) -> int:
        """How many rows it scores."""
        return len(self._scores)

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of all rows, without the undefined ones."""
        return defined({name: float(value[0]) for name, value in self.weighted(np.ones((1, self.rows))).items()})

    def weighted(self, weights: F64) -> dict[str, F64]:
        """Returns every metric of the task for each weighting.

        Args:
            weights: (b, n), not negative.

        Returns:
            Metric -> (b,), NaN where it is undefined.
        """
        found = self._regression(weights) if self._task == "regression" else self._classification(weights)
        return {name: found[name] for name in METRICS[self._task]}

    def confusion(self) -> I64:
        """Returns how many rows of each class (first axis) were predicted as each class (second axis)."""
        cells = self._truth * self._classes + self._predicted
        return np.bincount(cells, minlength=self._classes**2).reshape(self._classes, self._classes)

    def _classification(self, weights: F64) -> dict[str, F64]:
        total = weights.sum(axis=1)
        actual = _group_sums(weights, self._truth, self._classes)
        predicted = _group_sums(weights, self._predicted, self._classes)
        right = (self._truth == self._predicted).astype(np.float64)
        hits = _group_sums(weights, self._truth, self._classes, right)
        areas = [ranking.areas(weights) for ranking in self._rankings]
        found = {
            "accuracy": _ratio(hits.sum(axis=1), total),
            "log_loss": _ratio(_sums(weights, self._loss), total),
        }
        if self._task == "binary":
            found["roc_auc"], found["pr_auc"] = areas[0]
            found["precision"] = _ratio(hits[:, 1], predicted[:, 1])
            found["recall"] = _ratio(hits[:, 1], actual[:, 1])
            found["f1"] = _ratio(2 * hits[:, 1], actual[:, 1] + predicted[:, 1])
            found["calibration_error"] = self._calibration_error(weights, total)
            return found
        # The classes that count in a macro average are those that occur, in truth or prediction (scikit-learn's
        # rule); one that is never predicted has precision 0, one that is only predicted has recall 0.
        occurs = actual + predicted > 0
        found["precision"] = _masked_mean(_ratio(hits, predicted, empty=0.0), occurs)
        found["recall"] = _masked_mean(_ratio(hits, actual, empty=0.0), occurs)
        found["f1"] = _masked_mean(_ratio(2 * hits, actual + predicted, empty=0.0), occurs)
        # One class against the rest, averaged over the classes that have both sides.
        for name, position in (("roc_auc", 0), ("pr_auc", 1)):
            values = np.stack([area[position] for area in areas], axis=1)
            found[name] = _masked_mean(np.nan_to_num(values), ~np.isnan(values))
        return found

    def _calibration_error(self, weights: F64, total: F64) -> F64:
        """Expected calibration error: the mean of |observed share - mean probability| over bins, by their rows.

        15 equal-width bins of the positive class's probability (Naeini, Cooper, Hauskrecht: "Obtaining Well Calibrated
        Probabilities Using Bayesian Binning", AAAI 2015; 15 bins as in Guo et al., "On Calibration of Modern Neural
        Networks", ICML 2017).
        """
        gap = _group_sums(weights, self._bins, CALIBRATION_BINS, self._truth - self._scores[:, 1])
        return _ratio(np.abs(gap).sum(axis=1), total)

    def _regression(self, weights: F64) -> dict[str, F64]:
        error = self._values - self._scores[:, 0]
        # Centred on one mean for all weightings: the variance of a resample then does not cancel away.
        centred = self._values - self._values.mean()
        total = weights.sum(axis=1)
        squares = _sums(weights, error**2)
        spread = _sums(weights, centred**2) - _ratio(_sums(weights, centred) ** 2, total)
        # What is left of a constant's spread is rounding.
        noise = np.finfo(np.float64).eps * len(centred) * _sums(weights, centred**2)
        spread = np.where(spread > noise, spread, 0.0)
        return {
            "rmse": np.sqrt(_ratio(squares, total)),
            "mae": _ratio(_sums(weights, np.abs(error)), total),
            "r2": 1.0 - _ratio(squares, spread),
        }


class Ranking:
    """Rows in the order of falling scores, for the areas under the ROC and the precision-recall curve.

    Args:
        positive: (n,) which rows are positive.
        scores: (n,) scores.
    """

    def __init__(self, positive: npt.NDArray[np.bool_], scores: F64) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._positive = positive[self._order].astype(np.float64)
        # Rows of equal score enter the curve together: only the last of each tie is a point of it.
        self._ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        self._thresholds = ordered[self._ends]
        self._tied = len(self._ends) < len(ordered)

    def areas(self, weights: F64) -> tuple[F64, F64]:
        """Returns ROC AUC and average precision for each weighting, NaN where one side is empty.

        ROC AUC is the trapezoid area, average precision the sum over thresholds of (recall step) x precision.
        """
        drawn = weights[:, self._order]
        steps = drawn * self._positive
        if self._tied:
            starts = np.append(0, self._ends[:-1] + 1)
            drawn, steps = np.add.reduceat(drawn, starts, axis=1), np.add.reduceat(steps, starts, axis=1)
        caught, taken = np.cumsum(steps, axis=1), np.cumsum(drawn, axis=1)
        positives, total = caught[:, -1].copy(), taken[:, -1]
        # The sum of (drawn - steps) * (caught - steps / 2): each tie's negatives, as wide, times the mean height there.
        area = _dot(drawn, caught) - _dot(steps, caught) - (_dot(drawn, steps) - _dot(steps, steps)) / 2
        # Before the first drawn row nothing is caught of nothing taken; the step is zero there, so any divisor does.
        caught /= np.maximum(taken, np.finfo(np.float64).tiny)
        precision = _dot(steps, caught)
        both = positives * (total - positives)
        return _ratio(area, both), np.where(both > 0, _ratio(precision, positives), np.nan)

    def curve(self, points: int) -> tuple[F64, F64, F64]:
        """Returns at most `points` points of the ROC curve: false positive rate, true positive rate, threshold.

        All are finite: the curve begins at (0, 0) with a threshold just above every score. Points are thinned evenly
        along the curve. Both classes must occur.
        """
        caught, taken = np.cumsum(self._positive)[self._ends], self._ends + 1.0
        rate = np.append(0.0, caught / caught[-1])
        alarms = taken - caught
        false = np.append(0.0, alarms / alarms[-1])
        start = max(1.0, float(np.nextafter(self._thresholds[0], np.inf)))
        thresholds = np.append(start, self._thresholds)
        if len(rate) > points:
            keep = np.unique(np.searchsorted(false + rate, np.linspace(0, 2, points)).clip(0, len(rate) - 1))
            keep = np.unique(np.concatenate([[0], keep, [len(rate) - 1]]))[-points:]
            keep[0] = 0
            false, rate, thresholds = false[keep], rate[keep], thresholds[keep]
        return false, rate, thresholds


def defined(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics that are numbers."""
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def true_values(info: PackageInfo, labels: pl.Series, where: str) -> npt.NDArray[Any]:
    """Returns what a `Scorer` takes as the truth: class indices (int64), or values for regression; shape (rows,).

    Args:
        info: The model.
        labels: The labels, without nulls.
        where: Whose labels these are, for errors, as `the test part`.

    Raises:
        InputError: A label is none of the training part's, or no finite number.
    """
    import polars as pl

    if info.task == "regression":
        try:
            values = labels.cast(pl.Float64).to_numpy()
        except pl.exceptions.PolarsError as error:
            raise InputError(f"label {labels.name!r}: regression needs numbers, found {labels.dtype}") from error
        if not np.isfinite(values).all():
            raise InputError(f"label {labels.name!r}: regression needs finite numbers")
        return np.asarray(values)
    plain = labels.cast(pl.String) if labels.dtype in (pl.Categorical, pl.Enum) else labels
    # A Python dict finds 1 and 1.0 and True alike, as the label's dtype may differ from the training part's.
    index = {value: position for position, value in enumerate(info.classes)}
    distinct = plain.unique()
    unknown = [value for value in distinct if value not in index]
    if unknown:
        shown = ", ".join(map(repr, sorted(unknown, key=str)[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
        raise InputError(
            f"label {labels.name!r}: {where} has values that the training part did not: {shown}; "
            f"the model knows {', '.join(map(repr, info.classes))}"
        )
    places = [index[value] for value in distinct]
    return plain.replace_strict(distinct, places, return_dtype=pl.Int64).to_numpy()


def calibration_bin(probability: F64) -> I64:
    """Returns the equal-width bin of each probability; 1.0 falls into the last."""
    return np.minimum((probability * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def _group_sums(weights: F64, group: I64, groups: int, values: npt.NDArray[Any] | None = None) -> F64:
    """Returns (b, groups): each weighting's sum of `values` (default 1) by group."""
    rows = [row if values is None else row * values for row in weights]
    return np.stack([np.bincount(group, weights=row, minlength=groups) for row in rows])


def _sums(weights: F64, values: F64) -> F64:
    # Not `@`: threaded BLAS gains nothing on a vector, stalls on busy processors and adds in an order of its own.
    return np.asarray(np.einsum("bn,n->b", weights, values))


def _dot(left: F64, right: F64) -> F64:
    return np.asarray(np.einsum("bn,bn->b", left, right))


def _ratio(above: F64, below: F64, empty: float = np.nan) -> F64:
    result: F64 = np.full(np.shape(above), empty)
    np.divide(above, below, out=result, where=below > 0)
    return result


def _masked_mean(values: F64, mask: npt.NDArray[np.bool_]) -> F64:
    return _ratio((values * mask).sum(axis=1), mask.sum(axis=1).astype(np.float64))
