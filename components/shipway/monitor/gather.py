"""What is gathered of predictions as they are read: counts, a sample, and what labels are joined to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from shipway.errors import InputError
from shipway.lineage.documents import (
    CategoryStatistics,
    NumberStatistics,
    PredictionStatistics,
    Statistics,
    read_document,
)
from shipway.lineage.files import write_text
from shipway.model.package import PackageInfo
from shipway.monitor.observation import MOST_FRAMES, PACKAGE, PREDICTIONS, STATISTICS

if TYPE_CHECKING:
    import polars as pl

    from shipway.model.profile import Profile
    from shipway.monitor.labels import Predicted


@dataclass(frozen=True)
class Watched:
    """What monitoring needs to know of the package that is watched.

    A package's folder and an observation have the same three files, so the model itself and the libraries that run it
    are not needed.

    Attributes:
        info: What it says of itself.
        statistics: The training part, column by column.
        predictions: Its predictions over the validation part; None for a package of an older Shipway.
    """

    info: PackageInfo
    statistics: Statistics
    predictions: NumberStatistics | CategoryStatistics | None

    @classmethod
    def read(cls, folder: Path) -> Watched:
        """Reads it from a package's folder, or an observation's.

        Raises:
            InputError: A file is missing or damaged.
        """
        try:
            info = PackageInfo.model_validate_json((folder / PACKAGE).read_bytes())
        except (OSError, ValidationError) as error:
            raise InputError(f"{folder / PACKAGE}: missing or damaged: {str(error).splitlines()[0]}") from error
        known = (folder / PREDICTIONS).is_file()
        predictions = read_document(PredictionStatistics, folder / PREDICTIONS).values if known else None
        return cls(info, read_document(Statistics, folder / STATISTICS), predictions)

    def write(self, folder: Path) -> None:
        """Writes the three files."""
        write_text(folder / PACKAGE, self.info.model_dump_json(indent=2) + "\n")
        self.statistics.write(folder / STATISTICS)
        if self.predictions is not None:
            PredictionStatistics(values=self.predictions).write(folder / PREDICTIONS)


@dataclass(frozen=True)
class Gathered:
    """What was read.

    Attributes:
        rows: Predictions in the window.
        profile: Their counts.
        sample: Some of the rows, a column a feature, and `(prediction)`; None where the rows are not to be had.
        predicted: What labels are joined to; None where none are asked for.
        notes: What could not be looked at, and why.
    """

    rows: int
    profile: Profile
    sample: pl.DataFrame | None
    predicted: Predicted | None
    notes: list[str] = field(default_factory=list)


class Sampler:
    """Draws an even sample of rows that come in parts; the same rows from the same parts.

    Each row gets a random number, and those with the lowest are kept.

    Args:
        most: How many rows at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._draw = np.random.default_rng(0)
        self._frames: list[pl.DataFrame] = []
        self._numbers: list[np.ndarray] = []
        self._limit = 1.0
        self._rows = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Adds rows; all frames have the same columns."""
        numbers = self._draw.random(frame.height)
        kept = numbers < self._limit
        self._frames.append(frame.filter(kept))
        self._numbers.append(numbers[kept])
        self._rows += self._frames[-1].height
        if self._rows > 2 * self._most or len(self._frames) > MOST_FRAMES:
            self._shrink()

    def frame(self) -> pl.DataFrame | None:
        """Returns the sample, in the order in which the rows came; None when there were none."""
        if not self._frames:
            return None
        self._shrink()
        return self._frames[0]

    def _shrink(self) -> None:
        import polars as pl

        frame, numbers = pl.concat(self._frames, rechunk=True), np.concatenate(self._numbers)
        if len(numbers) > self._most:
            self._limit = float(np.partition(numbers, self._most)[self._most])
            kept = numbers < self._limit
            frame, numbers = frame.filter(kept), numbers[kept]
        self._frames, self._numbers, self._rows = [frame], [numbers], frame.height
