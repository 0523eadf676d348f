"""From an observation to the findings of a check, its pages and its place among the past ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from shipway.errors import InputError
from shipway.lineage.documents import (
    CategoryStatistics,
    MonitorFindings,
    NumberStatistics,
    read_document,
)
from shipway.lineage.files import write_text
from shipway.lineage.metadata import safe_metadata
from shipway.model.profile import CategoryCounts, NumberCounts, Profile
from shipway.monitor.evidently_report import evidently_page
from shipway.monitor.gather import Watched
from shipway.monitor.history import keep_check, keeps_history
from shipway.monitor.measure import measure
from shipway.monitor.observation import (
    HISTORY,
    LABELLED,
    OBSERVATION,
    PREDICTION,
    PROFILE,
    SAMPLE,
    Observation,
)
from shipway.monitor.page import check_page
from shipway.spec import EvaluateSection, load_section
from shipway.spec.watch import MonitorSection

if TYPE_CHECKING:
    import polars as pl

_HISTORY: TypeAdapter[list[MonitorFindings]] = TypeAdapter(list[MonitorFindings])


@dataclass(frozen=True, slots=True)
class Check:
    """A check that was made.

    Attributes:
        findings: What it found.
        reports: Title -> page.
    """

    findings: MonitorFindings
    reports: dict[str, str]

    @property
    def facts(self) -> dict[str, Any]:
        """What is worth showing of it."""
        found = self.findings
        return {
            "decision": found.decision,
            "version": found.version,
            "rows": found.rows,
            "drifted": found.drifted,
            "drifted_share": found.drifted_share,
            "prediction_psi": found.prediction.psi,
            "reasons": found.reasons,
        }

    def log(self, metrics: Any) -> None:
        """Fills KFP's `Metrics`."""
        for name, value in safe_metadata(metric_values(self.findings)).items():
            metrics.log_metric(name, value)


def monitor(
    folder: str | Path,
    findings_path: str | Path,
    report_path: str | Path,
    drift_path: str | Path,
    name: str,
    monitor: str,
    evaluate: str,
) -> Check:
    """Measures what was observed, decides by the spec's rules, and writes findings and pages.

    Args:
        folder: What `observe` wrote.
        findings_path: Where the MonitorFindings document goes.
        report_path: Where the page of findings and trends goes.
        drift_path: Where Evidently's page goes.
        name: The model.
        monitor: The spec's section monitor.
        evaluate: The spec's section evaluate.

    Raises:
        InputError: The folder is no observation, or of another model; or the past checks' place cannot be written.
    """
    section = load_section(MonitorSection, monitor)
    seen = _Seen.read(Path(folder))
    if seen.observation.name != name:
        raise InputError(f"{folder}: an observation of {seen.observation.name!r}, expected one of {name!r}")
    past = seen.past
    findings = measure(
        seen.observation,
        seen.watched,
        seen.profile,
        seen.labelled,
        past,
        section,
        load_section(EvaluateSection, evaluate),
    )
    findings.write(findings_path)
    references, counts = seen.compared(list(findings.measures))
    # A rule may count further back than the page shows.
    shown = past[-(section.trend - 1) :]
    write_text(report_path, check_page(findings, seen.observation, shown, references, counts, PREDICTION))
    if keeps_history(section):
        keep_check(section, findings)
    evidently_page(drift_path, references, counts, seen.sample, section)
    return Check(findings, {"Monitoring": str(report_path), "Drift (Evidently)": str(drift_path)})


def metric_values(findings: MonitorFindings) -> dict[str, float | None]:
    """Returns a check's figures, flat: `drifted_share`, `prediction_psi`, `psi.FEATURE`, `performance.METRIC`, ..."""
    values: dict[str, float | None] = {
        "rows": findings.rows,
        "labelled_rows": findings.labelled_rows,
        "drifted_share": findings.drifted_share,
        "prediction_psi": findings.prediction.psi,
        "prediction_js": findings.prediction.js,
    }
    values.update({f"psi.{name}": found.psi for name, found in findings.measures.items()})
    values.update({f"performance.{name}": found.value for name, found in findings.performance.items()})
    values.update({f"service.{name}": found.value for name, found in findings.service.items()})
    return values


@dataclass(frozen=True, slots=True)
class _Seen:
    """An observation, read."""

    observation: Observation
    watched: Watched
    profile: Profile
    sample: pl.DataFrame | None
    labelled: pl.DataFrame | None
    past: Sequence[MonitorFindings]

    @classmethod
    def read(cls, folder: Path) -> _Seen:
        import polars as pl

        observation = read_document(Observation, folder / OBSERVATION)
        watched = Watched.read(folder)
        try:
            past = _HISTORY.validate_json((folder / HISTORY).read_bytes())
            sample, labelled = (
                pl.read_parquet(folder / file) if (folder / file).is_file() else None for file in (SAMPLE, LABELLED)
            )
        except (OSError, ValidationError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{folder}: damaged observation: {str(error).splitlines()[0]}") from error
        return cls(observation, watched, read_document(Profile, folder / PROFILE), sample, labelled, past)

    def compared(
        self, features: Sequence[str]
    ) -> tuple[dict[str, NumberStatistics | CategoryStatistics], dict[str, NumberCounts | CategoryCounts]]:
        """Returns the statistics and the counts of features and of the predictions."""
        references = {name: self.watched.statistics.columns[name] for name in features}
        counts = {name: self.profile.columns[name] for name in features}
        if self.watched.predictions is not None and self.profile.predictions is not None:
            references[PREDICTION] = self.watched.predictions
            counts[PREDICTION] = self.profile.predictions
        return references, counts
