"""What requests and predictions looked like, counted off the request path over many requests at once."""

from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from shipway.endpoints.window import PROBABILITY_EDGES, FeatureCounts, PredictionCounts
from shipway.serving.v1 import class_text

if TYPE_CHECKING:
    from shipway.serving.model_slot import Array, ServedInfo

_SAME = 0.05
_SAME_NEAR_ZERO = 1e-9


class Counts:
    """Sums over rows.

    Attributes:
        predictions: Rows a bin or label; shape (bins,).
        features: A row a feature of rows, nulls, sum of the values above zero, of those below (as a positive number),
            and of squares; shape (features, 5).
        agreement: Mirrored rows compared, agreed, and the sum of absolute differences; shape (3,).
    """

    __slots__ = ("agreement", "features", "predictions")

    def __init__(self, bins: int, features: int) -> None:
        self.predictions = np.zeros(bins, dtype=np.int64)
        self.features = np.zeros((features, 5))
        self.agreement = np.zeros(3)

    def add(self, other: Self) -> None:
        """Adds another's counts to these."""
        self.predictions = self.predictions + other.predictions
        self.features = self.features + other.features
        self.agreement = self.agreement + other.agreement


class Summary:
    """How the requests and predictions of one model are counted.

    Args:
        info: The model.
        edges: Inner edges of a regression model's predictions; () counts none of them.
    """

    def __init__(self, info: "ServedInfo", edges: Sequence[float]) -> None:
        self._task = info.task
        if info.task == "binary":
            edges = PROBABILITY_EDGES
        self.edges = [] if info.task == "multiclass" else [float(edge) for edge in edges]
        self.labels = [class_text(value) for value in info.classes] if info.task == "multiclass" else []
        self._edges = np.array(self.edges)
        self.numbers = [column.name for column in info.inputs if column.kind != "category"]
        self.texts = [column.name for column in info.inputs if column.kind == "category"]
        self._get = itemgetter(*self.numbers) if len(self.numbers) > 1 else None

    @property
    def features(self) -> list[str]:
        """The features, in the order in which they are counted."""
        return self.numbers + self.texts

    def empty(self) -> Counts:
        """Returns counts of nothing."""
        return Counts(len(self.labels) or len(self.edges) + 1, len(self.features))

    def scores(self, prediction: "Array") -> npt.NDArray[np.float64]:
        """Returns what is counted of predictions: a value, the positive class' probability, or the best one's index."""
        scores = prediction.argmax(axis=1) if self._task == "multiclass" else prediction[:, -1]
        return scores.astype(np.float64)

    def matrix(self, rows: Sequence[dict[str, Any]]) -> npt.NDArray[np.float64]:
        """Returns the numbers and booleans of rows, NaN for null; shape (rows, numbers)."""
        get = self._get
        found = (
            [get(row) for row in rows] if get is not None else [[row[name] for name in self.numbers] for row in rows]
        )
        matrix: npt.NDArray[np.float64] = np.array(found, dtype=np.float64).reshape(len(rows), len(self.numbers))
        return matrix

    def count_predictions(self, prediction: "Array", into: Counts) -> None:
        """Counts predictions by bin or label."""
        scores = self.scores(prediction)
        bins = scores.astype(np.int64) if self.labels else np.searchsorted(self._edges, scores, side="right")
        into.predictions += np.bincount(bins, minlength=len(into.predictions))

    def count_rows(self, rows: Sequence[dict[str, Any]], matrix: npt.NDArray[np.float64], into: Counts) -> None:
        """Counts the features of rows; `matrix` is theirs."""
        numbers = len(self.numbers)
        nulls = np.isnan(matrix)
        values = np.where(nulls, 0.0, matrix)
        into.features[:, 0] += len(rows)
        block = into.features[:numbers]
        block[:, 1] += nulls.sum(axis=0)
        block[:, 2] += np.maximum(values, 0.0).sum(axis=0)
        block[:, 3] -= np.minimum(values, 0.0).sum(axis=0)
        with np.errstate(over="ignore"):
            block[:, 4] += (values * values).sum(axis=0)
        for at, name in enumerate(self.texts, start=numbers):
            into.features[at, 1] += sum(row[name] is None for row in rows)

    def compare(self, prediction: "Array", primary: "Array", into: Counts) -> None:
        """Compares mirrored predictions with the primary's."""
        if prediction.shape != primary.shape:
            return
        mine, theirs = self.scores(prediction), self.scores(primary)
        if self._task == "regression":
            gap = np.abs(mine - theirs)
            same = gap <= np.maximum(_SAME * np.maximum(np.abs(mine), np.abs(theirs)), _SAME_NEAR_ZERO)
        elif self._task == "binary":
            gap, same = np.abs(mine - theirs), (mine >= 0.5) == (theirs >= 0.5)
        else:
            at = np.arange(len(mine)), mine.astype(np.int64)
            gap, same = np.abs(prediction[at] - primary[at]), mine == theirs
        into.agreement += (len(mine), int(same.sum()), float(gap.sum()))

    def prediction_counts(self, counts: Counts) -> PredictionCounts | None:
        """Returns the histogram; None where a regression model has no edges."""
        values = counts.predictions.tolist()
        if self.labels:
            return PredictionCounts(kind="class", labels=self.labels, counts=values)
        return PredictionCounts(kind="number", edges=self.edges, counts=values) if self.edges else None

    def feature_counts(self, counts: Counts) -> dict[str, FeatureCounts]:
        """Returns the counts of each feature."""
        return {
            name: FeatureCounts(rows=int(rows), nulls=int(nulls), total=above - below, squares=squares)
            for name, (rows, nulls, above, below, squares) in zip(self.features, counts.features.tolist(), strict=True)
        }
