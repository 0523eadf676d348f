"""A content hash of rows: the same for the same rows, wherever they come from and however they are cut up.

Each row gets two 64-bit hashes; both are summed modulo 2^64 over all rows, so that neither the order of the rows nor
the parts they come in matter and partial sums merge. A value is hashed by what it is, not by how it is stored: 5 is the
same as an 8-bit integer or as 5.0, a date the same as midnight of that day, NaN the same as null, and the order of
columns does not count. Bits are mixed with the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable
pseudorandom number generators", OOPSLA 2014). The hash tells data apart; it is no defence against forgery.
"""

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from shipway.lineage.digests import digest_json

_U64 = npt.NDArray[np.uint64]
_LANES = (b"shipway-a", b"shipway-b")
_NULL = np.uint64(0x9E3779B97F4A7C15)
_EXACT = 2**53


class ContentHash:
    """Sums row hashes batch by batch."""

    def __init__(self) -> None:
        self._sums = [0, 0]
        self._rows = 0
        self._columns: list[str] | None = None

    def update(self, frame: pl.DataFrame) -> None:
        """Adds the rows of a frame.

        Args:
            frame: Any number of rows; every frame must have the same column names.

        Raises:
            ValueError: The column names differ from the first frame's.
        """
        columns = sorted(frame.columns)
        if self._columns is None:
            self._columns = columns
        elif columns != self._columns:
            raise ValueError(f"columns {columns} differ from the first frame's {self._columns}")
        if frame.height == 0:
            return
        for lane, hashes in enumerate(_row_lanes(frame, columns)):
            self._sums[lane] = (self._sums[lane] + int(hashes.sum(dtype=np.uint64))) % 2**64
        self._rows += frame.height

    def digest(self) -> str:
        """Returns the hash of all rows so far, as `sha256:...`."""
        return digest_json({"columns": self._columns or [], "rows": self._rows, "sums": [str(s) for s in self._sums]})


def row_hashes(frame: pl.DataFrame, columns: list[str], seed: int = 0) -> _U64:
    """Returns a 64-bit hash of some columns for each row: the same on every machine, for equal values equal.

    Args:
        frame: The rows.
        columns: The columns that count; their order does not.
        seed: Another seed gives unrelated hashes.

    Returns:
        Array of shape (rows,), uint64, uniform over its range.
    """
    hashes, _ = _row_lanes(frame, sorted(columns))
    return _mix(hashes ^ _mix(np.full(1, seed, dtype=np.uint64)))


def _row_lanes(frame: pl.DataFrame, columns: list[str]) -> list[_U64]:
    bits = {name: _value_bits(frame[name]) for name in columns}
    lanes = []
    for lane, salt in enumerate(_LANES):
        total = np.zeros(frame.height, dtype=np.uint64)
        for name in columns:
            total += _mix(bits[name][lane] ^ _salt(salt, name))
        lanes.append(_mix(total))
    return lanes


@lru_cache(maxsize=4096)
def _salt(lane: bytes, column: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(column.encode(), digest_size=8, key=lane).digest(), "little"))


def _mix(values: _U64) -> _U64:
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _value_bits(column: pl.Series) -> tuple[_U64, _U64]:
    """Returns the two lanes of 64-bit patterns for a column's values."""
    dtype = column.dtype
    if dtype in (pl.Date, pl.Datetime):
        as_time = column.cast(pl.Datetime("us")) if dtype == pl.Date else column.dt.cast_time_unit("us")
        return _twice(_number_bits(as_time.to_physical()))
    if dtype == pl.Boolean or dtype.is_numeric():
        return _twice(_number_bits(column))
    return _string_bits(column.cast(pl.String))


def _twice(bits: _U64) -> tuple[_U64, _U64]:
    return bits, bits


def _number_bits(column: pl.Series) -> _U64:
    null = column.is_null().to_numpy()
    if column.dtype.is_float() or column.dtype.is_decimal():
        # Adding 0.0 turns -0.0 into 0.0.
        floats = column.cast(pl.Float64).fill_null(0.0).to_numpy() + 0.0
        null = null | np.isnan(floats)
        bits = floats.view(np.uint64)
    else:
        integers = column.cast(pl.Int64, wrap_numerical=True).fill_null(0).to_numpy()
        # Integers that a float64 holds exactly are hashed as that float, so that 5 and 5.0 agree.
        exact = np.abs(integers) <= _EXACT
        bits = np.where(exact, (integers.astype(np.float64) + 0.0).view(np.uint64), integers.view(np.uint64))
    return np.where(null, _NULL, bits)


def _string_bits(column: pl.Series) -> tuple[_U64, _U64]:
    # Each distinct value is hashed once.
    unique = column.drop_nulls().unique()
    hashes = [hashlib.blake2b(value.encode(), digest_size=16).digest() for value in unique]
    table = np.frombuffer(b"".join(hashes), dtype="<u8").reshape(-1, 2).astype(np.uint64)
    codes = column.replace_strict(unique, pl.int_range(len(unique), eager=True), default=None, return_dtype=pl.Int64)
    index = codes.fill_null(len(unique)).to_numpy()
    padded = np.vstack([table, np.array([[_NULL, _NULL]], dtype=np.uint64)])
    return padded[index, 0], padded[index, 1]
