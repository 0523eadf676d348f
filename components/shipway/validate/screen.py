"""Sets aside the rows of a batch that break the schema, so that the others can be scored.

A rule that a row can break on its own (a null, a value out of range, a key that comes twice) sets that row aside. A
rule about the batch as a whole (a missing column, another dtype, a share of nulls) refuses the batch, and so do more
such rows than `inference.max_quarantine` allows. The label is not asked for, nor are the bounds of `schema.rows`: they
are about training data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from shipway.dataset import DatasetWriter, batches, read_info, scan
from shipway.dataset.quarantine import REASONS, ROW
from shipway.errors import InputError, RejectedError
from shipway.lineage.documents import Findings
from shipway.lineage.files import write_text
from shipway.spec import DataSection, InferenceSection, SchemaSection, load_section
from shipway.validate.check import ACCEPTED, REJECTED, Validator
from shipway.validate.page import ColumnOverview, findings_page
from shipway.validate.rules import Fault
from shipway.validate.samples import counted

_SHOWN_FAULTS = 20


@dataclass(frozen=True)
class Screening:
    """What screening found.

    Attributes:
        findings: The verdict and every breach.
        columns: What each column looks like.
        quarantined: How many rows were set aside.
        refusals: Why the batch as a whole is refused, one sentence each; none when the other rows may be scored.
    """

    findings: Findings
    columns: list[ColumnOverview]
    quarantined: int
    refusals: list[str]

    @property
    def facts(self) -> dict[str, str | int]:
        """The verdict, the rows, and how many were set aside."""
        found = self.findings
        return {"verdict": found.verdict, "rows": found.rows, "quarantined": self.quarantined}

    def write(self, findings: str | Path, report: str | Path) -> None:
        """Writes the findings as JSON and the report as HTML."""
        self.findings.write(findings)
        note = f"{counted(self.quarantined)} set aside"
        write_text(report, findings_page(self.findings, self.columns, note))

    def require(self) -> None:
        """Lets a batch pass whose remaining rows may be scored.

        Raises:
            RejectedError: The batch is refused; every reason has a line.
        """
        if self.refusals:
            raise RejectedError("\n".join(["the batch is refused", *(f"- {line}" for line in self.refusals)]))


def screen_rows(dataset: str | Path, quarantine: str | Path, data_schema: str, data: str, inference: str) -> Screening:
    """Checks a batch row by row, and writes the rows that fail to a dataset of their own.

    The quarantine has the columns `ROW` and `REASONS`, then the raw columns; its version is a hash of all of them, so
    that a check of the user's that has changed, and sets other rows aside, makes another batch. Memory does not grow
    with the rows, but for a bit a row and broken rule, and eight bytes a row while uniqueness is checked.

    Args:
        dataset: The rows.
        quarantine: Where the failing rows go.
        data_schema: The spec's section schema, as a pipeline parameter.
        data: The spec's section data.
        inference: The spec's section inference.

    Raises:
        InputError: The schema is missing or bad, or the batch has a column with a name of the quarantine's own.
        UserCodeError: A check of the user's own raised.
    """
    section = load_section(SchemaSection, data_schema)
    label = load_section(DataSection, data).label
    tolerance = load_section(InferenceSection, inference).max_quarantine
    taken = {ROW, REASONS} & set(read_info(dataset).columns)
    if taken:
        raise InputError(f"column {taken.pop()!r}: the name is Shipway's own in the quarantine; rename the column")
    # Bounds of the row count describe what a model is trained on.
    unbounded = section.model_copy(update={"rows": section.rows.model_copy(update={"min": 0, "max": None})})
    validator = Validator(scan(dataset).drop(label, strict=False), unbounded, unasked=label)
    validation = validator.run()
    rows = validation.findings.rows
    flags = [(_reason(fault), _flags(fault, rows)) for fault in validator.faults if fault.failing is not None]
    flagged = [(message, flag) for message, flag in flags if flag is not None]
    count = _write_quarantine(dataset, quarantine, flagged)
    refusals = [fault.breach.message for fault in validator.faults if fault.failing is None]
    # A quotient, as a product may come out below the count that the tolerance names: 0.29 * 100 is 28.999999999999996.
    if count and count / rows > tolerance:
        refusals += _too_many(count, rows, tolerance, [fault for fault in validator.faults if fault.failing])
    verdict = REJECTED if refusals else ACCEPTED
    findings = validation.findings.model_copy(update={"verdict": verdict})
    return Screening(findings, validation.columns, count, refusals)


def _reason(fault: Fault) -> str:
    """Returns what is wrong with a row, where the breach counts all of them."""
    column, rule = fault.breach.column, fault.breach.rule
    return f"{column}: {rule}" if column else rule


def _flags(fault: Fault, rows: int) -> npt.NDArray[np.uint8] | None:
    """Returns which rows a fault is in, as packed bits; None for none."""
    if fault.failing is None or not len(numbers := fault.failing()):
        return None
    flag = np.zeros(rows, dtype=np.bool_)
    flag[numbers.to_numpy()] = True
    return np.packbits(flag)


def _too_many(count: int, rows: int, tolerance: float, faults: list[Fault]) -> list[str]:
    said = f"{count:,} of {counted(rows)} fail validation ({count / rows:.2%})"
    lines = [f"{said}; inference.max_quarantine allows {tolerance:.2%}"]
    lines += [fault.breach.message for fault in faults[:_SHOWN_FAULTS]]
    hidden = len(faults) - _SHOWN_FAULTS
    return lines + [f"and {counted(hidden, 'other breach', 'other breaches')}"] * (hidden > 0)


def _write_quarantine(dataset: str | Path, folder: str | Path, flags: list[tuple[str, npt.NDArray[np.uint8]]]) -> int:
    """Writes the flagged rows with their numbers and reasons, and returns how many they are."""
    empty = scan(dataset).head(0).collect()
    with DatasetWriter(folder, [f"rows of {dataset} set aside"]) as writer:
        writer.write(_quarantined(empty, 0, np.empty(0, dtype=np.int64), []))
        if not flags:
            return 0
        packed = np.bitwise_or.reduce([flag for _, flag in flags])
        start = 0
        for batch in batches(dataset):
            hits = np.flatnonzero(_slice(packed, start, batch.height))
            if len(hits):
                masks = [(message, _slice(flag, start, batch.height)[hits]) for message, flag in flags]
                writer.write(_quarantined(batch, start, hits, masks))
            start += batch.height
        return writer.rows


def _slice(packed: npt.NDArray[np.uint8], start: int, count: int) -> npt.NDArray[np.bool_]:
    """Returns some of the bits, as booleans."""
    bits = np.unpackbits(packed[start // 8 : -(-(start + count) // 8)])
    return bits[start % 8 : start % 8 + count].astype(np.bool_)


def _quarantined(
    batch: pl.DataFrame, start: int, hits: npt.NDArray[np.int64], masks: list[tuple[str, npt.NDArray[np.bool_]]]
) -> pl.DataFrame:
    reasons = ["; ".join(message for message, mask in masks if mask[place]) for place in range(len(hits))]
    own = [pl.Series(ROW, hits + start, dtype=pl.Int64), pl.Series(REASONS, reasons, dtype=pl.String)]
    return pl.DataFrame(own).hstack(batch[hits])
