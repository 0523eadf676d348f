"""The validation report as one HTML page."""

from dataclasses import dataclass

from shipway.lineage.documents import Breach, Findings
from shipway.lineage.html import Markup, page, section, table, text, verdict
from shipway.validate.samples import counted


@dataclass(frozen=True)
class ColumnOverview:
    """One column of the batch, as stored and as wanted."""

    name: str
    dtype: str
    wanted: str
    nulls: int
    least: str
    greatest: str
    rules: list[str]
    breaches: int


def findings_page(findings: Findings, columns: list[ColumnOverview], note: str = "") -> str:
    """Returns the report: verdict, every breach, every column; `note` goes into the line under the heading."""
    accepted = findings.verdict == "accepted"
    counts = [counted(findings.rows), counted(len(columns), "column", "columns")]
    lead = ", ".join([*counts, counted(len(findings.breaches), "breach", "breaches"), *[note] * bool(note)])
    parts = []
    if findings.breaches:
        parts.append(section("Breaches", _breaches(findings.breaches)))
    if findings.warnings:
        parts.append(section("Warnings", _breaches(findings.warnings)))
    parts.append(section("Columns", _columns(columns, findings.rows)))
    return page("Validation", "".join(parts), "ok" if accepted else "bad", findings.verdict, lead)


def _breaches(breaches: list[Breach]) -> Markup:
    return table(
        ["Column", "Rule", "Rows", "Samples", "What is wrong"],
        (
            (
                breach.column or "(table)",
                breach.rule,
                "" if breach.rows is None else breach.rows,
                _list(breach.samples),
                breach.message,
            )
            for breach in breaches
        ),
    )


def _columns(columns: list[ColumnOverview], rows: int) -> Markup:
    return table(
        ["Column", "Stored as", "Expected", "Nulls", "Nulls %", "Least", "Greatest", "Rules", "Verdict"],
        (
            (
                column.name,
                column.dtype,
                column.wanted,
                column.nulls,
                f"{column.nulls / rows:.2%}" if rows else "",
                column.least,
                column.greatest,
                _list(column.rules),
                verdict(not column.breaches, "ok", f"{column.breaches} broken"),
            )
            for column in columns
        ),
    )


def _list(values: list[str]) -> Markup:
    return Markup("<br>".join(text(value) for value in values))
