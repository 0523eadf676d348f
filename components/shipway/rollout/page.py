"""The report of a rollout as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shipway.lineage.html import Markup, page, section, table, text
from shipway.rollout.memory import StepReport
from shipway.rollout.rules import REQUESTS, Verdict

if TYPE_CHECKING:
    from shipway.rollout.report import RolloutReport

_COLOURS = {"live": "ok", "rolled_back": "bad", "halted": "info"}


def rollout_page(report: RolloutReport) -> str:
    """Returns the report as a whole HTML page."""
    words = {rule.key: rule.text + (" (dry run)" if rule.dry_run else "") for rule in report.rules}
    words[REQUESTS] = "enough requests"
    body = [section("Why", Markup(f"<p>{text(report.reason)}</p>")), _times(report), _steps(report)]
    body += [_evidence(step, words) for step in report.steps]
    if report.rules:
        rows = [(rule.text, rule.action, "dry run" if rule.dry_run else "") for rule in report.rules]
        note = Markup(
            f"<p>All rules together end the rollout of an equal version with a probability of at most "
            f"{text(f'{report.false_alarm:g}')}, however often one looks.</p>"
        )
        body.append(section("Rules", note, table(["rule", "once violated", ""], rows)))
    if report.skipped:
        body.append(section("What was given up", table([""], [(skipped,) for skipped in report.skipped])))
    facts = [
        ("candidate", f"version {report.version}, {report.digest}"),
        (
            "old version",
            f"version {report.stable_version}, {report.stable_digest}" if report.stable_version else "none",
        ),
        ("marked as bad", "yes" if report.marked else "no"),
    ]
    body.append(section("Versions", table(["", ""], facts)))
    versus = f" after version {report.stable_version}" if report.stable_version else ""
    return page(
        f"Rollout of {report.name} {report.version}",
        "".join(body),
        status=_COLOURS[report.outcome],
        badge=report.outcome.replace("_", " "),
        lead=f"{report.strategy}: version {report.version}{versus}",
    )


def _times(report: RolloutReport) -> Markup:
    times = report.timings
    rows = [
        ("began", _moment(times.started)),
        ("first answered callers", _moment(times.traffic)),
        ("trouble began", _moment(times.first_bad)),
        ("way back decided", _moment(times.decided)),
        ("old version had all traffic", _moment(times.back)),
        ("ended", _moment(times.ended)),
        ("seconds from first trouble to decision", _seconds(report.seconds_to_decide)),
        ("seconds from first trouble to all traffic back", _seconds(report.seconds_to_roll_back)),
    ]
    return section("Times", table(["", ""], [row for row in rows if row[1]]))


def _steps(report: RolloutReport) -> Markup:
    rows = [
        (
            step.label,
            _moment(step.since),
            _seconds(step.until - step.since if step.until is not None else None),
            step.requests,
            step.baseline_requests,
            step.ended,
        )
        for step in report.steps
    ]
    heads = ["step", "since", "seconds", "requests", "baseline's requests", "ended by"]
    return section("Steps", table(heads, rows) if rows else Markup("<p>No traffic was shifted step by step.</p>"))


def _evidence(step: StepReport, words: Mapping[str, str]) -> Markup:
    if not step.verdicts:
        return Markup("")
    rows = [
        (
            words.get(verdict.key, verdict.key),
            _state(verdict),
            _number(verdict.value),
            _number(verdict.bound),
            _number(verdict.baseline),
            _number(verdict.evidence),
            _number(verdict.wanted),
            verdict.note,
        )
        for verdict in step.verdicts
    ]
    heads = ["rule", "verdict", "candidate", "bound", "baseline", "evidence", "counts from", "note"]
    return section(f"Evidence at {step.label}", table(heads, rows))


def _state(verdict: Verdict) -> Markup:
    style = {"ok": "passed", "violated": "failed"}.get(verdict.state, "")
    word = verdict.state if verdict.needed or verdict.state != "unclear" else "not judged"
    return Markup(f'<span class="{style}">{text(word)}</span>')


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _moment(value: float | None) -> str:
    return "" if value is None else datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
