"""Turns answered requests into rows of the prediction log; see `endpoints.log_parts` for the columns."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shipway.serving.v1 import class_text

if TYPE_CHECKING:
    import polars as pl

    from shipway.serving.model_slot import Array, ServedInfo
    from shipway.serving.summary import Summary


@dataclass(frozen=True, slots=True)
class Batch:
    """Answered requests of one revision, together.

    Attributes:
        revision: Its id.
        version: The registry's version.
        info: What its package says of itself.
        summary: Which features are numbers, and how predictions are counted.
        rows: The rows of all requests, one after the other.
        matrix: The numbers and booleans of these rows, NaN for null; shape (rows, numbers).
        prediction: Shape (rows, classes) or (rows, 1).
        sizes: Rows of each request.
        times: When each request was answered, seconds since the epoch.
        seconds: What the model took for each.
        keys: What the caller of each is known by; "" for nothing.
    """

    revision: str
    version: str
    info: "ServedInfo"
    summary: "Summary"
    rows: Sequence[dict[str, Any]]
    matrix: "Array"
    prediction: "Array"
    sizes: Sequence[int]
    times: Sequence[float]
    seconds: Sequence[float]
    keys: Sequence[str]

    @property
    def metadata(self) -> str:
        """What stands in the metadata of a file of its revision."""
        info, summary = self.info, self.summary
        return json.dumps(
            {"task": info.task, "classes": list(info.classes), "edges": summary.edges, "labels": summary.labels}
        )

    def chosen(self, mask: npt.NDArray[np.bool_]) -> "Batch":
        """Returns the requests that a mask chooses; shape (requests,)."""
        rows = np.repeat(mask, self.sizes)
        return replace(
            self,
            rows=list(compress(self.rows, rows)),
            matrix=self.matrix[rows],
            prediction=self.prediction[rows],
            sizes=list(compress(self.sizes, mask)),
            times=list(compress(self.times, mask)),
            seconds=list(compress(self.seconds, mask)),
            keys=list(compress(self.keys, mask)),
        )


def joined(batches: Sequence[Batch]) -> Batch:
    """Returns batches of one revision as one."""
    if len(batches) == 1:
        return batches[0]
    return replace(
        batches[0],
        rows=list(chain.from_iterable(batch.rows for batch in batches)),
        matrix=np.concatenate([batch.matrix for batch in batches]),
        prediction=np.concatenate([batch.prediction for batch in batches]),
        sizes=list(chain.from_iterable(batch.sizes for batch in batches)),
        times=list(chain.from_iterable(batch.times for batch in batches)),
        seconds=list(chain.from_iterable(batch.seconds for batch in batches)),
        keys=list(chain.from_iterable(batch.keys for batch in batches)),
    )


def batch_frame(batch: Batch, prefix: str, first: int) -> "pl.DataFrame":
    """Returns a batch's rows.

    Args:
        batch: The requests.
        prefix: What begins the requests' ids.
        first: The number of the first request.

    Raises:
        ValueError: Rows, predictions and sizes do not belong together.
    """
    import polars as pl

    sizes = batch.sizes
    of_request = np.repeat(np.arange(len(sizes)), sizes)
    microseconds = (np.array(batch.times) * 1e6).astype(np.int64)
    try:
        return pl.DataFrame(
            [
                pl.Series("time", microseconds[of_request]).cast(pl.Datetime("us", "UTC")),
                pl.Series("request", [f"{prefix}-{first + at}" for at in range(len(sizes))]).gather(of_request),
                pl.Series("row", np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])),
                _repeated("version", batch.version, len(batch.rows)),
                pl.Series("key", [key or None for key in batch.keys], dtype=pl.String).gather(of_request),
                pl.Series("seconds", np.array(batch.seconds)[of_request]),
                *_outputs(batch.info, batch.prediction.astype(np.float64)),
                _features(batch),
            ]
        )
    except pl.exceptions.PolarsError as error:
        raise ValueError(str(error)) from error


def _repeated(name: str, value: str | None, count: int) -> "pl.Series":
    import polars as pl

    return pl.Series(name, [value], dtype=pl.String).new_from_index(0, count)


def _outputs(info: "ServedInfo", values: npt.NDArray[np.float64]) -> "list[pl.Series]":
    import polars as pl

    outputs = pl.Series("outputs", values).arr.to_list()
    if not info.classes:
        return [pl.Series("prediction", values[:, 0]), _repeated("label", None, len(values)), outputs]
    names = pl.Series("label", [class_text(value) for value in info.classes])
    if info.task == "binary":
        return [pl.Series("prediction", values[:, 1]), names.gather((values[:, 1] >= 0.5).astype(np.int64)), outputs]
    best = values.argmax(axis=1)
    return [pl.Series("prediction", values[np.arange(len(best)), best]), names.gather(best), outputs]


def _features(batch: Batch) -> "pl.Series":
    import polars as pl

    at = {name: index for index, name in enumerate(batch.summary.numbers)}
    columns = []
    for column in batch.info.inputs:
        name = column.name
        if column.kind == "category":
            columns.append(pl.Series(name, [row[name] for row in batch.rows], dtype=pl.String))
        else:
            numbers = pl.Series(name, batch.matrix[:, at[name]]).fill_nan(None)
            columns.append(numbers.cast(pl.Boolean) if column.kind == "boolean" else numbers)
    return pl.DataFrame(columns).to_struct("features")
