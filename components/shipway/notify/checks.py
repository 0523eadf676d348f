"""Tells what a step found: of a check of production, and of a model that the gates did not bless."""

from __future__ import annotations

import time
from pathlib import Path

from shipway.lineage.documents import Blessing, MonitorFindings, read_document
from shipway.lineage.files import read_json
from shipway.lineage.project import run_id
from shipway.notify.alerts import Alert, Severity
from shipway.notify.send import tell

_SEVERITIES: dict[str, Severity] = {"ok": "info", "alert": "warning", "retrain": "warning", "rollback": "incident"}
_MOST_REASONS = 5


def tell_findings(path: str | Path, name: str, notify: str) -> Alert:
    """Tells of what a step found; the same findings told again are the same event.

    Args:
        path: A check's MonitorFindings, or the Blessing that a model did not get: on a cluster a run ends well without
            it, so that its report has nothing to tell.
        name: The model's name.
        notify: The spec's section notify, as the pipelines' JSON parameter.

    Returns:
        What was told.

    Raises:
        InputError: There is no such document.
    """
    if Path(path).is_file() and "evaluation_digest" in read_json(path):
        alert = alert_of_verdict(read_document(Blessing, path), name)
    else:
        alert = alert_of(read_document(MonitorFindings, path), name)
    tell(alert, notify)
    return alert


def alert_of_verdict(blessing: Blessing, name: str) -> Alert:
    """Returns the alert of a model that was rejected; in a local run it is the one that its report would tell.

    Args:
        blessing: The gates' verdict.
        name: The model's name.
    """
    run = run_id()
    return Alert(
        name=name,
        kind="rejected",
        severity="warning",
        text=f"{name}: the gates did not bless model {blessing.model_digest}: {_some(blessing.reasons)}",
        time=time.time(),
        key=f"run/{name}/{run}/rejected" if run else f"rejected/{name}/{blessing.model_digest}",
        facts={"digest": blessing.model_digest, "reasons": blessing.reasons},
    )


def alert_of(findings: MonitorFindings, name: str) -> Alert:
    """Returns the alert of a check: `drift` where something follows from it, else `checked`.

    Args:
        findings: What the check found.
        name: The model's name.
    """
    quiet = findings.decision == "ok"
    window = f"{findings.rows} predictions from {findings.since} to {findings.until}"
    why = _some(findings.reasons)
    verdict = "nothing to do" if quiet else findings.decision
    text = f"{name} version {findings.version}: {verdict} after {window}{': ' + why if why else ''}"
    return Alert(
        name=name,
        kind="checked" if quiet else "drift",
        severity=_SEVERITIES.get(findings.decision, "warning"),
        text=text,
        time=time.time(),
        key=f"monitor/{name}/{findings.version}/{findings.until}",
        facts={
            "version": findings.version,
            "decision": findings.decision,
            "since": findings.since,
            "until": findings.until,
            "drifted": findings.drifted,
            "reasons": findings.reasons,
            "gauges": findings.gauges(),
            "metrics": {metric: found.value for metric, found in findings.performance.items()},
        },
    )


def _some(reasons: list[str]) -> str:
    more = len(reasons) - _MOST_REASONS
    return "; ".join(reasons[:_MOST_REASONS]) + (f"; and {more} more" if more > 0 else "")
