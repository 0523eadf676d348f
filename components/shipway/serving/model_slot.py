"""The slot that holds the served revision of a model, and swaps it without dropping a request.

A request takes the slot's revision once and keeps it to its end, so that an answer's headers always name the model that
made it, also while another revision is swapped in.
"""

import asyncio
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

    name: str
    task: str
    classes: list[str | int | bool]
    inputs: "list[InputColumn]"
    onnx: bool


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


class Revision:
    """One loaded package, warm and ready to answer.

    Attributes:
        name: The model's name, as in the URL.
        version: The registry's version.
        digest: The digest of the package's bytes.
        package: The package.
        headers: `x-model-name`, `x-model-version` and `x-model-digest`, for every prediction.
    """

    __slots__ = ("digest", "headers", "name", "package", "version")

    def __init__(self, name: str, version: str, package: ServedPackage) -> None:
        self.name = name
        self.version = version
        self.package = package
        self.digest = package.digest
        self.headers: tuple[tuple[bytes, bytes], ...] = (
            (b"x-model-name", name.encode("latin-1")),
            (b"x-model-version", version.encode("latin-1")),
            (b"x-model-digest", self.digest.encode("latin-1")),
        )

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> Array:
        """Predicts raw rows.

        Returns:
            Array of shape (rows, classes) of probabilities, or (rows, 1) of values; every entry is finite.

        Raises:
            RequestError: A row does not fit the model, or drives its prediction out of the range of numbers.
        """
        package = self.package
        prediction = package.predict_columns(package.columns_from_rows(rows))
        if not np.isfinite(prediction).all():
            row = int(np.argmin(np.isfinite(prediction).all(axis=1)))
            raise RequestError(f"row {row}: the model gives no finite number for these values")
        return prediction

    def warm_up(self) -> None:
        """Predicts the golden rows once, so that the first caller does not pay for lazy set-up.

        Raises:
            InputError: The package cannot predict its own golden rows.
        """
        rows = golden_rows(self.package)
        if not rows:
            return
        try:
            prediction = self.predict(rows)
        except RequestError as error:
            raise InputError(
                f"model {self.name} version {self.version} refuses its own golden rows: {error}"
            ) from error
        width = len(self.package.info.classes) or 1
        if prediction.shape != (len(rows), width):
            raise InputError(
                f"model {self.name} version {self.version} predicts shape {prediction.shape} for its golden rows, "
                f"expected {(len(rows), width)}"
            )


def golden_rows(package: ServedPackage) -> list[dict[str, Any]]:
    """Returns a package's golden rows as JSON rows of the columns that the model takes."""
    names = [column.name for column in package.info.inputs]
    return [{name: row[name] for name in names} for row in package.golden().iter_rows(named=True)]


class ModelSlot:
    """Holds at most one revision.

    Args:
        name: The model's name, as in the URL.
        loader: Turns a path and the digest it must have into a package.
    """

    def __init__(self, name: str, loader: Loader = load_package) -> None:
        self.name = name
        self.current: Revision | None = None
        self._loader = loader
        self._one_at_a_time = asyncio.Lock()

    async def load(self, path: Path, version: str, digest: str | None) -> tuple[Revision, Revision | None]:
        """Loads a package beside the served one, warms it up, then swaps; a failure leaves the served one as it is.

        Args:
            path: The package's folder.
            version: The registry's version.
            digest: The digest it must have; None trusts the bytes.

        Returns:
            The new revision, and the one it replaced.

        Raises:
            DigestMismatchError: The bytes are not those of `digest`.
            InputError: There is no usable package at `path`.
        """
        async with self._one_at_a_time:
            served = self.current
            if served is not None and digest is not None and (served.version, served.digest) == (version, digest):
                return served, served
            revision = await asyncio.to_thread(self._open, path, version, digest)
            self.current = revision
            return revision, served

    async def unload(self) -> Revision | None:
        """Empties the slot and returns what it held."""
        async with self._one_at_a_time:
            served, self.current = self.current, None
            return served

    def _open(self, path: Path, version: str, digest: str | None) -> Revision:
        if not path.is_dir():
            raise InputError(f"{path}: no model package there")
        package = self._loader(path, digest)
        if digest is not None and package.digest != digest:
            raise DigestMismatchError(f"{path}: the package's digest is {package.digest}, expected {digest}")
        revision = Revision(self.name, version, package)
        revision.warm_up()
        return revision
