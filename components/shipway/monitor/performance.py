"""How well a model does on the rows whose labels are known, beside what it did on the test part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shipway.errors import InputError
from shipway.lineage.documents import Compared, Evaluation, SliceMetrics
from shipway.model.scoring import Scorer
from shipway.model.slices import SliceColumn, plan_slices, slice_metrics

if TYPE_CHECKING:
    import polars as pl

    from shipway.model.package import PackageInfo
    from shipway.spec import EvaluateSection, Task


@dataclass(frozen=True)
class Performance:
    """What the labelled rows say.

    Attributes:
        metrics: Metric -> its value now and on the test part; latencies, which are another machine's, are left out.
        slices: The metrics of slices, those of numbers cut as on the test part.
        notes: What could not be looked at, and why.
    """

    metrics: dict[str, Compared] = field(default_factory=dict)
    slices: list[SliceMetrics] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def performance_of(
    info: PackageInfo, labelled: pl.DataFrame | None, evaluation: Evaluation | None, settings: EvaluateSection
) -> Performance:
    """Returns the metrics of `evaluate` and those of its slices.

    Args:
        info: The model.
        labelled: A row a prediction whose label is known: `truth` (index of the class, or the value), `outputs` (a
            list of the probabilities, or of the value), and any of the columns to slice by; None for none.
        evaluation: The model's, on the test part; None where it is not kept.
        settings: The spec's evaluate section.
    """
    if labelled is None or labelled.height == 0:
        return Performance()
    task = cast("Task", info.task)
    truth = labelled["truth"].to_numpy()
    prediction = np.array(labelled["outputs"].to_list(), dtype=np.float64).reshape(labelled.height, -1)
    found = Scorer(task, truth, prediction, settings.threshold).metrics()
    baseline = evaluation.metrics if evaluation is not None else {}
    planned, notes = _planned(labelled, evaluation, settings)
    codes = [column.codes(labelled) for column in planned]
    return Performance(
        metrics={name: Compared(value=value, baseline=baseline.get(name)) for name, value in found.items()},
        slices=slice_metrics(task, truth, prediction, codes, planned, settings.threshold),
        notes=notes,
    )


def _planned(
    labelled: pl.DataFrame, evaluation: Evaluation | None, settings: EvaluateSection
) -> tuple[list[SliceColumn], list[str]]:
    """Returns how each column is cut, and why some are not: rows of production are no reason to fail a check."""
    edges: Mapping[str, Any] = evaluation.details.get("slice_edges", {}) if evaluation is not None else {}
    planned, notes = [], []
    for name in settings.slices:
        if name not in labelled.columns:
            continue
        known = edges if labelled.schema[name].is_numeric() else {}
        try:
            planned += plan_slices(labelled.lazy(), [name], "the labelled rows", known)
        except InputError as error:
            notes.append(f"no slices by {name}: {error}")
    return planned, notes
