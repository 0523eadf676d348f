"""A scored batch as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shipway.lineage.batches import BatchInfo, SliceTally
from shipway.lineage.documents import CategoryStatistics, NumberStatistics
from shipway.lineage.html import Markup, page, section, table
from shipway.model.profile import CategoryCounts, NumberCounts, Profile

_BARS = 12
_SHOWN = 50
_WIDTH = 260
_TRAINING, _BATCH = "#9aa7b5", "#245ea8"


@dataclass(frozen=True)
class Refused:
    """Rows that were set aside.

    Attributes:
        reasons: Reason -> rows, the most frequent first.
        samples: The first few, each by the names of their columns.
    """

    reasons: Mapping[str, int]
    samples: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class _Bar:
    name: str
    before: float
    now: float


def batch_page(
    info: BatchInfo,
    profile: Profile,
    reference: NumberStatistics | CategoryStatistics | None,
    refused: Refused,
    slices: Sequence[SliceTally],
    place: str,
) -> str:
    """Returns the report of a batch.

    Args:
        info: The batch.
        profile: Its rows and predictions, counted.
        reference: What the model predicts of the validation part; None for a package of an older Shipway.
        refused: The rows set aside.
        slices: The predictions by the values of raw columns.
        place: Where the predictions were published; "" for nowhere.
    """
    body = [_facts(info, place), _distribution(info, profile, reference), _slices(info, slices), _refused(refused)]
    set_aside = f", {info.quarantined:,} set aside" if info.quarantined else ""
    lead = f"{info.predicted:,} of {info.rows:,} rows scored by {info.model} version {info.version}{set_aside}"
    return page("Batch inference", "".join(body), "ok", "scored", lead)


def _facts(info: BatchInfo, place: str) -> Markup:
    rows = [
        ("rows", info.rows),
        ("scored", info.predicted),
        ("set aside", info.quarantined),
        ("model", f"{info.model} version {info.version}, {info.digest}"),
        ("batch", info.batch),
        ("run", info.run_id),
        ("begun", info.began),
        ("data version", info.data_version),
        ("published to", place or "nowhere: the spec has no inference.output"),
    ]
    return section("Counts", table(["", ""], rows))


def _distribution(info: BatchInfo, profile: Profile, reference: NumberStatistics | CategoryStatistics | None) -> Markup:
    title = "Predictions, beside those of the validation part"
    counts = profile.predictions
    if reference is None or counts is None:
        said = "The package is of an older Shipway and holds no description of its predictions; train it again."
        return section(title, f"<p>{said}</p>")
    if isinstance(reference, NumberStatistics) and isinstance(counts, NumberCounts):
        bars = _number_bars(reference, counts)
    elif isinstance(reference, CategoryStatistics) and isinstance(counts, CategoryCounts):
        bars = _category_bars(reference, counts)
    else:
        raise AssertionError("counts are made in the bins of their reference")
    top = max([bar.before for bar in bars] + [bar.now for bar in bars] + [1e-9])
    head = {"binary": "probability of the positive class", "multiclass": "label"}.get(info.task, "value")
    rows = [(bar.name, f"{bar.before:.2%}", f"{bar.now:.2%}", _drawn(bar, top)) for bar in bars]
    return section(title, table([head, "validation", "this batch", ""], rows))


def _number_bars(reference: NumberStatistics, counts: NumberCounts) -> list[_Bar]:
    """Joins neighbouring bins until each has about a twelfth of the validation part's predictions."""
    grid = reference.grid
    edges, before = (reference.edges, reference.counts) if grid is None else (grid.edges, grid.counts)
    all_before, all_now = max(sum(before), 1), max(sum(counts.counts), 1)
    bars: list[_Bar] = []
    low = ""
    share = now = 0.0
    for place, (one, other) in enumerate(zip(before, counts.counts, strict=True)):
        share, now = share + one / all_before, now + other / all_now
        last = place == len(before) - 1
        if last or share >= 1 / _BARS:
            high = "" if last else f"{edges[place]:.4g}"
            bars.append(_Bar(_interval(low, high), share, now))
            low, share, now = high, 0.0, 0.0
    return bars


def _interval(low: str, high: str) -> str:
    if low and high:
        return f"{low} to {high}"
    return f"from {low}" if low else f"below {high}" if high else "all"


def _category_bars(reference: CategoryStatistics, counts: CategoryCounts) -> list[_Bar]:
    before, now = max(reference.rows, 1), max(counts.rows, 1)
    bars = [_Bar(name, reference.counts[name] / before, rows / now) for name, rows in counts.counts.items()]
    rest = _Bar("others", reference.others / before, counts.others / now)
    return [*bars, rest] if reference.others or counts.others else bars


def _drawn(bar: _Bar, top: float) -> Markup:
    widths = [(bar.before / top * _WIDTH, _TRAINING), (bar.now / top * _WIDTH, _BATCH)]
    drawn = "".join(
        f'<rect x="0" y="{place * 8}" height="7" width="{width:.1f}" fill="{colour}"/>'
        for place, (width, colour) in enumerate(widths)
    )
    return Markup(f'<svg width="{_WIDTH}" height="16" role="img" aria-label="shares">{drawn}</svg>')


def _slices(info: BatchInfo, slices: Sequence[SliceTally]) -> Markup:
    if not slices:
        return Markup("")
    mean = "mean value" if info.task == "regression" else "mean probability"
    rows = [
        (
            entry.column,
            "(none)" if entry.value is None else entry.value,
            entry.rows,
            f"{entry.rows / max(info.predicted, 1):.2%}",
            "" if entry.total is None else entry.total / max(entry.rows, 1),
        )
        for entry in slices[:_SHOWN]
    ]
    more = len(slices) - len(rows)
    note = f"<p>{more:,} more in batch.json</p>" if more > 0 else ""
    return section("Slices", table(["column", "value", "rows", "share", mean], rows), note)


def _refused(refused: Refused) -> Markup:
    if not refused.reasons:
        return section("Rows set aside", "<p>none</p>")
    reasons = table(["reason", "rows"], refused.reasons.items())
    samples = table(list(refused.samples[0]), [list(row.values()) for row in refused.samples])
    return section("Rows set aside", reasons, "<p>The first of them:</p>", samples)
