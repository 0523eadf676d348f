"""Scores a packaged model on the raw rows of the test part, and the champion on the same rows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shipway.dataset import batches, read_info, scan
from shipway.errors import DigestMismatchError, InputError, ShipwayError
from shipway.evaluate.bootstrap import worse_by
from shipway.evaluate.latency import measure_latency
from shipway.lineage.documents import ChampionComparison, Evaluation
from shipway.model.profile import class_name
from shipway.model.scoring import CALIBRATION_BINS, F64, I64, Ranking, Scorer, calibration_bin, true_values
from shipway.model.slices import SliceColumn, plan_slices, slice_metrics

if TYPE_CHECKING:
    import polars as pl

    from shipway.model.package import Package
    from shipway.spec import DataSection, EvaluateSection, Task

# The metric by which a reader first compares models of a task.
PRIMARY: dict[str, str] = {"binary": "roc_auc", "multiclass": "roc_auc", "regression": "rmse"}
ROC_POINTS = 200
_HISTOGRAM_BINS = 20
# Rows that the latency is measured with, in turn.
_SAMPLES = 1000


def evaluate_package(
    model: str | Path, test: str | Path, settings: EvaluateSection, data: DataSection, champion: str = ""
) -> Evaluation:
    """Loads a model package and evaluates it.

    Args:
        model: The package's folder.
        test: The test dataset (raw rows).
        settings: The spec's evaluate section.
        data: The spec's data section.
        champion: JSON with `version`, `digest` and `package_uri` of the model in use; "" when there is none.

    Raises:
        InputError: The test part is empty, lacks a column, or has labels unknown in training.
        DigestMismatchError: The champion's package is not the one that was registered.
        ShipwayError: A model gives no finite predictions, or the champion cannot score these rows.
    """
    from shipway.model.package import Package

    package = Package.load(model)
    if not champion:
        return evaluate(package, test, settings, data)
    from shipway.model.fetch import fetch_package

    known: dict[str, str] = json.loads(champion)
    if known["digest"] == package.digest:
        return evaluate(package, test, settings, data, champion=package, champion_version=known["version"])
    with tempfile.TemporaryDirectory(prefix="shipway-champion-") as folder:
        try:
            loaded = Package.load(fetch_package(known["package_uri"], folder), digest=known["digest"])
        except DigestMismatchError as error:
            raise DigestMismatchError(f"champion version {known['version']}: {error}") from error
        except ShipwayError as error:
            raise _unable(known["version"], error) from error
        return evaluate(package, test, settings, data, champion=loaded, champion_version=known["version"])


def evaluate(
    package: Package,
    test: str | Path,
    settings: EvaluateSection,
    data: DataSection,
    champion: Package | None = None,
    champion_version: str = "",
) -> Evaluation:
    """Evaluates a loaded package; see `evaluate_package`.

    Rows are read and predicted in batches; what stays in memory is a row's label, predictions and slice indices.
    """
    import polars as pl

    info = read_info(test)
    task = cast("Task", package.info.task)
    if data.label not in info.columns:
        raise InputError(f"{test}: the test part has no label column {data.label!r}; it has {', '.join(info.columns)}")
    labelled = scan(test).filter(pl.col(data.label).is_not_null())
    slices = plan_slices(labelled, settings.slices, "the test part")
    if champion is not None:
        _check_champion(champion, champion_version, package, info.columns)
    scored = _score(package, test, data.label, slices, champion, champion_version)
    if len(scored.truth) == 0:
        nulls = f" ({scored.dropped} rows without a label)" if scored.dropped else ""
        raise InputError(f"{test}: the test part has no row to evaluate on{nulls}")

    scorer = Scorer(task, scored.truth, scored.prediction, settings.threshold)
    details: dict[str, Any] = {
        "classes": [class_name(value) for value in package.info.classes],
        "dropped_rows": scored.dropped,
        "threshold": settings.threshold,
        "latency_rows": settings.latency_rows,
        # So that monitoring cuts the same slices.
        "slice_edges": {column.column: column.edges for column in slices if column.edges},
        **_details(task, scorer, scored),
    }
    comparison = None
    if champion is not None and scored.champion is not None:
        other = Scorer(task, scored.truth, scored.champion, settings.threshold)
        comparison = _compare(task, scorer, other, champion_version, champion.digest)
    return Evaluation(
        task=task,
        model_digest=package.digest,
        data_version=info.version,
        rows=len(scored.truth),
        metrics={**scorer.metrics(), **measure_latency(package, scored.samples, settings.latency_rows)},
        slices=slice_metrics(task, scored.truth, scored.prediction, scored.codes, slices, settings.threshold),
        min_slice_rows=settings.min_slice_rows,
        champion=comparison,
        details=details,
    )


def metric_values(evaluation: Evaluation, most_slices: int = 50) -> dict[str, float]:
    """Returns an evaluation as flat metrics for KFP: `roc_auc`, `slice.carrier=AA.roc_auc`, `champion.roc_auc`.

    Args:
        evaluation: The evaluation.
        most_slices: So many slices are given, by the task's first metric; the report has all.
    """
    values = dict(evaluation.metrics)
    values.update({f"champion.{name}": value for name, value in _champion_metrics(evaluation).items()})
    first = PRIMARY[evaluation.task]
    shown = [part for part in evaluation.slices if first in part.metrics][:most_slices]
    values.update({f"slice.{part.column}={part.value}.{first}": part.metrics[first] for part in shown})
    return values


@dataclass
class _Scored:
    """All rows that have a label, in order."""

    truth: Any
    prediction: F64
    champion: F64 | None
    codes: list[I64]
    samples: list[dict[str, Any]]
    dropped: int


def _score(
    package: Package,
    test: str | Path,
    label: str,
    slices: list[SliceColumn],
    champion: Package | None,
    champion_version: str,
) -> _Scored:
    same = champion is not None and champion.digest == package.digest
    inputs = [column.name for column in package.info.inputs]
    truths, predictions, champions = [], [], []
    codes: list[list[I64]] = [[] for _ in slices]
    samples: list[dict[str, Any]] = []
    dropped = 0
    for frame, nulls in _labelled(package, test, label, slices, champion):
        dropped += nulls
        if frame.height == 0:
            continue
        truths.append(true_values(package.info, frame[label], "the test part"))
        predictions.append(_predict(package, frame, "the model"))
        for place, column in zip(codes, slices, strict=True):
            place.append(column.codes(frame))
        if champion is not None and not same:
            champions.append(_predict_champion(champion, champion_version, package, frame))
        if not samples:
            samples = frame.head(_SAMPLES).select(inputs).to_dicts()
    prediction = np.concatenate(predictions) if predictions else np.empty((0, 1))
    return _Scored(
        truth=np.concatenate(truths) if truths else np.empty(0),
        prediction=prediction,
        champion=prediction if same else np.concatenate(champions) if champions else None,
        codes=[np.concatenate(parts) if parts else np.empty(0, dtype=np.int64) for parts in codes],
        samples=samples,
        dropped=dropped,
    )


def _labelled(
    package: Package, test: str | Path, label: str, slices: list[SliceColumn], champion: Package | None
) -> Iterator[tuple[pl.DataFrame, int]]:
    """Yields the rows with a label, only the columns needed, and how many rows had none."""
    from shipway.model.signature import require_columns

    found = read_info(test).columns
    require_columns(package.info.inputs, found)
    needed = {label, *(column.column for column in slices), *(column.name for column in package.info.inputs)}
    if champion is not None:
        needed.update(column.name for column in champion.info.inputs)
    for frame in batches(test, columns=[name for name in found if name in needed]):
        kept = frame.filter(frame[label].is_not_null())
        yield kept, frame.height - kept.height


def _predict(package: Package, frame: pl.DataFrame, who: str) -> F64:
    prediction = np.asarray(package.predict(frame), dtype=np.float64)
    bad = int((~np.isfinite(prediction)).any(axis=1).sum())
    if bad:
        raise ShipwayError(
            f"{who} gives NaN or infinite predictions for {bad} of the {frame.height} test rows of a batch"
        )
    return prediction


def _check_champion(champion: Package, version: str, package: Package, columns: dict[str, str]) -> None:
    """Refuses a champion that answers another question or needs columns that are gone."""
    if champion.info.task != package.info.task:
        raise _unable(version, f"it is a {champion.info.task} model, this one is {package.info.task}")
    if champion.info.label != package.info.label:
        raise _unable(version, f"it predicts {champion.info.label!r}, this one {package.info.label!r}")
    if set(champion.info.classes) != set(package.info.classes):
        raise _unable(version, f"its classes are {champion.info.classes}, this one's {package.info.classes}")
    missing = [column.name for column in champion.info.inputs if column.name not in columns]
    if missing:
        raise _unable(version, f"it needs columns that the test part does not have: {', '.join(missing)}")


def _predict_champion(champion: Package, version: str, package: Package, frame: pl.DataFrame) -> F64:
    try:
        prediction = _predict(champion, frame, "the champion")
    except ShipwayError as error:
        raise _unable(version, error) from error
    if package.info.task == "regression":
        return prediction
    return prediction[:, [champion.info.classes.index(value) for value in package.info.classes]]


def _unable(version: str, why: object) -> ShipwayError:
    return ShipwayError(
        f"champion version {version} cannot score the test rows: {why}. Give the alias `champion` to a version that "
        "can, or remove it to ship without a comparison."
    )


def _compare(task: Task, challenger: Scorer, champion: Scorer, version: str, digest: str) -> ChampionComparison:
    new, old = challenger.metrics(), champion.metrics()
    return ChampionComparison(
        version=version,
        digest=digest,
        metrics=old,
        difference={name: new[name] - old[name] for name in old if name in new},
        worse_by=worse_by(task, challenger, champion),
    )


def _details(task: Task, scorer: Scorer, scored: _Scored) -> dict[str, Any]:
    """Returns what the report draws: confusion matrix, ROC, reliability, histograms."""
    if task == "regression":
        residuals = scored.truth - scored.prediction[:, 0]
        counts, edges = np.histogram(residuals, bins=_HISTOGRAM_BINS)
        return {"residuals": {"edges": edges.tolist(), "counts": counts.tolist()}}
    details: dict[str, Any] = {"confusion": scorer.confusion().tolist()}
    if task == "multiclass":
        return details
    positive, score = scored.truth == 1, scored.prediction[:, 1]
    if positive.any() and not positive.all():
        false, true, thresholds = Ranking(positive, score).curve(ROC_POINTS)
        details["roc"] = {
            "false_positive_rate": false.tolist(),
            "true_positive_rate": true.tolist(),
            "threshold": thresholds.tolist(),
        }
    bins = calibration_bin(score)
    rows = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = rows > 0
    details["calibration"] = {
        "rows": rows[filled].tolist(),
        "probability": (np.bincount(bins, score, CALIBRATION_BINS)[filled] / rows[filled]).tolist(),
        "observed": (np.bincount(bins, positive, CALIBRATION_BINS)[filled] / rows[filled]).tolist(),
    }
    edges = np.linspace(0, 1, _HISTOGRAM_BINS + 1)
    details["scores"] = {
        "edges": edges.tolist(),
        "negative": np.histogram(score[~positive], edges)[0].tolist(),
        "positive": np.histogram(score[positive], edges)[0].tolist(),
    }
    return details


def _champion_metrics(evaluation: Evaluation) -> dict[str, float]:
    return evaluation.champion.metrics if evaluation.champion else {}
