"""From what was observed of a version to the findings of a check: a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shipway.lineage.documents import MonitorFindings
from shipway.monitor.decide import decide
from shipway.monitor.drift import drift_of
from shipway.monitor.health import service_of
from shipway.monitor.observation import SLICE
from shipway.monitor.performance import performance_of

if TYPE_CHECKING:
    import polars as pl

    from shipway.model.profile import Profile
    from shipway.monitor.gather import Watched
    from shipway.monitor.observation import Observation
    from shipway.spec import EvaluateSection, MonitorSection


def measure(
    observation: Observation,
    watched: Watched,
    profile: Profile,
    labelled: pl.DataFrame | None,
    past: Sequence[MonitorFindings],
    section: MonitorSection,
    evaluate: EvaluateSection,
) -> MonitorFindings:
    """Measures what was observed and judges it by the spec's rules.

    Args:
        observation: What the version did.
        watched: Its package: what drift is measured against.
        profile: Counts of the window's rows.
        labelled: Predictions whose labels are known, as `shipway.monitor.observation` describes; None for none.
        past: Earlier checks, the oldest first.
        section: The spec's monitor section.
        evaluate: The spec's evaluate section.

    Raises:
        ShipwayError: The profile is one against other statistics.
    """
    measures, prediction = drift_of(watched.statistics, watched.predictions, profile, section)
    if labelled is not None:
        labelled = labelled.rename({name: name.removeprefix(SLICE) for name in labelled.columns})
    performance = performance_of(watched.info, labelled, observation.evaluation, evaluate)
    enough = observation.rows >= section.least_rows
    drifted = [name for name, drift in measures.items() if drift.exceeded] if enough else []
    findings = MonitorFindings(
        model=observation.name,
        version=observation.version,
        digest=observation.digest,
        since=observation.since,
        until=observation.until,
        rows=observation.rows,
        source=observation.source,
        decision="ok",
        reasons=[*observation.notes, *performance.notes],
        measures=measures,
        drifted=drifted,
        drifted_share=len(drifted) / len(measures) if enough and measures else None,
        prediction=prediction,
        performance=performance.metrics,
        slices=performance.slices,
        labelled_rows=labelled.height if labelled is not None else 0,
        least_rows=section.least_rows,
        service=service_of(observation.service, observation.baseline),
    )
    return decide(findings, section.rules, watched.info.task, section.least_rows, past)
