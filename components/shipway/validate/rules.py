"""Applying Pandera's checks, built-in and the user's, to a whole batch lazily: counts and samples, never all rows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import and_
from typing import Any

import polars as pl

from shipway.dataset.schema import is_builtin_check
from shipway.errors import InputError, UserCodeError
from shipway.lineage.documents import Breach
from shipway.lineage.project import user_code
from shipway.validate.samples import SAMPLES, as_in, counted, samples

_OK = "shipway: the check holds"
_BROKEN = "shipway: the value does not convert"
_FLAG = "shipway: the row fails"
_NUMBER = "shipway: the row's number"
_RULE_LENGTH = 200
# How many offending rows are looked at for distinct samples.
_SAMPLE_ROWS = 1000


@dataclass(frozen=True)
class Rows:
    """A batch in the schema's dtypes.

    Attributes:
        stored: The rows as the dataset has them.
        frame: The same in the schema's dtypes; a value that does not convert is null.
        count: How many there are.
        broken: Column -> whether a stored value does not convert, for columns with such values.
        absent: The schema's columns that the batch does not have.
        unasked: One of them that it need not have: a check of the user's that wants it is left out; "" for none.
    """

    stored: pl.LazyFrame
    frame: pl.LazyFrame
    count: int
    broken: dict[str, pl.Expr]
    absent: list[str]
    unasked: str = ""


@dataclass(frozen=True)
class Fault:
    """A breach, and which rows are to blame for it.

    Attributes:
        breach: The breach.
        failing: Gives their numbers, from 0; None where the batch as a whole is at fault.
    """

    breach: Breach
    failing: Callable[[], pl.Series] | None = None


def numbers_where(flags: pl.LazyFrame) -> pl.Series:
    """Returns the numbers of the rows, from 0, whose flag is set.

    Args:
        flags: One column of booleans, a row each; null counts as not set.
    """
    flag = pl.col(flags.collect_schema().names()[0])
    kept = flags.select(flag.alias(_FLAG)).with_row_index(_NUMBER).filter(pl.col(_FLAG))
    return kept.select(_NUMBER).collect(engine="streaming").to_series()


def rule_name(check: Any) -> str:
    """Returns a check as the schema states it: `in_range(0, 1)`, or the name of the user's function."""
    builtin = is_builtin_check(check)
    # Pandera writes a bound that is not given as None.
    if check.error and not (builtin and "None" in str(check.error)):
        text = str(check.error)
    elif builtin:
        bounds = (f"{key}={value}" for key, value in check.statistics.items() if value is not None)
        text = f"{check._check_fn.__name__}({', '.join(bounds)})"
    else:
        text = str(check.name or "check")
    return text if len(text) <= _RULE_LENGTH else text[: _RULE_LENGTH - 3] + "..."


def apply_check(rows: Rows, check: Any, column: str | None, declared: bool, where: str) -> Fault | None:
    """Applies one check; returns what it found wrong, or None.

    Args:
        rows: The batch.
        check: Pandera's Check.
        column: The column it is about, or None for the whole table.
        declared: Whether the schema gives a dtype, so that a check that cannot work on it is the schema's fault.
        where: The schema, to begin an error message.

    Raises:
        InputError: A built-in check cannot work on what the schema declares (a bad pattern, numbers among text).
        UserCodeError: The user's check raised, or gave something else than booleans.
    """
    rule = rule_name(check)
    what = f"{where}: check {rule}" + (f" on column {column!r}" if column else "")
    subject = f"column {column!r}" if column else "table"
    found = _Found()
    unable = ""
    if is_builtin_check(check):
        try:
            found = _judged(rows, check, column, what)
        except (pl.exceptions.PolarsError, TypeError) as error:
            if declared:
                raise InputError(f"{what}: cannot be applied: {str(error).strip().splitlines()[0]}") from error
            unable = "to these values"
    else:
        try:
            with user_code(what):
                found = _judged(rows, check, column, what)
        except UserCodeError as error:
            if not _misses(error.__cause__, rows.absent):
                raise
            if _misses(error.__cause__, [rows.unasked]):
                return None
            unable = f"without {', '.join(map(repr, rows.absent))}"
    if unable:
        message = f"{subject}: {rule} cannot be applied {unable}"
        return Fault(Breach(column=column or "", rule=rule, rows=None, message=message))
    if not found.failed:
        return None
    if found.output is None:
        message = f"{subject}: {rule} does not hold"
        return Fault(Breach(column=column or "", rule=rule, rows=None, message=message))
    message = f"{subject}: {rule} fails in {counted(found.failed)}{as_in(found.values)}"
    breach = Breach(column=column or "", rule=rule, rows=found.failed, samples=found.values, message=message)
    return Fault(breach, partial(numbers_where, found.output.select(~pl.col(_OK))))


@dataclass(frozen=True)
class _Found:
    """How often a check fails, whether it holds row by row (None: it judges the whole), and a few offending values."""

    failed: int = 0
    output: pl.LazyFrame | None = None
    values: list[str] = field(default_factory=list)


def _judged(rows: Rows, check: Any, column: str | None, what: str) -> _Found:
    output = _output(rows, check, column, what)
    if isinstance(output, bool):
        return _Found(failed=not output)
    output = output.select(pl.col(_OK).fill_null(value=bool(check.ignore_na)))
    count = [pl.len(), (~pl.col(_OK)).sum()]
    length, failed = output.select(count[0].alias("n"), count[1]).collect(engine="streaming").row(0)
    if length != rows.count:
        return _Found(failed=failed)
    broken = [flag for name, flag in rows.broken.items() if column in (None, name)]
    if failed and broken and not check.ignore_na:
        # What does not convert is a breach of the dtype already.
        flags = rows.stored.select(pl.any_horizontal(broken).alias(_BROKEN))
        output = pl.concat([output, flags], how="horizontal").select(
            pl.col(_OK) | pl.col(_BROKEN).fill_null(value=False)
        )
        failed = output.select(count[1]).collect(engine="streaming").item()
    if not failed:
        return _Found()
    names = [column] if column else rows.frame.collect_schema().names()
    offending = (
        pl.concat([rows.frame.select(names), output], how="horizontal")
        .filter(~pl.col(_OK))
        .select(names)
        .head(_SAMPLE_ROWS if column else SAMPLES)
        .collect(engine="streaming")
    )
    return _Found(failed, output, samples(offending[column] if column else offending.iter_rows(named=True)))


def _output(rows: Rows, check: Any, column: str | None, what: str) -> pl.LazyFrame | bool:
    """Calls the check as Pandera's Polars backend does, and reduces what it gives to one boolean a row."""
    # Pandera's checks know Polars only once this module is there, which its own `validate` would see to.
    import pandera.backends.polars.builtin_checks  # noqa: F401 - imported for its effect
    from pandera.api.polars.types import PolarsData

    # A built-in check made before that module came still holds the functions known then.
    known = check.get_builtin_check_fn(check._check_fn.__name__) if is_builtin_check(check) else check._check_fn
    function = partial(known, **check._check_kwargs)
    if check.element_wise:
        cells = pl.col(column or "*")
        given = rows.frame.select(cells.map_elements(function, return_dtype=pl.Boolean))
    else:
        # A built-in check may gather its whole input; the user's may look at other columns.
        alone = column is not None and is_builtin_check(check)
        given = function(PolarsData(rows.frame.select(column) if alone else rows.frame, column or "*"))
    if isinstance(given, bool):
        return given
    if isinstance(given, pl.DataFrame):
        given = given.lazy()
    if not isinstance(given, pl.LazyFrame):
        raise UserCodeError(f"{what}: expected a LazyFrame of booleans or a boolean, it gave {type(given).__name__}")
    schema = given.collect_schema()
    other = {name: dtype for name, dtype in schema.items() if dtype not in (pl.Boolean, pl.Null)}
    if other or not schema:
        raise UserCodeError(f"{what}: expected booleans, it gave {dict(schema)}")
    # A row passes unless a column says no; `&` keeps null where none does and one does not know.
    verdict = reduce(and_, [pl.col(name).cast(pl.Boolean) for name in schema])
    return given.select(verdict.alias(_OK))


def _misses(error: BaseException | None, absent: list[str]) -> bool:
    text = str(error).partition(";")[0]
    return isinstance(error, pl.exceptions.ColumnNotFoundError) and any(f'"{name}"' in text for name in absent)
