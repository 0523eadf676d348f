"""A model package in this process, loaded and warm: what a slot of the server holds, and what a worker serves."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from shipway.errors import DigestMismatchError, InputError
from shipway.model.signature import RequestError

if TYPE_CHECKING:
    import polars as pl

    from shipway.model.signature import InputColumn

Array = npt.NDArray[Any]


class ServedInfo(Protocol):
    """What the server needs to know of a package (`PackageInfo` has it all)."""

    @property
    def name(self) -> str:
        """The model's own name."""

    @property
    def task(self) -> str:
        """binary, multiclass or regression."""

    @property
    def classes(self) -> list[str | int | bool]:
        """The classes, the positive one of a binary model last; [] for regression."""

    @property
    def inputs(self) -> "list[InputColumn]":
        """The raw columns that it takes."""

    @property
    def onnx(self) -> bool:
        """Whether it runs as one ONNX graph."""


class ServedPackage(Protocol):
    """What the server needs of a package (`shipway.model.package.Package` has it all)."""

    @property
    def info(self) -> ServedInfo:
        """The package's description."""

    @property
    def digest(self) -> str:
        """The digest of the package's bytes."""

    def predict_columns(self, columns: dict[str, Array]) -> Array:
        """Returns (rows, classes) probabilities or (rows, 1) values."""

    def columns_from_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
        """Returns the model's columns; raises RequestError where a row does not fit."""

    def golden(self) -> "pl.DataFrame":
        """Returns the package's golden rows."""


Loader = Callable[[Path, str | None], ServedPackage]


def load_package(path: Path, digest: str | None) -> ServedPackage:
    """Loads a real package; raises DigestMismatchError when `digest` is given and its bytes are others."""
    from shipway.model.package import Package

    return Package.load(path, digest=digest)


class ModelSlot:
    """One loaded package.

    Attributes:
        info: What it is.
        digest: The digest of the package's bytes.
    """

    __slots__ = ("_package", "digest", "info")

    def __init__(self, package: ServedPackage) -> None:
        self._package = package
        self.info = package.info
        self.digest = package.digest

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> Array:
        """Predicts raw rows.

        Returns:
            Array of shape (rows, classes) of probabilities, or (rows, 1) of values; every entry is finite.

        Raises:
            RequestError: A row does not fit the model, or drives its prediction out of the range of numbers.
        """
        package = self._package
        prediction = package.predict_columns(package.columns_from_rows(rows))
        if not np.isfinite(prediction).all():
            row = int(np.argmin(np.isfinite(prediction).all(axis=1)))
            raise RequestError(f"row {row}: the model gives no finite number for these values")
        return prediction

    def warm_up(self, what: str) -> None:
        """Predicts the golden rows once, so that the first caller does not pay for lazy set-up.

        Args:
            what: The model, to begin an error message.

        Raises:
            InputError: The package cannot predict its own golden rows.
        """
        rows = _golden_rows(self._package)
        if not rows:
            return
        try:
            prediction = self.predict(rows)
        except RequestError as error:
            raise InputError(f"{what} refuses its own golden rows: {error}") from error
        width = len(self.info.classes) or 1
        if prediction.shape != (len(rows), width):
            raise InputError(
                f"{what} predicts shape {prediction.shape} for its golden rows, expected {(len(rows), width)}"
            )


def open_slot(path: Path, digest: str | None, what: str, loader: Loader) -> ModelSlot:
    """Loads a package and warms it up.

    Args:
        path: The package's folder.
        digest: The digest it must have; None trusts the bytes.
        what: The model, to begin an error message.
        loader: Turns the path and the digest into a package.

    Raises:
        DigestMismatchError: The bytes are not those of `digest`.
        InputError: There is no usable package at `path`.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no model package there")
    package = loader(path, digest)
    if digest is not None and package.digest != digest:
        raise DigestMismatchError(f"{path}: the package's digest is {package.digest}, expected {digest}")
    slot = ModelSlot(package)
    slot.warm_up(what)
    return slot


def _golden_rows(package: ServedPackage) -> list[dict[str, Any]]:
    names = [column.name for column in package.info.inputs]
    return [{name: row[name] for name in names} for row in package.golden().iter_rows(named=True)]
