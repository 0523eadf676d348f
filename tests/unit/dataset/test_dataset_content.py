"""The content hash: blind to order, parts, formats and widths, and to nothing else."""

import datetime as dt
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from shipway.dataset import ContentHash, row_hashes

INTEGERS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
FLOATS = st.one_of(st.none(), st.floats(allow_nan=False))
TEXTS = st.one_of(st.none(), st.text(max_size=8))
BOOLEANS = st.one_of(st.none(), st.booleans())
DATES = st.one_of(st.none(), st.dates(dt.date(1700, 1, 1), dt.date(2200, 1, 1)))
TIMES = st.one_of(st.none(), st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)))
ROWS = st.lists(st.tuples(INTEGERS, FLOATS, TEXTS, BOOLEANS, DATES, TIMES), min_size=1, max_size=12)
SCHEMA = {"i": pl.Int64, "f": pl.Float64, "s": pl.String, "b": pl.Boolean, "d": pl.Date, "t": pl.Datetime("us")}


def frame(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def version(*frames: pl.DataFrame) -> str:
    content = ContentHash()
    for part in frames:
        content.update(part)
    return content.digest()


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, data=st.data())
def test_order_and_parts_do_not_count(rows: list[tuple[Any, ...]], data: st.DataObject) -> None:
    whole = frame(rows)
    shuffled = frame(data.draw(st.permutations(rows)))
    columns = data.draw(st.permutations(list(SCHEMA)))
    cut = data.draw(st.integers(0, len(rows)))
    assert version(shuffled.head(cut).select(columns), shuffled.slice(cut)) == version(whole)


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, data=st.data())
def test_any_changed_value_counts(rows: list[tuple[Any, ...]], data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, len(SCHEMA) - 1))
    kind = [INTEGERS, FLOATS, TEXTS, BOOLEANS, DATES, TIMES][column]
    old = rows[row][column]
    # -0.0 and 0.0 are one value.
    new = data.draw(kind.filter(lambda value: value != old))
    changed = list(rows)
    changed[row] = tuple(new if index == column else value for index, value in enumerate(rows[row]))
    assert version(frame(changed)) != version(frame(rows))


def test_values_moved_between_columns_or_rows_count() -> None:
    assert version(pl.DataFrame({"a": [1], "b": [2]})) != version(pl.DataFrame({"a": [2], "b": [1]}))
    assert version(pl.DataFrame({"a": [1, 2], "b": [3, 4]})) != version(pl.DataFrame({"a": [1, 2], "b": [4, 3]}))


def test_repeated_rows_and_names_count() -> None:
    one, other = pl.DataFrame({"a": [1]}), pl.DataFrame({"b": [1]})
    assert version(one) != version(one, one) != version(one, one, one)
    assert version(one) != version(other)
    assert version(one.clear()) != version(other.clear())


def test_null_is_no_value() -> None:
    for value in (0, 0.0, False, "", "null", dt.date(1970, 1, 1)):
        column = pl.Series("a", [value])
        assert version(pl.DataFrame([column])) != version(pl.DataFrame([pl.Series("a", [None], dtype=column.dtype)]))


def test_widths_units_and_encodings_do_not_count() -> None:
    numbers = [pl.Series("a", [1, 0, None], dtype=dtype) for dtype in (pl.Int8, pl.UInt16, pl.Int64, pl.UInt64)]
    numbers += [pl.Series("a", [1.0, -0.0, None], dtype=dtype) for dtype in (pl.Float32, pl.Float64)]
    numbers += [pl.Series("a", [1.0, 0.0, float("nan")]), pl.Series("a", ["1", "0", None]).cast(pl.Decimal(10, 2))]
    texts = [
        pl.Series("a", ["x", None, "y"], dtype=dtype) for dtype in (pl.String, pl.Categorical, pl.Enum(["y", "x"]))
    ]
    noon = dt.datetime(2013, 1, 1, 12)
    times = [pl.Series("a", [noon]).dt.cast_time_unit(unit) for unit in ("ms", "us", "ns")]
    days = [pl.Series("a", [dt.date(2013, 1, 1)]), pl.Series("a", [dt.datetime(2013, 1, 1)])]
    for same in (numbers, texts, times, days):
        assert len({version(pl.DataFrame([column])) for column in same}) == 1, same


def test_close_integers_differ() -> None:
    big = [2**53, 2**53 + 1, 2**53 + 2, 2**63 - 1, -(2**63), -(2**63) + 1]
    assert len({version(pl.DataFrame({"a": [value]})) for value in big}) == len(big)


def test_row_hashes_follow_the_values() -> None:
    rows = pl.DataFrame({"a": [1, 1, 2], "b": ["x", "x", "x"]})
    hashes = row_hashes(rows, ["a", "b"])
    assert hashes.dtype == np.uint64
    assert hashes[0] == hashes[1] != hashes[2]
    assert (hashes == row_hashes(rows.cast({"a": pl.Float32}), ["b", "a"])).all()
    assert (hashes != row_hashes(rows, ["a", "b"], seed=1)).all()
