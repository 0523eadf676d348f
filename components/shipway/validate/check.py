"""Checks a batch against the user's Pandera schema and the spec's bounds, and finds every breach.

The schema is walked here, not by Pandera's own `validate`: that one checks dtypes only on a LazyFrame unless
told otherwise, lets one broken column hide others, and holds every failing row.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from shipway.dataset import scan
from shipway.dataset.schema import column_dtype, load_schema
from shipway.errors import InputError, RejectedError
from shipway.lineage.documents import Breach, Findings, read_document
from shipway.lineage.files import write_text
from shipway.validate.dtypes import Reading, reading
from shipway.validate.page import ColumnOverview, findings_page
from shipway.validate.rules import Fault, Rows, apply_check, numbers_where, rule_name
from shipway.validate.samples import as_in, counted, samples, shown
from shipway.validate.unique import repeated_numbers, repeated_rows

if TYPE_CHECKING:
    from pandera.polars import DataFrameSchema

    from shipway.spec import SchemaSection

ACCEPTED = "accepted"
REJECTED = "rejected"


@dataclass(frozen=True)
class Validation:
    """What validation found, and what each column looks like."""

    findings: Findings
    columns: list[ColumnOverview]

    @property
    def reasons(self) -> list[str]:
        """Every breach in one sentence."""
        return [breach.message for breach in self.findings.breaches]

    @property
    def facts(self) -> dict[str, str | int]:
        """The verdict, the rows and how many breaches and warnings there are."""
        found = self.findings
        counts = {"rows": found.rows, "breaches": len(found.breaches), "warnings": len(found.warnings)}
        return {"verdict": found.verdict, **counts}

    def write(self, findings: str | Path, report: str | Path) -> None:
        """Writes the findings as JSON and the report as HTML."""
        self.findings.write(findings)
        write_text(report, findings_page(self.findings, self.columns))


def validate(dataset: str | Path, section: SchemaSection) -> Validation:
    """Checks a dataset: names, dtypes, nulls, checks, uniqueness, row count and shares of nulls.

    Peak memory does not grow with the rows, but for eight bytes a row while uniqueness is checked.

    Args:
        dataset: The dataset's folder.
        section: The spec's schema section.

    Raises:
        InputError: The schema is missing or bad, or the section names a column that neither schema nor data have.
        UserCodeError: A check of the user's own raised.
    """
    return Validator(scan(dataset), section).run()


def admit(findings: str | Path, verdict: str) -> None:
    """Lets an accepted batch pass.

    Raises:
        RejectedError: It was rejected; the first line has the number of breaches, then each has a line.
    """
    if verdict == ACCEPTED:
        return
    breaches = read_document(Findings, findings).breaches
    lines = [f"validation rejected the data: {counted(len(breaches), 'breach', 'breaches')}"]
    raise RejectedError("\n".join(lines + [f"- {breach.message}" for breach in breaches]))


class Validator:
    """One batch against one schema.

    Args:
        stored: The rows as the dataset has them.
        section: The spec's schema section.
        unasked: A column that the schema may require and the rows do not have, which is no fault; "" for none.

    Attributes:
        faults: What is wrong, in the order of the rules.

    Raises:
        InputError: The schema is missing or bad.
    """

    def __init__(self, stored: pl.LazyFrame, section: SchemaSection, unasked: str = "") -> None:
        self.faults: list[Fault] = []
        self._stored = stored
        self._section = section
        self._unasked = unasked
        self._where = f"schema.pandera {section.pandera}"
        self._schema: DataFrameSchema = load_schema(section.pandera)
        self._dtypes = dict(stored.collect_schema())
        self._columns = self._present_columns()
        self._warnings: list[Breach] = []

    def run(self) -> Validation:
        """Applies every rule; errors as of `validate`."""
        facts = self._facts()
        count = int(facts["rows"])
        self._check_rows(count)
        self._check_names()
        rows = self._check_dtypes(count, facts)
        for name, column in self._columns.items():
            self._check_column(name, column, rows, facts)
        self._check_null_shares(count, facts)
        for check in self._schema.checks:
            declared = all(column_dtype(self._schema, column) is not None for column in self._columns.values())
            self._add(apply_check(rows, check, None, declared, self._where), check)
        self._check_composite_keys()
        verdict = REJECTED if self.faults else ACCEPTED
        breaches = [fault.breach for fault in self.faults]
        findings = Findings(verdict=verdict, rows=count, breaches=breaches, warnings=self._warnings)
        return Validation(findings, self._overview(facts))

    def _add(self, fault: Fault | None, check: Any = None) -> None:
        if fault is None:
            return
        # Pandera's `raise_warning` marks a check that tells and does not refuse.
        if getattr(check, "raise_warning", False):
            self._warnings.append(fault.breach)
        else:
            self.faults.append(fault)

    def _breach(
        self,
        column: str,
        rule: str,
        rows: int | None,
        message: str,
        values: list[str] | None = None,
        failing: Callable[[], pl.Series] | None = None,
    ) -> None:
        where = f"column {column!r}: " if column else ""
        breach = Breach(column=column, rule=rule, rows=rows, samples=values or [], message=where + message)
        self.faults.append(Fault(breach, failing))

    def _present_columns(self) -> dict[str, Any]:
        """Returns the schema's columns that the data have; patterns claim what no column of the schema names."""
        found: dict[str, Any] = {}
        for name, column in self._schema.columns.items():
            if not column.regex and name in self._dtypes:
                found[name] = column
        for pattern, column in self._schema.columns.items():
            if column.regex:
                for name in self._dtypes:
                    if re.match(pattern, name):
                        found.setdefault(name, column)
        return found

    def _facts(self) -> dict[str, Any]:
        """Returns row count, nulls, minima and maxima in one pass."""
        ordered = [name for name, dtype in self._dtypes.items() if dtype.is_numeric() or dtype.is_temporal()]
        facts = self._stored.select(
            pl.len().alias("rows"),
            *(pl.col(name).null_count().alias(f"nulls {name}") for name in self._dtypes),
            *(pl.col(name).min().alias(f"min {name}") for name in ordered),
            *(pl.col(name).max().alias(f"max {name}") for name in ordered),
        )
        return facts.collect(engine="streaming").row(0, named=True)

    def _check_rows(self, count: int) -> None:
        bounds = self._section.rows
        if count < bounds.min:
            self._breach("", f"rows >= {bounds.min}", None, f"{counted(count)}, expected at least {bounds.min:,}")
        if bounds.max is not None and count > bounds.max:
            self._breach("", f"rows <= {bounds.max}", None, f"{counted(count)}, expected at most {bounds.max:,}")

    def _check_names(self) -> None:
        for name, column in self._schema.columns.items():
            there = any(found is column for found in self._columns.values())
            if column.required and not there and name != self._unasked:
                message = f"no column matches the pattern {name!r}" if column.regex else f"column {name!r} is missing"
                self.faults.append(Fault(Breach(column=name, rule="required", rows=None, message=message)))
        if self._schema.strict is True:
            for name in self._dtypes:
                if name not in self._columns:
                    self._breach(name, "strict", None, "not in the schema, which allows no other columns")
        wanted = [name for name in self._schema.columns if name in self._dtypes]
        found = [name for name in self._dtypes if name in wanted]
        if self._schema.ordered and wanted != found:
            self._breach("", "ordered", None, f"columns come in the order {found}, expected {wanted}")

    def _check_dtypes(self, count: int, facts: dict[str, Any]) -> Rows:
        """Tells what is stored as something else than the schema wants, and returns the rows as it wants them."""
        readings: dict[str, Reading] = {}
        for name, column in self._columns.items():
            wanted = column_dtype(self._schema, column)
            if wanted is not None:
                readings[name] = reading(name, self._dtypes[name], wanted, facts[f"nulls {name}"] == count)
        changed = {name: entry for name, entry in readings.items() if entry.expression is not None}
        broken = {name: pl.col(name).is_not_null() & entry.expression.is_null() for name, entry in changed.items()}  # type: ignore[union-attr]
        counts = self._stored.select(flag.sum().alias(name) for name, flag in broken.items())
        failing = counts.collect(engine="streaming").row(0, named=True) if broken else {}
        for name, entry in changed.items():
            if not entry.same or failing[name]:
                self._dtype_breach(name, entry, failing[name], count - facts[f"nulls {name}"], broken[name])
        frame = self._stored.with_columns(entry.expression.alias(name) for name, entry in changed.items())  # type: ignore[union-attr]
        absent = [
            name for name, column in self._schema.columns.items() if not column.regex and name not in self._dtypes
        ]
        failed = {name: flag for name, flag in broken.items() if failing[name]}
        return Rows(self._stored, frame, count, failed, absent, self._unasked)

    def _dtype_breach(self, name: str, entry: Reading, failing: int, values: int, broken: pl.Expr) -> None:
        examples: list[str] = []
        failing_rows = None
        said = "its values would convert, but nothing converts them"
        if failing:
            found = self._stored.filter(broken).select(name).head(1000).collect(engine="streaming")
            examples = samples(found[name])
            said = f"{failing:,} of {counted(values, 'value', 'values')} do not convert{as_in(examples)}"
        message = f"expected {entry.wanted}, found {entry.stored}; {said}"
        if entry.same or entry.readable:
            failing_rows = partial(numbers_where, self._stored.select(broken))
        self._breach(name, f"dtype {entry.wanted}", failing, message, examples, failing_rows)

    def _check_column(self, name: str, column: Any, rows: Rows, facts: dict[str, Any]) -> None:
        nulls = facts[f"nulls {name}"]
        if nulls and not column.nullable:
            failing = partial(numbers_where, self._stored.select(pl.col(name).is_null()))
            self._breach(name, "not null", nulls, f"{counted(nulls)} null, expected none", failing=failing)
        wanted = column_dtype(self._schema, column)
        if isinstance(wanted, pl.Enum):
            self._check_enum(name, wanted, rows)
        for check in column.checks:
            self._add(apply_check(rows, check, name, wanted is not None, self._where), check)
        if column.unique:
            self._check_unique(name, "unique", [name], column.report_duplicates)

    def _check_enum(self, name: str, wanted: pl.Enum, rows: Rows) -> None:
        from pandera.polars import Check

        self._add(apply_check(rows, Check.isin(wanted.categories.to_list()), name, True, self._where))

    def _check_null_shares(self, count: int, facts: dict[str, Any]) -> None:
        known = {*self._dtypes, *self._schema.columns, self._unasked}
        unknown = [name for name in self._section.nulls if name not in known]
        if unknown:
            raise InputError(
                f"schema.nulls: neither the schema nor the data have {', '.join(map(repr, unknown))}; "
                f"there are {', '.join(map(repr, self._dtypes))}"
            )
        for name, bound in self._section.nulls.items():
            nulls = facts.get(f"nulls {name}", 0)
            if count and nulls / count > bound:
                self._breach(
                    name, f"nulls <= {bound:g}", nulls, f"{nulls / count:.2%} null, expected at most {bound:.2%}"
                )

    def _check_composite_keys(self) -> None:
        unique = self._schema.unique
        columns = [unique] if isinstance(unique, str) else list(unique or [])
        if not columns or not all(name in self._dtypes for name in columns):
            return
        self._check_unique("", f"unique({', '.join(columns)})", columns, self._schema.report_duplicates)

    def _check_unique(self, column: str, rule: str, columns: list[str], count: Any) -> None:
        repeated, values = repeated_rows(self._stored, columns, count)
        if repeated:
            said = "" if column else f"{rule}: "
            failing = partial(repeated_numbers, self._stored, columns, count)
            self._breach(
                column, rule, repeated, f"{said}{counted(repeated)} not unique{as_in(values)}", values, failing
            )

    def _overview(self, facts: dict[str, Any]) -> list[ColumnOverview]:
        found = []
        for name, dtype in self._dtypes.items():
            column = self._columns.get(name)
            wanted = column_dtype(self._schema, column) if column is not None else None
            rules = [rule_name(check) for check in column.checks] if column is not None else []
            found.append(
                ColumnOverview(
                    name=name,
                    dtype=str(dtype),
                    wanted=str(wanted) if wanted is not None else "any" if column is not None else "not in the schema",
                    nulls=facts[f"nulls {name}"],
                    least=shown(facts[f"min {name}"]) if f"min {name}" in facts else "",
                    greatest=shown(facts[f"max {name}"]) if f"max {name}" in facts else "",
                    rules=[*rules, *["unique"] * bool(column is not None and column.unique)],
                    breaches=sum(fault.breach.column == name for fault in self.faults),
                )
            )
        return found
