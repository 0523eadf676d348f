"""Scores a share of a batch: some of its parts, each at most once however often the run is cut short."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shipway.dataset import DatasetInfo, read_info
from shipway.dataset.parts import MANIFEST
from shipway.dataset.quarantine import quarantined_rows
from shipway.errors import InputError
from shipway.lineage.batches import BATCH_FILE, BatchInfo
from shipway.lineage.digests import digest_file, digest_json
from shipway.lineage.documents import Release, read_document
from shipway.lineage.files import write_text
from shipway.lineage.project import run_id as environment_run_id
from shipway.model.fetch import fetch_package
from shipway.model.profile import Profile, Profiler, class_name
from shipway.predict.finished import Begun, FinishedPart, FinishedParts
from shipway.predict.publish import published
from shipway.predict.score import PartScorer
from shipway.predict.tally import Tally
from shipway.spec import DataSection, InferenceSection, load_section

if TYPE_CHECKING:
    import polars as pl

    from shipway.model.package import Package

_PARTITION = re.compile(r"(\d{1,4})/(\d{1,4})")


@dataclass(frozen=True)
class Share:
    """What a step has scored.

    Attributes:
        info: The batch, with the parts and slices of this share.
        reused: How many parts an earlier attempt had finished.
    """

    info: BatchInfo
    reused: int

    @property
    def facts(self) -> dict[str, Any]:
        """What is worth showing."""
        info = self.info
        known = {"batch": info.batch, "version": info.version, "batch_run_id": info.run_id}
        return {**known, "predicted": info.predicted, "parts": len(info.parts), "parts_found": self.reused}


@dataclass(frozen=True)
class _Part:
    """A part of the batch's rows.

    Attributes:
        name: Its file name, and that of its predictions.
        path: Its file.
        first: The number of its first row in the batch.
        left_out: Numbers in the part of the rows that were set aside.
    """

    name: str
    path: Path
    first: int
    left_out: npt.NDArray[np.int64]

    @property
    def source(self) -> str:
        """Digest of what its predictions are made from; the number of its first row is among them."""
        return digest_json([digest_file(self.path), self.first, self.left_out.tolist()])


def predict_share(
    dataset: str | Path,
    quarantine: str | Path,
    release: str | Path,
    predictions: str | Path,
    profile: str | Path,
    inference: str,
    data: str,
    partition: str,
    run_id: str = "",
) -> Share:
    """Scores a share of the rows; parts that an earlier attempt finished are taken as they are.

    Args:
        dataset: The rows.
        quarantine: The rows that are not to be scored; see `shipway.dataset.quarantine`.
        release: The version that scores.
        predictions: Where the predictions go: a dataset, and `batch.json`.
        profile: Where the Profile of the share goes.
        inference: The spec's section inference, as a pipeline parameter.
        data: The spec's section data.
        partition: Which share, as INDEX/COUNT.
        run_id: The run's id, where the environment names none.

    Raises:
        InputError: The rows do not fit the model, or a setting does not fit the rows.
        DigestMismatchError: The package is not the one that was registered.
        ShipwayError: The model gives no finite prediction for a row.
    """
    from shipway.model.package import Package

    section = load_section(InferenceSection, inference)
    chosen = read_document(Release, release)
    with tempfile.TemporaryDirectory(prefix="shipway-predict-") as scratch:
        package = Package.load(fetch_package(chosen.package_uri, scratch), digest=chosen.digest)
        info = _describe(Path(dataset), Path(quarantine), chosen, package, section, load_section(DataSection, data).key)
        parts = list(_share(Path(dataset), Path(quarantine), partition))
        finished = FinishedParts(info.batch)
        with finished.held():
            begun = _begun(finished, info.batch, section.output, environment_run_id() or run_id)
            info = info.model_copy(update={"run_id": begun.run_id, "began": begun.began})
            scorer = PartScorer(package, info.version, info.run_id, [*info.key, *info.columns], section.slices)
            folder = _empty(Path(predictions))
            scored = [_take_or_score(finished, scorer, part, info.run_id, folder) for part in parts]
        empty = Profiler(package.statistics(), package.info, package.prediction_statistics()).profile()
    total = reduce(Profile.plus, (part.profile for part, _ in scored), empty)
    tally = Tally(section.slices)
    for part, _ in scored:
        tally.merge(part.slices)
    counts = {"predicted": sum(part.predicted for part, _ in scored), "parts": [part.name for part in parts]}
    info = info.model_copy(update={**counts, "slices": tally.slices()})
    total.write(profile)
    write_manifest(folder, info)
    return Share(info, sum(found for _, found in scored))


def write_manifest(folder: Path, info: BatchInfo) -> None:
    """Writes what makes a folder of parts a dataset, and then `batch.json`."""
    columns: dict[str, pl.DataType] = {}
    if info.parts:
        import polars as pl

        columns = dict(pl.read_parquet_schema(folder / info.parts[0]))
    described = DatasetInfo(
        version=digest_json({"batch": info.batch, "run": info.run_id, "parts": info.parts}),
        rows=info.predicted,
        columns={name: str(dtype) for name, dtype in columns.items()},
        parts=info.parts,
        sources=[f"{info.model} version {info.version}, batch {info.batch}"],
    )
    write_text(folder / MANIFEST, described.model_dump_json(indent=2) + "\n")
    info.write(folder / BATCH_FILE)


def take(source: Path, target: Path) -> None:
    """Gives a file a second place: a link where that is possible, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _describe(
    dataset: Path, quarantine: Path, release: Release, package: Package, section: InferenceSection, key: list[str]
) -> BatchInfo:
    """Returns what is known of the batch before anything is scored, with its id."""
    rows, aside = read_info(dataset), read_info(quarantine)
    columns = [name for name in dict.fromkeys(section.columns) if name not in key]
    settings = {"key": key, "columns": columns, "slices": section.slices}
    contents = {"rows": rows.version, "quarantine": [aside.version, aside.rows], "model": release.digest}
    identity = digest_json({"format": 1, "name": release.name, "version": release.version, **contents, **settings})
    return BatchInfo(
        batch=identity.removeprefix("sha256:")[:20],
        model=release.name,
        version=release.version,
        digest=release.digest,
        task=package.info.task,
        classes=[class_name(value) for value in package.info.classes],
        run_id="",
        began="",
        data_version=rows.version,
        rows=rows.rows,
        quarantined=aside.rows,
        predicted=0,
        key=key,
        columns=columns,
        parts=[],
    )


def _share(dataset: Path, quarantine: Path, partition: str) -> Iterator[_Part]:
    import pyarrow.parquet as pq

    read = _PARTITION.fullmatch(partition)
    if read is None or not int(read[1]) < int(read[2]):
        raise InputError(f"partition: expected INDEX/COUNT with INDEX from 0 to COUNT - 1, as 0/1, found {partition!r}")
    index, count = int(read[1]), int(read[2])
    left_out = quarantined_rows(quarantine)
    first = 0
    for place, name in enumerate(read_info(dataset).parts):
        path = dataset / name
        if not path.is_file():
            raise InputError(f"{dataset}: damaged dataset: {name} is missing")
        rows = pq.read_metadata(path).num_rows
        if place % count == index:
            low, high = np.searchsorted(left_out, [first, first + rows])
            yield _Part(name, path, first, left_out[low:high] - first)
        first += rows


def _begun(finished: FinishedParts, batch: str, output: str | None, run_id: str) -> Begun:
    """Returns which run began the batch: the one that published it, or left finished parts, or this one."""
    known = published(output, batch) if output else None
    if known is not None:
        return Begun(run_id=known.run_id, began=known.began)
    return finished.begin(Begun(run_id=run_id, began=datetime.now(UTC).isoformat(timespec="seconds")))


def _empty(folder: Path) -> Path:
    """Makes a folder without what an earlier attempt left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _take_or_score(
    finished: FinishedParts, scorer: PartScorer, part: _Part, run_id: str, folder: Path
) -> tuple[FinishedPart, bool]:
    # A part has the run's id in it; one may be left of a run whose folder was half removed when it was killed.
    source = digest_json([part.source, run_id])
    known = finished.find(part.name, source)
    done = known
    if done is None:
        path = finished.folder / part.name
        scored = scorer.score(part.path, part.first, part.left_out, path)
        done = FinishedPart(
            source=source,
            digest=digest_file(path),
            predicted=scored.predicted,
            profile=scored.profile,
            slices=scored.slices,
        )
        finished.finish(part.name, done)
    take(finished.folder / part.name, folder / part.name)
    return done, known is not None
