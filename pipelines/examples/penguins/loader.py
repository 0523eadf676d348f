"""344 penguins of the Palmer archipelago, from the package `palmerpenguins` on PyPI (data: CC0)."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from shipway.errors import InputError

PACKAGE = "palmerpenguins"


def load() -> pl.DataFrame:
    """Reads the package's penguins.csv as it is; the package itself is not imported (that would import pandas).

    Returns:
        344 rows: `species`, `island`, four measurements, `sex` and `year`. Two penguins lack every measurement, eleven
        their sex.

    Raises:
        InputError: The package is not installed, or lacks its file.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise _not_installed()
    file = Path(spec.origin).parent / "data" / "penguins.csv"
    if not file.is_file():
        raise InputError(f"{file}: expected there by {PACKAGE}, not found; reinstall the package")
    return pl.read_csv(file, null_values="NA")


def fingerprint() -> str:
    """Returns the data package's name and version: the data change with it and with nothing else."""
    try:
        return f"{PACKAGE}=={version(PACKAGE)}"
    except PackageNotFoundError as error:
        raise _not_installed() from error


def _not_installed() -> InputError:
    return InputError(
        f"the package {PACKAGE} is not installed; it comes with the extra `examples` "
        "(make setup, or pip install 'shipway[examples]')"
    )
