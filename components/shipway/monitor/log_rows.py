"""Reads what a version answered from the server's prediction log; see `endpoints.log_parts` for what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shipway.endpoints.log_windows import read_log
from shipway.errors import InputError
from shipway.model.profile import Profiler, prediction_values
from shipway.monitor.gather import Gathered, Sampler, Watched
from shipway.monitor.labels import Predicted
from shipway.monitor.observation import PREDICTION

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl

_ROW = "row"
_LOG_KEY = "key"
# The request's key, which is no feature.
_REQUESTS = (_LOG_KEY, False)
_BASE = ("time", "outputs", "features")
_KEYED = (*_BASE, "request", _ROW, _LOG_KEY)


@dataclass(frozen=True, slots=True)
class Span:
    """What is read of a log.

    Attributes:
        uri: The log's folder, or fsspec URI.
        revision: The revision's id.
        since: Beginning of the window (inclusive), seconds since the epoch.
        until: Its end (exclusive).
        labelled_since: From when on predictions wait for labels, at or before `since`.
    """

    uri: str
    revision: str
    since: float
    until: float
    labelled_since: float


def gather_log(span: Span, watched: Watched, sample: int, key: Sequence[str], slices: Sequence[str]) -> Gathered:
    """Reads a span of a log, a part at a time.

    Args:
        span: What is read.
        watched: The package whose predictions they are.
        sample: Rows of the sample at most.
        key: Columns of the labels' key; () when no labels are asked for.
        slices: Raw columns that performance is measured by.

    Raises:
        InputError: The log cannot be read, or cannot hold the key.
    """
    profiler = Profiler(watched.statistics, watched.info, watched.predictions)
    sampler, predicted = Sampler(sample), Predicted(key) if key else None
    features = [column.name for column in watched.info.inputs]
    columns = _key_columns(key, features)
    shared = 0
    begin = span.labelled_since if key else span.since
    for _, _, frame in read_log(span.uri, begin, span.until, _KEYED if key else _BASE, span.revision):
        if predicted is not None:
            shared += _add_keyed(predicted, frame, columns, [name for name in slices if name in features])
        window = _since(frame, span.since)
        if window.height:
            rows, outputs = window["features"].struct.unnest(), _matrix(window["outputs"])
            profiler.update(rows, outputs)
            sampler.add(rows.select(features).with_columns(_series(prediction_values(watched.info, outputs))))
    profile = profiler.profile()
    notes = _notes(predicted, shared) if predicted else []
    return Gathered(profile.rows, profile, sampler.frame(), predicted, notes)


def _key_columns(key: Sequence[str], features: Sequence[str]) -> list[tuple[str, bool]]:
    """Returns where in the log each column of the key is, and whether that is a feature.

    What is none is the row's number, or the request's key.

    Raises:
        InputError: Two columns would have to be the request's key, which is one value.
    """
    found = [(name, True) if name in features else (_ROW if name == _ROW else _LOG_KEY, False) for name in key]
    if found.count(_REQUESTS) > 1:
        named = ", ".join(name for name, place in zip(key, found, strict=True) if place == _REQUESTS)
        raise InputError(
            f"monitor.labels.key: {named}: a request has one key (endpoint.sticky), and only features and `row` are "
            "logged besides; expected one of these columns at most"
        )
    return found


def _add_keyed(
    predicted: Predicted, frame: pl.DataFrame, columns: Sequence[tuple[str, bool]], slices: Sequence[str]
) -> int:
    """Adds a part's rows and returns how many were left out because their request's key says not which row is meant."""
    import polars as pl

    height = frame.height
    if _REQUESTS in columns and (_ROW, False) not in columns:
        frame = frame.filter((pl.col(_ROW).count().over("request") == 1) | pl.col(_LOG_KEY).is_null())
    features = frame["features"].struct
    found = [features.field(name) if is_feature else frame[name] for name, is_feature in columns]
    predicted.add(frame["time"], found, frame["outputs"], [features.field(name) for name in slices])
    return height - frame.height


def _notes(predicted: Predicted, shared: int) -> list[str]:
    notes = []
    if shared:
        notes.append(
            f"{shared:,} predictions share their request's key with other rows of it and were joined with no label: "
            "give the labels a column `row` (the place in the request, from 0) and name it in monitor.labels.key"
        )
    if predicted.keyless:
        notes.append(
            f"{predicted.keyless:,} predictions have no key and cannot be joined with a label: endpoint.sticky says "
            "where a request carries it"
        )
    if predicted.is_sample:
        notes.append("performance is measured on an even sample of the keys")
    return notes


def _since(frame: pl.DataFrame, since: float) -> pl.DataFrame:
    import polars as pl

    return frame.filter(pl.col("time").dt.epoch("us") >= int(since * 1e6))


def _matrix(outputs: pl.Series) -> npt.NDArray[np.float64]:
    """Returns lists of equal length as an array of shape (rows, outputs)."""
    return outputs.explode().to_numpy().reshape(len(outputs), -1)


def _series(values: npt.NDArray[np.generic]) -> pl.Series:
    import polars as pl

    return pl.Series(PREDICTION, values, dtype=pl.String if values.dtype == object else pl.Float64)
