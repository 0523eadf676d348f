"""Evidently's drift report over a bounded sample.

No rows of the training part are kept: the report compares with rows rebuilt from its statistics, as it says on top.
"""

from __future__ import annotations

import html
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from shipway.lineage.documents import CategoryStatistics, NumberStatistics
from shipway.lineage.files import write_text
from shipway.lineage.html import page
from shipway.monitor.rebuilt import OTHER, as_listed, counted_rows, training_rows

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from shipway.model.profile import CategoryCounts, NumberCounts
    from shipway.spec.watch import MonitorSection

Reference = NumberStatistics | CategoryStatistics
_THRESHOLD = 0.2


def evidently_page(
    path: str | Path,
    references: Mapping[str, Reference],
    counts: Mapping[str, NumberCounts | CategoryCounts],
    sample: pl.DataFrame | None,
    section: MonitorSection,
) -> None:
    """Writes Evidently's report, or a short page that says why there is none.

    Args:
        path: The page.
        references: Column -> the training part's statistics; the predictions among them.
        counts: Column -> the window's counts.
        sample: Rows of the window; None where they are not to be had, and rows are rebuilt from the counts.
        section: The spec's monitor section.
    """
    compared = {name: reference for name, reference in references.items() if _has_values(reference, counts[name])}
    left_out = [name for name in references if name not in compared]
    rows = min(section.sample, max((found.rows for found in counts.values()), default=0))
    if not section.evidently:
        nothing(path, "The spec says evidently: false in its section monitor.")
    elif not rows or not compared:
        nothing(path, "There are no rows to compare in this window.")
    else:
        now = counted_rows(compared, counts, rows) if sample is None else as_listed(sample, compared)
        banner = _banner(sample, now.height, left_out)
        try:
            _write(path, compared, training_rows(compared, now.height), now, section, banner)
        # Whatever it is that Evidently cannot draw, or lacks: what was found and decided is not lost for it.
        except (
            ArithmeticError,
            AttributeError,
            ImportError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            print(f"monitor: no report by Evidently: {type(error).__name__}: {error}", file=sys.stderr)
            nothing(path, f"Evidently could not make its report: {type(error).__name__}: {error}")


def nothing(path: str | Path, why: str) -> None:
    """Writes a page that says why there is no report."""
    write_text(path, page("Evidently", f"<p>{html.escape(why)}</p>"))


def _has_values(reference: Reference, counts: NumberCounts | CategoryCounts) -> bool:
    """Tells whether there is a value on both sides: Evidently refuses a column without any."""
    return reference.rows > reference.nulls and counts.rows > counts.nulls


def _banner(sample: pl.DataFrame | None, rows: int, left_out: list[str]) -> str:
    now = "an even sample of the window" if sample is not None else "rebuilt from the counts of the batch"
    said = (
        f"Current: {rows:,} rows, {now}. Reference: as many rows, rebuilt from the statistics of the training part "
        "column by column (inverse distribution function), since no training rows are kept: each column is distributed "
        "as in training, but how columns hang together is not. Texts beyond the 100 most frequent are shown as "
        f"{OTHER}. What Shipway decides by is on its own page, from all rows."
    )
    if left_out:
        said += f" Left out, as they have no value on one side: {', '.join(left_out)}."
    style = "font:14px/1.5 sans-serif;background:#fff8e1;border-bottom:1px solid #e3e8ee;padding:10px 24px"
    return f'<div style="{style}">{html.escape(said)}</div>'


def _write(
    path: str | Path,
    references: Mapping[str, Reference],
    before: pl.DataFrame,
    now: pl.DataFrame,
    section: MonitorSection,
    banner: str,
) -> None:
    # Evidently calls home unless this is set, to anything, when it is imported.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = {name: _harmless(name) for name in references}
    numbers = [names[name] for name, reference in references.items() if isinstance(reference, NumberStatistics)]
    texts = [name for name in names.values() if name not in numbers]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
    own = {names[name]: found.psi for name, found in section.columns.items() if name in names and found.psi is not None}
    preset = DataDriftPreset(
        method="psi",
        threshold=_THRESHOLD if section.thresholds.psi is None else section.thresholds.psi,
        per_column_threshold=own or None,
    )
    with warnings.catch_warnings():
        # NumPy's, about columns without spread.
        warnings.simplefilter("ignore")
        run = Report([preset]).run(
            Dataset.from_pandas(_pandas(now, names), data_definition=definition),
            Dataset.from_pandas(_pandas(before, names), data_definition=definition),
        )
        text = run.get_html_str(as_iframe=False)
    write_text(path, text.replace("<body>", f"<body>{banner}", 1))


def _pandas(frame: pl.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    import polars.selectors as cs

    return (
        frame.rename(dict(names))
        .with_columns(cs.string().str.replace_all("<", _harmless("<"), literal=True))
        .to_pandas()
    )


def _harmless(text: str) -> str:
    """Returns a text that cannot end the script in which Evidently puts it as it is."""
    return text.replace("<", "\u2039")
