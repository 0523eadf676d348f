"""Joins predictions with the labels that have come since, by key, in bounded memory.

Predictions are gathered first, each with its key as text; then the labels are read through once, a batch at a time.
Of more predictions than may be kept an even sample by key is: all of a key's predictions, or none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shipway.endpoints.log_windows import as_text
from shipway.errors import InputError
from shipway.lineage.storage import locate
from shipway.lineage.storage_errors import reaching
from shipway.model.profile import class_name
from shipway.monitor.observation import MOST_FRAMES, SLICE, located

if TYPE_CHECKING:
    import polars as pl

    from shipway.model.package import PackageInfo
    from shipway.spec import DataSection
    from shipway.spec.watch import LabelsSection

MOST_PREDICTIONS = 1_000_000
_BATCH_ROWS = 262_144
_KEY = "key."


class Predicted:
    """Predictions that wait for their labels.

    Args:
        key: The columns of the key.
        most: How many predictions are kept at most.
    """

    def __init__(self, key: Sequence[str], most: int = MOST_PREDICTIONS) -> None:
        self.key = list(key)
        self.keyless = 0
        self.is_sample = False
        self._most = most
        self._rows = 0
        self._limit: int | None = None
        self._frames: list[pl.DataFrame] = []

    @property
    def names(self) -> list[str]:
        """What the columns of the key are called here."""
        return [f"{_KEY}{name}" for name in self.key]

    def add(self, time: pl.Series, key: Sequence[pl.Series], outputs: pl.Series, slices: Sequence[pl.Series]) -> None:
        """Adds predictions.

        Args:
            time: When each was made, anything that can be ordered.
            key: The columns of the key, in order.
            outputs: All probabilities of each, or its value: a list a row.
            slices: Raw columns that slices are made of.
        """
        import polars as pl

        frame = pl.DataFrame(
            [
                time.alias("time"),
                *(as_text(series).alias(name) for name, series in zip(self.names, key, strict=True)),
                outputs.alias("outputs"),
                *(series.alias(f"{SLICE}{series.name}") for series in slices),
            ]
        )
        keyed = frame.drop_nulls(self.names)
        self.keyless += frame.height - keyed.height
        if self._limit is not None:
            keyed = self._sampled(keyed)
        self._frames.append(keyed)
        self._rows += keyed.height
        if self._rows > 2 * self._most:
            self._shrink()
        elif len(self._frames) > MOST_FRAMES:
            self._frames = [self._merged()]

    def frame(self) -> pl.DataFrame | None:
        """Returns the last prediction of each key; None where there is none."""
        if self._rows > self._most:
            self._shrink()
        if not self._frames:
            return None
        return self._last()

    def _last(self) -> pl.DataFrame:
        merged = self._merged().sort("time", maintain_order=True)
        return merged.unique(self.names, keep="last", maintain_order=True)

    def _merged(self) -> pl.DataFrame:
        import polars as pl

        # Parts may differ in the type of a column, as one that was null throughout.
        return pl.concat(self._frames, how="vertical_relaxed", rechunk=True)

    def _shrink(self) -> None:
        """Keeps the last prediction of each key, and of too many keys those with the lowest hashes."""
        from shipway.dataset.content import row_hashes

        frame = self._last()
        if frame.height > self._most:
            hashes = row_hashes(frame, self.names)
            self._limit = int(np.partition(hashes, self._most)[self._most])
            frame = frame.filter(hashes < np.uint64(self._limit))
            self.is_sample = True
        self._frames, self._rows = [frame], frame.height

    def _sampled(self, frame: pl.DataFrame) -> pl.DataFrame:
        from shipway.dataset.content import row_hashes

        return frame.filter(row_hashes(frame, self.names) < np.uint64(self._limit or 0)) if frame.height else frame


def join_labels(
    predicted: pl.DataFrame, key: Sequence[str], section: LabelsSection, data: DataSection, info: PackageInfo
) -> tuple[pl.DataFrame, int]:
    """Returns the predictions whose label has come, and how many labels do not count.

    A key's last label counts, by the order of the files and rows; one that is null has not come.

    Args:
        predicted: What `Predicted.frame` returned.
        key: The columns of the key.
        section: The spec's section monitor.labels.
        data: The spec's data section.
        info: The watched package.

    Returns:
        Columns `truth`, `outputs` and `slice.COLUMN`; and the number of labels that the model does not know, or that
        are no finite numbers.

    Raises:
        InputError: The labels cannot be read, or lack a column.
    """
    import polars as pl

    names = [f"{_KEY}{name}" for name in key]
    label = section.label or data.label
    wanted = predicted.select(names)
    found = []
    for uri, frame in _label_batches(section, [*key, label]):
        columns = [as_text(frame[column]).alias(name) for column, name in zip(key, names, strict=True)]
        keyed = pl.DataFrame([*columns, _truth(frame[label], info, uri).alias("truth")])
        known = frame[label].is_not_null()
        found.append(keyed.filter(known).join(wanted, on=names, how="semi"))
    if not found:
        return predicted.clear().drop(names).drop("time").with_columns(truth=pl.lit(None, pl.Float64)), 0
    labels = pl.concat(found).unique(names, keep="last", maintain_order=True)
    joined = predicted.join(labels, on=names, how="inner", maintain_order="left").drop([*names, "time"])
    counted = joined.drop_nulls("truth")
    return counted, joined.height - counted.height


def has_labels(section: LabelsSection) -> bool:
    """Tells whether there is any file of labels.

    Raises:
        InputError: The store cannot be reached, or refuses.
    """
    return bool(_files(located(section.uri))[1])


def _truth(labels: pl.Series, info: PackageInfo, uri: str) -> pl.Series:
    """Returns class indices, or values; null for what the model does not know, and for no finite number."""
    import polars as pl

    if info.task != "regression":
        known = {class_name(value): place for place, value in enumerate(info.classes)}
        # As in evaluate, 1 and true are one class, and so are 0 and false.
        if labels.dtype == pl.Boolean and not any(isinstance(value, bool) for value in info.classes):
            labels = labels.cast(pl.Int64)
        elif labels.dtype.is_numeric():
            known |= {str(int(value)): place for place, value in enumerate(info.classes) if isinstance(value, bool)}
        text = as_text(labels)
        return text.replace_strict(list(known), list(known.values()), default=None, return_dtype=pl.Int64)
    try:
        values = labels.cast(pl.Float64)
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"{uri}: expected numbers in column {labels.name!r} (monitor.labels.label), found {labels.dtype}"
        ) from error
    finite = values.is_finite().fill_null(value=False)
    return values.zip_with(finite, pl.Series([None], dtype=pl.Float64).new_from_index(0, len(values)))


def _files(uri: str) -> tuple[Any, list[str]]:
    with reaching(uri):
        filesystem, path = locate(uri)
        if any(sign in path for sign in "*?["):
            return filesystem, sorted(filesystem.glob(path))
        return filesystem, sorted(name for name in filesystem.find(path) if name == path or name.endswith(".parquet"))


def _label_batches(section: LabelsSection, columns: list[str]) -> Iterator[tuple[str, pl.DataFrame]]:
    import polars as pl
    import pyarrow.parquet as pq

    filesystem, files = _files(located(section.uri))
    for name in files:
        # Not around the yield: what the caller does there is no fault of the store's.
        with reaching(section.uri):
            file = filesystem.open(name, "rb")
            parquet = pq.ParquetFile(file)
        with file:
            there = parquet.schema_arrow.names
            if missing := [column for column in columns if column not in there]:
                raise InputError(
                    f"{section.uri}: {name} has no column {missing[0]!r} (monitor.labels); it has {', '.join(there)}"
                )
            reader = parquet.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
            while True:
                with reaching(section.uri):
                    batch = next(reader, None)
                    if batch is None:
                        break
                    frame = pl.DataFrame(pl.from_arrow(batch))
                yield name, frame
