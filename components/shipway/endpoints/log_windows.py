"""Reads a prediction log (see `log_parts`): windows of counts, outcomes joined by key, and requests to send again.

The log holds answered requests only, and of them the share that `endpoint.log.share` says; whoever counts errors asks
the platform's own metrics. Memory grows with the rows between the two moments, some hundred bytes each.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shipway.endpoints.log_parts import METADATA, Part, parts
from shipway.endpoints.window import LATENCY_EDGES_MS, FeatureCounts, PredictionCounts, Window
from shipway.errors import InputError
from shipway.lineage.storage import locate
from shipway.lineage.storage_errors import reaching
from shipway.model.profile import class_name

if TYPE_CHECKING:
    import polars as pl

    from shipway.spec.rollout import OutcomesSection

Values = npt.NDArray[np.float64]

_AHEAD = 4


@dataclass(frozen=True)
class RevisionOutcomes:
    """What became of a revision's predictions.

    Attributes:
        positive: Scores of the keys whose true label is the positive class; empty without labels, or for another task.
        negative: Scores of the keys with the other label.
        business: Name of a business metric -> its values, one a key.
    """

    positive: Values
    negative: Values
    business: dict[str, Values] = field(default_factory=dict)


def log_windows(uri: str, since: float, until: float) -> dict[str, Window]:
    """Returns what the log says that each revision answered between two moments, by its id.

    Args:
        uri: The log's folder, or fsspec URI; one that is not there yet has no windows.
        since: Beginning (inclusive), seconds since the epoch.
        until: End (exclusive).

    Raises:
        InputError: The log cannot be read.
    """
    found: dict[str, Window] = {}
    for part, metadata, frame in read_log(uri, since, until):
        window = _window(part.revision, since, until, metadata, frame)
        known = found.get(part.revision)
        found[part.revision] = known.plus(window) if known else window
    return found


def join_outcomes(uri: str, section: OutcomesSection, since: float, until: float) -> dict[str, RevisionOutcomes]:
    """Joins the predictions between two moments with what became of them, by key.

    A key counts once, for its last prediction. A key without an outcome, or with a null in it, does not count.

    Args:
        uri: The log's folder, or fsspec URI.
        section: Where the outcomes are, and which columns count.
        since: Beginning (inclusive), seconds since the epoch.
        until: End (exclusive).

    Returns:
        By revision; those without any joined key are left out.

    Raises:
        InputError: The log or the outcomes cannot be read, or the outcomes lack a column.
    """
    import polars as pl

    positives: dict[str, str] = {}
    frames = []
    for part, metadata, frame in read_log(uri, since, until, ("time", "key", "prediction")):
        positives[part.revision] = class_name(metadata["classes"][1]) if metadata["task"] == "binary" else ""
        frames.append(frame.drop_nulls("key").with_columns(revision=pl.lit(part.revision)))
    if not frames:
        return {}
    log = pl.concat(frames).sort("time").unique("key", keep="last")
    joined = log.join(_outcomes(section), on="key", how="inner")
    return {
        str(name): _revision_outcomes(frame, section, positives[str(name)])
        for (name,), frame in joined.group_by("revision")
    }


def logged_rows(uri: str, most: int, until: float) -> list[dict[str, Any]]:
    """Returns the rows that were asked last before a moment, the oldest of them first, to send them again.

    Args:
        uri: The log's folder, or fsspec URI.
        most: How many rows at most.
        until: The moment, seconds since the epoch.

    Raises:
        InputError: The log cannot be read.
    """
    found: list[dict[str, Any]] = []
    with reaching(uri):
        filesystem, path = locate(uri)
        listed = parts(filesystem.find(path))
    for part in sorted(listed, key=lambda part: part.last, reverse=True):
        if part.first >= until or len(found) >= most:
            continue
        opened = _open_part(uri, filesystem, part, ("time", "features"))
        if opened is not None:
            rows = _between(opened[1], 0.0, until)["features"].to_list()
            found = rows[-(most - len(found)) :] + found
    return found


def as_text(series: pl.Series) -> pl.Series:
    """Returns values as a key or class is written: whole numbers without a point, booleans as in JSON, times in UTC."""
    import polars as pl

    if series.dtype.is_float():
        whole = series.cast(pl.Int64, strict=False)
        text = pl.Series(series.name, series.fill_nan(None).cast(pl.String))
        is_whole = (whole.cast(pl.Float64) == series).fill_null(value=False)
        return whole.cast(pl.String).zip_with(is_whole, text)
    if isinstance(series.dtype, pl.Decimal) and series.dtype.scale:
        return series.cast(pl.String).str.strip_chars_end("0").str.strip_chars_end(".")
    if series.dtype in (pl.Date, pl.Datetime):
        series = series.cast(pl.Datetime("us"))
    return series.cast(pl.String)


def read_log(
    uri: str, since: float, until: float, columns: Sequence[str] | None = None, revision: str = ""
) -> Iterator[tuple[Part, Mapping[str, Any], pl.DataFrame]]:
    """Yields the parts of a log with what they hold between two moments, the oldest first, a few in memory at a time.

    Args:
        uri: The log's folder, or fsspec URI; one that is not there yet has no parts.
        since: Beginning (inclusive), seconds since the epoch.
        until: End (exclusive).
        columns: The columns to read, `time` among them; default: all.
        revision: The revision to read, with its copies in other roles (see `revision_id`); default: all.

    Yields:
        The part, its metadata, and its rows, of which there is at least one.

    Raises:
        InputError: The log cannot be read.
    """
    with reaching(uri):
        filesystem, path = locate(uri)
        listed = parts(filesystem.find(path))
    wanted = [
        part
        for part in listed
        if part.first < until
        and part.last >= since
        and (not revision or part.revision == revision or part.revision.startswith(f"{revision}-"))
    ]
    for part, opened in _opened(uri, filesystem, wanted, columns):
        if opened is None:
            continue
        metadata, frame = opened
        frame = _between(frame, since, until)
        if frame.height:
            yield part, metadata, frame


def _opened(
    uri: str, filesystem: Any, wanted: Sequence[Part], columns: Sequence[str] | None
) -> Iterator[tuple[Part, tuple[Mapping[str, Any], pl.DataFrame] | None]]:
    """Yields parts in order, with a few read ahead: a busy server writes thousands a day, and a store is far away."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting: deque[tuple[Part, Future[tuple[Mapping[str, Any], pl.DataFrame] | None]]] = deque()
        for part in wanted:
            waiting.append((part, pool.submit(_open_part, uri, filesystem, part, columns)))
            if len(waiting) == _AHEAD:
                ready, opened = waiting.popleft()
                yield ready, opened.result()
        for ready, opened in waiting:
            yield ready, opened.result()


def _open_part(
    uri: str, filesystem: Any, part: Part, columns: Sequence[str] | None
) -> tuple[Mapping[str, Any], pl.DataFrame] | None:
    """Returns a part's metadata and rows; None where it was removed as too old meanwhile."""
    import polars as pl

    with reaching(filesystem.unstrip_protocol(part.path)):
        try:
            with filesystem.open(part.path, "rb") as file:
                metadata = pl.read_parquet_metadata(file)
                file.seek(0)
                frame = pl.read_parquet(file, columns=list(columns) if columns else None)
        except FileNotFoundError:
            return None
    if METADATA not in metadata:
        raise InputError(f"{uri}: {part.path} is no part of a prediction log (its metadata lack {METADATA!r})")
    return json.loads(metadata[METADATA]), frame


def _between(frame: pl.DataFrame, since: float, until: float) -> pl.DataFrame:
    import polars as pl

    moment = pl.col("time").dt.epoch("us")
    return frame.filter((moment >= int(since * 1e6)) & (moment < int(until * 1e6)))


def _window(revision: str, since: float, until: float, metadata: Mapping[str, Any], frame: pl.DataFrame) -> Window:
    milliseconds = frame.filter(frame["row"] == 0)["seconds"].to_numpy() * 1000
    bins = np.searchsorted(np.array(LATENCY_EDGES_MS), milliseconds, side="left")
    return Window(
        revision=revision,
        since=since,
        until=until,
        requests=len(milliseconds),
        latency=np.bincount(bins, minlength=len(LATENCY_EDGES_MS) + 1).tolist(),
        predictions=_predictions(metadata, frame),
        features=_features(frame),
    )


def _predictions(metadata: Mapping[str, Any], frame: pl.DataFrame) -> PredictionCounts | None:
    edges, labels = metadata["edges"], metadata["labels"]
    if labels:
        counts = dict(frame["label"].value_counts().iter_rows())
        return PredictionCounts(kind="class", labels=labels, counts=[counts.get(label, 0) for label in labels])
    if not edges:
        return None
    bins = np.searchsorted(np.array(edges), frame["prediction"].to_numpy(), side="right")
    return PredictionCounts(kind="number", edges=edges, counts=np.bincount(bins, minlength=len(edges) + 1).tolist())


def _features(frame: pl.DataFrame) -> dict[str, FeatureCounts]:
    import polars as pl

    found = {}
    for series in frame["features"].struct.unnest():
        values = series.cast(pl.Float64) if series.dtype != pl.String else pl.Series([], dtype=pl.Float64)
        found[series.name] = FeatureCounts(
            rows=len(series), nulls=series.null_count(), total=values.sum(), squares=(values * values).sum()
        )
    return found


def _outcomes(section: OutcomesSection) -> pl.DataFrame:
    """Returns the outcomes: key as text, label as text, business metrics as numbers."""
    import polars as pl

    with reaching(section.uri):
        filesystem, path = locate(section.uri)
        if any(sign in path for sign in "*?["):
            files = sorted(filesystem.glob(path))
        else:
            files = sorted(name for name in filesystem.find(path) if name == path or name.endswith(".parquet"))
        if not files:
            raise InputError(f"{section.uri}: no Parquet file there (rollout.outcomes.uri)")
        frames = []
        for name in files:
            with filesystem.open(name, "rb") as file:
                frames.append(pl.read_parquet(file))
    wanted = [section.key, *([section.label] if section.label else []), *section.business.values()]
    selected = []
    for name, frame in zip(files, frames, strict=True):
        if missing := [column for column in wanted if column not in frame.columns]:
            raise InputError(
                f"{section.uri}: {name} has no column {missing[0]!r} (rollout.outcomes); it has "
                f"{', '.join(frame.columns)}"
            )
        selected.append(_outcome_columns(section, frame))
    return pl.concat(selected).drop_nulls("key").unique("key", keep="last", maintain_order=True)


def _outcome_columns(section: OutcomesSection, frame: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    columns = [as_text(frame[section.key]).alias("key")]
    if section.label:
        columns.append(as_text(frame[section.label]).alias("label"))
    for name, column in section.business.items():
        try:
            columns.append(frame[column].cast(pl.Float64).alias(f"business.{name}"))
        except pl.exceptions.PolarsError as error:
            raise InputError(
                f"{section.uri}: expected numbers in column {column!r} (rollout.outcomes.business.{name}), found "
                f"{frame[column].dtype}"
            ) from error
    return pl.DataFrame(columns)


def _revision_outcomes(frame: pl.DataFrame, section: OutcomesSection, positive: str) -> RevisionOutcomes:
    import polars as pl

    none = np.zeros(0)
    scores, others = none, none
    if section.label and positive:
        known = frame.drop_nulls("label")
        # Outcomes may write true as 1, or the other way round, whatever the labels of the training were.
        truth = {"true": "1", "false": "0"}
        label = pl.col("label").replace(truth) if positive in ("true", "1") else pl.col("label")
        is_positive = label == truth.get(positive, positive)
        scores = known.filter(is_positive)["prediction"].to_numpy()
        others = known.filter(~is_positive)["prediction"].to_numpy()
    business = {name: frame[f"business.{name}"].drop_nulls().drop_nans().to_numpy() for name in section.business}
    return RevisionOutcomes(scores, others, business)
