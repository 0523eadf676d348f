"""Gathers all that a check of a model in use needs: the only part of monitoring that reaches for anything outside."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shipway.endpoints.open import log_uri, open_endpoint
from shipway.endpoints.protocol import revision_id
from shipway.endpoints.window import Window
from shipway.errors import DigestMismatchError, InputError, ShipwayError
from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import MonitorFindings, Release, read_document
from shipway.lineage.files import atomic_folder, write_json
from shipway.model.fetch import fetch_package
from shipway.model.promotion import baseline_of, evaluation_of
from shipway.monitor.batch_rows import Batches, gather_batches
from shipway.monitor.gather import Gathered, Watched
from shipway.monitor.history import keeps_history, past_checks
from shipway.monitor.labels import has_labels, join_labels
from shipway.monitor.log_rows import Span, gather_log
from shipway.monitor.observation import (
    HISTORY,
    LABELLED,
    OBSERVATION,
    PROFILE,
    SAMPLE,
    SLICE,
    LabelCounts,
    Observation,
    iso,
    located,
    moment,
)
from shipway.spec import DataSection, EvaluateSection, load_endpoint, load_section
from shipway.spec.resources import duration_seconds
from shipway.spec.watch import MonitorSection

if TYPE_CHECKING:
    import polars as pl

_PRODUCTION = "production"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a check is about."""

    release: Release
    section: MonitorSection
    data: DataSection
    slices: list[str]
    since: float
    until: float

    @property
    def key(self) -> list[str]:
        labels = self.section.labels
        return [] if labels is None else labels.key or self.data.key

    @property
    def labelled_since(self) -> float:
        late = duration_seconds(self.section.labels.late) if self.section.labels else 0
        return min(self.since, self.until - late)


@dataclass(frozen=True, slots=True)
class _Service:
    window: Window | None = None
    baseline: dict[str, object] | None = None
    notes: Sequence[str] = ()


def observe(
    release_path: str | Path,
    folder: str | Path,
    name: str,
    monitor: str,
    endpoint: str,
    data: str,
    evaluate: str,
    predictions: str = "",
    until: str = "",
) -> Observation:
    """Gathers what a version did, and writes it to a folder as `shipway.monitor.observation` describes.

    Args:
        release_path: The Release document of the version.
        folder: Where the observation goes; replaced if it exists.
        name: The model.
        monitor: The spec's section monitor.
        endpoint: The endpoint's settings; "" for none, when batches are looked at.
        data: The spec's section data.
        evaluate: The spec's section evaluate.
        predictions: Batch predictions to look at, instead of what the section names.
        until: End of the window, ISO; "" for now.

    Raises:
        InputError: There is neither a log nor a batch to look at, or something cannot be read.
        DigestMismatchError: The package's bytes are not the release's.
        ShipwayError: MLflow cannot be reached.
    """
    section = load_section(MonitorSection, monitor)
    end = moment(until) if until else time.time()
    asked = _Asked(
        release=read_document(Release, release_path),
        section=section,
        data=load_section(DataSection, data),
        slices=load_section(EvaluateSection, evaluate).slices,
        since=end - duration_seconds(section.window),
        until=end,
    )
    if section.labels is not None and not asked.key:
        raise InputError("monitor.labels.key: missing, and data.key names no column; expected the columns of the key")
    watched = _watched(asked.release)
    named = predictions or section.predictions
    place = located(named) if named else ""
    gathered, where = _batches(asked, watched, place) if place else _log(asked, watched, name, endpoint)
    labels, labelled, notes = _labels(asked, watched, gathered)
    service = _Service() if place else _service(asked.release, name, endpoint, asked.since, end)
    history, unread = past_checks(section, name, iso(end))
    observation = Observation(
        name=name,
        version=asked.release.version,
        digest=asked.release.digest,
        since=iso(asked.since),
        until=iso(end),
        source="batch" if place else "log",
        place=where,
        rows=gathered.rows,
        labels=labels,
        service=service.window,
        baseline=service.baseline,
        evaluation=evaluation_of(asked.release.name, asked.release.version),
        notes=[*gathered.notes, *notes, *service.notes, *unread, *_no_history(section)],
    )
    _write(Path(folder), observation, watched, gathered, labelled, history)
    return observation


def _watched(release: Release) -> Watched:
    with tempfile.TemporaryDirectory(prefix="shipway-watched-") as scratch:
        package = fetch_package(release.package_uri, scratch)
        found = digest_tree(package)
        if found != release.digest:
            raise DigestMismatchError(
                f"{release.name} version {release.version}: the package at {release.package_uri} has digest {found}, "
                f"expected {release.digest}"
            )
        return Watched.read(package)


def _log(asked: _Asked, watched: Watched, name: str, endpoint: str) -> tuple[Gathered, str]:
    uri = log_uri(name, load_endpoint(endpoint).endpoint)
    if not uri:
        raise InputError(
            "monitoring needs the prediction log, and the endpoint has none: set endpoint.log.uri (and endpoint.log."
            "share above 0), or name batch predictions in monitor.predictions"
        )
    revision = revision_id(asked.release.version, asked.release.digest)
    span = Span(uri, revision, asked.since, asked.until, asked.labelled_since)
    return gather_log(span, watched, asked.section.sample, asked.key, asked.slices), uri


def _batches(asked: _Asked, watched: Watched, place: str) -> tuple[Gathered, str]:
    batches = Batches(place, asked.release.digest, asked.since, asked.until, asked.labelled_since)
    return gather_batches(batches, watched, asked.key, asked.slices), place


def _labels(
    asked: _Asked, watched: Watched, gathered: Gathered
) -> tuple[LabelCounts | None, pl.DataFrame | None, list[str]]:
    """Returns how many labels have come, the predictions that have one, and what is to be said of it."""
    section = asked.section.labels
    if section is None or gathered.predicted is None:
        return None, None, []
    since = iso(asked.labelled_since)
    predicted = gathered.predicted.frame()
    if predicted is None or not has_labels(section):
        missing = "no prediction has a key" if predicted is None else f"there is no Parquet file at {section.uri}"
        count = predicted.height if predicted is not None else 0
        return LabelCounts(since=since, predicted=count, labelled=0), None, [f"no labels: {missing}"]
    joined, unknown = join_labels(predicted, asked.key, section, asked.data, watched.info)
    counts = LabelCounts(since=since, predicted=predicted.height, labelled=joined.height, unknown=unknown)
    missing_slices = [name for name in asked.slices if f"{SLICE}{name}" not in joined.columns]
    notes = [f"no slices by {column}: it is not among the columns of the predictions" for column in missing_slices]
    if unknown:
        notes.append(f"{unknown:,} labels are none that the model knows, and do not count")
    return counts, joined, notes


def _service(release: Release, name: str, endpoint: str, since: float, until: float) -> _Service:
    """Returns what the endpoint counted; monitoring of the data goes on where that cannot be had."""
    baseline = baseline_of(release.name, release.version)
    served = open_endpoint(name, load_endpoint(endpoint), _PRODUCTION)
    try:
        found = served.windows(since, until)
    except ShipwayError as error:
        return _Service(baseline=baseline, notes=[f"the service's figures cannot be had: {error}"])
    revision = revision_id(release.version, release.digest)
    mine = [window for place, window in sorted(found.items()) if place == revision or place.startswith(f"{revision}-")]
    if not mine:
        return _Service(baseline=baseline, notes=[f"the endpoint does not serve version {release.version}"])
    whole = mine[0]
    for window in mine[1:]:
        whole = whole.plus(window.model_copy(update={"revision": whole.revision}))
    # Its features and predictions are counted anew from the log, in finer bins.
    return _Service(whole.model_copy(update={"predictions": None, "features": {}}), baseline)


def _no_history(section: MonitorSection) -> list[str]:
    if keeps_history(section):
        return []
    return ["past checks are not kept, so that no rule can ask for several in a row: monitor.history names a place"]


def _write(
    folder: Path,
    observation: Observation,
    watched: Watched,
    gathered: Gathered,
    labelled: pl.DataFrame | None,
    history: Sequence[MonitorFindings],
) -> None:
    with atomic_folder(folder) as work:
        watched.write(work)
        gathered.profile.write(work / PROFILE)
        if gathered.sample is not None:
            gathered.sample.write_parquet(work / SAMPLE)
        if labelled is not None:
            labelled.write_parquet(work / LABELLED)
        write_json(work / HISTORY, [check.model_dump(mode="json") for check in history])
        observation.write(work / OBSERVATION)
