"""Puts the shares of a batch together: one folder of predictions, one profile, one page, published once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from shipway.dataset import read_info, scan
from shipway.dataset.quarantine import REASONS
from shipway.errors import DigestMismatchError, ShipwayError
from shipway.lineage.batches import BATCH_FILE, PROFILE_FILE, BatchInfo, SliceTally
from shipway.lineage.documents import Release, read_document
from shipway.lineage.files import write_text
from shipway.model.fetch import fetch_package
from shipway.model.profile import CategoryCounts, Profile
from shipway.predict.finished import FinishedParts
from shipway.predict.page import Refused, batch_page
from shipway.predict.publish import publish
from shipway.predict.stage import take, write_manifest
from shipway.predict.tally import OTHERS, Tally
from shipway.spec import DataSection, EvaluateSection, InferenceSection, load_section

_REASONS = 20
_SAMPLES = 10
_CELL = 60
# What the shares of one batch may differ in.
_OWN = {"began", "predicted", "parts", "slices"}


@dataclass(frozen=True)
class GatheredBatch:
    """A whole batch.

    Attributes:
        info: What is known of it.
        place: Where it was published; "" for nowhere.
    """

    info: BatchInfo
    place: str

    @property
    def facts(self) -> dict[str, Any]:
        """What is worth showing."""
        info = self.info
        counts = {"rows": info.rows, "predicted": info.predicted, "quarantined": info.quarantined}
        known = {"batch": info.batch, "version": info.version, "batch_run_id": info.run_id}
        return {**known, **counts, "published": self.place}


@dataclass(frozen=True)
class _Share:
    info: BatchInfo
    folder: Path
    profile: Profile


def gather_shares(
    release: str | Path,
    quarantine: str | Path,
    parts: Sequence[str | Path],
    profiles: Sequence[str | Path],
    predictions: str | Path,
    profile: str | Path,
    report: str | Path,
    inference: str,
    evaluate: str,
    data: str,
) -> GatheredBatch:
    """Puts shares together, reports on the batch and publishes it; all of it may be done again.

    Args:
        release: The version that scored.
        quarantine: The rows set aside.
        parts: The folders of the shares.
        profiles: Their profiles, in the same order.
        predictions: Where the predictions of all go, with `batch.json` and `profile.json`.
        profile: Where the profile of all goes.
        report: Where the page goes.
        inference: The spec's section inference, as a pipeline parameter.
        evaluate: The spec's section evaluate.
        data: The spec's section data.

    Raises:
        InputError: A share is damaged, or the place to publish to cannot be reached.
        DigestMismatchError: The package is not the one that scored.
        ShipwayError: The shares are not those of one batch, or not all of them.
    """
    from shipway.model.package import Package

    section = load_section(InferenceSection, inference)
    chosen = read_document(Release, release)
    shares = [
        _Share(read_document(BatchInfo, Path(folder) / BATCH_FILE), Path(folder), read_document(Profile, path))
        for folder, path in zip(parts, profiles, strict=True)
    ]
    shares.sort(key=lambda share: share.info.parts)
    info = _merged(shares, section)
    if info.digest != chosen.digest:
        raise DigestMismatchError(f"the batch was scored by {info.digest}, but the release is {chosen.digest}")
    total = reduce(Profile.plus, (share.profile for share in shares))
    folder = Path(predictions)
    _collect(shares, Path(quarantine) if info.quarantined else None, folder)
    total.write(profile)
    total.write(folder / PROFILE_FILE)
    write_manifest(folder, info)
    place = publish(folder, section.output, info.batch) if section.output else ""
    with tempfile.TemporaryDirectory(prefix="shipway-gather-") as scratch:
        package = Package.load(fetch_package(chosen.package_uri, scratch), digest=chosen.digest)
        reference = package.prediction_statistics()
    label = load_section(DataSection, data).label
    slices = info.slices or _counted(total, load_section(EvaluateSection, evaluate).slices)
    page = batch_page(info, total, reference, _refused(quarantine, label), slices, place)
    write_text(report, page)
    FinishedParts(info.batch).clear()
    return GatheredBatch(info, place)


def _merged(shares: Sequence[_Share], section: InferenceSection) -> BatchInfo:
    """Returns the description of the batch, once the shares are found to be all of it and of one piece.

    Raises:
        ShipwayError: They are not.
    """
    first = shares[0].info
    for share in shares[1:]:
        mine, theirs = first.model_dump(exclude=_OWN), share.info.model_dump(exclude=_OWN)
        differing = [name for name in mine if mine[name] != theirs[name]]
        if differing:
            said = "; ".join(f"{name}: {mine[name]!r} and {theirs[name]!r}" for name in differing)
            raise ShipwayError(
                f"the shares are not of one batch ({said}); two runs began it at once, or it changed between: run the "
                "inference pipeline again"
            )
    predicted = sum(share.info.predicted for share in shares)
    names = sorted(name for share in shares for name in share.info.parts)
    if predicted != first.rows - first.quarantined or len(set(names)) != len(names):
        raise ShipwayError(
            f"batch {first.batch}: the shares hold {predicted:,} predictions in {len(set(names))} parts, "
            f"expected {first.rows - first.quarantined:,}; a share is missing or comes twice: run the pipeline again"
        )
    tally = Tally(section.slices)
    for share in shares:
        tally.merge(share.info.slices)
    # Steps of one run that share no folder have each noted a beginning of their own.
    began = min(share.info.began for share in shares)
    counts = {"predicted": predicted, "parts": names, "slices": tally.slices()}
    return first.model_copy(update={"began": began, **counts})


def _collect(shares: Sequence[_Share], quarantine: Path | None, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for share in shares:
        for name in share.info.parts:
            take(share.folder / name, folder / name)
    if quarantine is not None:
        for place, name in enumerate(read_info(quarantine).parts):
            take(quarantine / name, folder / f"quarantine-{place:05d}.parquet")


def _counted(profile: Profile, columns: Sequence[str]) -> list[SliceTally]:
    """Returns the rows by the values of features of which nobody has summed the predictions."""
    found = []
    for name in columns:
        counts = profile.columns.get(name)
        if isinstance(counts, CategoryCounts):
            values: list[tuple[str | None, int]] = [
                *counts.counts.items(),
                (OTHERS, counts.others),
                (None, counts.nulls),
            ]
            found += [SliceTally(column=name, value=value, rows=rows) for value, rows in values if rows]
    return found


def _refused(quarantine: str | Path, label: str) -> Refused:
    import polars as pl

    rows = scan(quarantine).drop(label, strict=False)
    reasons = rows.group_by(REASONS).agg(pl.len().alias("rows")).sort(["rows", REASONS], descending=[True, False])
    counted = reasons.head(_REASONS).collect()
    samples = rows.head(_SAMPLES).collect()
    shown = [{name: _cell(value) for name, value in row.items()} for row in samples.iter_rows(named=True)]
    return Refused(dict(counted.iter_rows()), shown)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= _CELL else text[: _CELL - 3] + "..."
