"""Reads what a version predicted for batches; see `lineage.batches` for how they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from shipway.dataset.parts import BATCH_ROWS
from shipway.errors import InputError
from shipway.lineage.batches import BATCH_FILE, PROFILE_FILE, BatchInfo
from shipway.lineage.storage import join, locate, read_bytes
from shipway.lineage.storage_errors import reaching
from shipway.model.profile import Profile, Profiler
from shipway.monitor.gather import Gathered, Watched
from shipway.monitor.labels import Predicted

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class Batches:
    """What is read of batch predictions.

    Attributes:
        place: A batch's folder, which is looked at whenever it was made; or the folder that has a folder a batch.
        digest: The digest of the watched package.
        since: Beginning of the window (inclusive), seconds since the epoch.
        until: Its end (exclusive).
        labelled_since: From when on predictions wait for labels, at or before `since`.
    """

    place: str
    digest: str
    since: float
    until: float
    labelled_since: float


@dataclass(frozen=True, slots=True)
class _Batch:
    uri: str
    info: BatchInfo


def gather_batches(asked: Batches, watched: Watched, key: Sequence[str], slices: Sequence[str]) -> Gathered:
    """Adds up the profiles of the batches in a window, and reads the predictions that wait for labels.

    Args:
        asked: What is read.
        watched: The package whose predictions they are.
        key: Columns of the labels' key; () when no labels are asked for.
        slices: Raw columns that performance is measured by, as far as the predictions carry them.

    Raises:
        InputError: The predictions cannot be read, lack a column of the key, or are another version's.
    """
    one = _read_batch(asked.place)
    if one is not None and one.info.digest != asked.digest:
        raise InputError(
            f"{asked.place}: these are predictions of version {one.info.version}, {one.info.digest}, and {asked.digest}"
            " is watched; name that version to watch it"
        )
    found = [one] if one is not None else _listed(asked)
    in_window = [batch for batch in found if one is not None or batch.info.time.timestamp() >= asked.since]
    profile = Profiler(watched.statistics, watched.info, watched.predictions).profile()
    for batch in in_window:
        profile = profile.plus(_profile(batch))
    predicted = Predicted(key) if key else None
    if predicted is not None:
        for batch in found:
            _add_predictions(predicted, batch, slices)
    notes = [] if in_window else [f"no batch of this version was begun in the window, below {asked.place}"]
    if predicted is not None and predicted.keyless:
        notes.append(f"{predicted.keyless:,} predictions have a null in their key and cannot be joined with a label")
    if predicted is not None and predicted.is_sample:
        notes.append("performance is measured on an even sample of the keys")
    return Gathered(profile.rows, profile, None, predicted, notes)


def _listed(asked: Batches) -> list[_Batch]:
    """Returns the finished batches of the watched version that are in time for a label, the oldest first."""
    with reaching(asked.place):
        filesystem, path = locate(asked.place)
        try:
            entries = filesystem.ls(path, detail=True)
        except FileNotFoundError as error:
            raise InputError(
                f"{asked.place}: no such folder (monitor.predictions); expected the folder of inference.output"
            ) from error
    names = sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory")
    read = [_read_batch(join(asked.place, name)) for name in names if not name.startswith(".")]
    found = [
        batch
        for batch in read
        if batch is not None
        and batch.info.digest == asked.digest
        and asked.labelled_since <= batch.info.time.timestamp() < asked.until
    ]
    return sorted(found, key=lambda batch: (batch.info.time, batch.uri))


def _read_batch(uri: str) -> _Batch | None:
    """Returns a batch; None for a folder that is none, or is unfinished."""
    content = read_bytes(join(uri, BATCH_FILE))
    if content is None:
        return None
    try:
        return _Batch(uri, BatchInfo.model_validate_json(content))
    except ValidationError as error:
        raise InputError(f"{join(uri, BATCH_FILE)}: no description of a batch: {error.errors()[0]['msg']}") from error


def _profile(batch: _Batch) -> Profile:
    place = join(batch.uri, PROFILE_FILE)
    content = read_bytes(place)
    if content is None:
        raise InputError(f"{place}: missing; run batch inference again")
    try:
        return Profile.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{place}: no profile of a batch: {error.errors()[0]['msg']}") from error


def _add_predictions(predicted: Predicted, batch: _Batch, slices: Sequence[str]) -> None:
    import polars as pl
    import pyarrow.parquet as pq

    info = batch.info
    there = ["row", *info.key, *info.columns]
    if missing := [name for name in predicted.key if name not in there]:
        raise InputError(
            f"monitor.labels.key: the predictions in {batch.uri} have no column {missing[0]!r}; they have "
            f"{', '.join(there)}; inference.columns adds others"
        )
    outputs = "outputs" if info.task == "multiclass" else "prediction"
    carried = [name for name in slices if name in there]
    columns = list(dict.fromkeys([*predicted.key, *carried, outputs]))
    for part in info.parts:
        place = join(batch.uri, part)
        with reaching(place):
            filesystem, path = locate(place)
            file = filesystem.open(path, "rb")
        with file:
            with reaching(place):
                reader = pq.ParquetFile(file).iter_batches(batch_size=BATCH_ROWS, columns=columns)
            while True:
                with reaching(place):
                    rows = next(reader, None)
                    if rows is None:
                        break
                    frame = pl.DataFrame(pl.from_arrow(rows))
                time = pl.Series([info.time.timestamp()]).new_from_index(0, frame.height)
                keys = [frame[name] for name in predicted.key]
                predicted.add(time, keys, _outputs(frame[outputs], info.task), [frame[name] for name in carried])


def _outputs(values: pl.Series, task: str) -> pl.Series:
    """Returns all probabilities, or the value, as a list a row."""
    import polars as pl

    if task == "multiclass":
        return values
    numbers = values.to_numpy()
    columns = [1 - numbers, numbers] if task == "binary" else [numbers]
    return pl.Series(np.stack(columns, axis=1)).arr.to_list()
