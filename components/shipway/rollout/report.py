"""The report of a rollout: a JSON document, and an HTML page beside it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from shipway.lineage.documents import Document
from shipway.lineage.files import write_text
from shipway.rollout.memory import Memory, Outcome, StepReport, Timings
from shipway.rollout.page import rollout_page
from shipway.rollout.plan import Plan


class RuleText(BaseModel):
    """A rule and what follows from it."""

    key: str
    text: str
    action: str
    dry_run: bool = False


class RolloutReport(Document):
    """How a rollout or a rollback went.

    Attributes:
        name: The model's name.
        strategy: canary, blue_green, shadow, or rollback.
        version: The candidate's version.
        digest: Its package's digest.
        stable_version: The old version; "" for a first rollout.
        stable_digest: Its package's digest.
        outcome: `live`, `rolled_back` or `halted`.
        reason: Why.
        marked: Whether the version is marked, and not promoted again without an override.
        false_alarm: The stated chance that an equal version's rollout is ended.
        rules: What was judged.
        steps: Phase by phase, with the last look's numbers.
        timings: When what happened, seconds since the epoch.
        seconds_to_decide: From the first bad response to the decision; None where nothing was bad.
        seconds_to_roll_back: From the first bad response to all traffic on the old version.
        skipped: What was given up, with the reason.
    """

    name: str
    strategy: str
    version: str
    digest: str
    stable_version: str = ""
    stable_digest: str = ""
    outcome: Outcome
    reason: str
    marked: bool = False
    false_alarm: float = 0.0
    rules: list[RuleText] = Field(default_factory=list)
    steps: list[StepReport] = Field(default_factory=list)
    timings: Timings
    seconds_to_decide: float | None = None
    seconds_to_roll_back: float | None = None
    skipped: list[str] = Field(default_factory=list)


def report_of(memory: Memory, plan: Plan) -> RolloutReport:
    """Returns the report of a rollout that is done."""
    stable = memory.stable.release if memory.stable is not None else None
    times = memory.timings
    first = times.first_bad if times.first_bad is not None else times.decided
    return RolloutReport(
        name=memory.name,
        strategy=memory.strategy or plan.strategy,
        version=memory.candidate.release.version,
        digest=memory.candidate.release.digest,
        stable_version=stable.version if stable else "",
        stable_digest=stable.digest if stable else "",
        outcome=memory.outcome or "halted",
        reason=memory.reason,
        marked=memory.mark,
        false_alarm=plan.false_alarm if plan.rules else 0.0,
        rules=[RuleText(key=rule.key, text=rule.text, action=rule.action, dry_run=rule.dry_run) for rule in plan.rules],
        steps=memory.steps,
        timings=times,
        seconds_to_decide=_between(first, times.decided),
        seconds_to_roll_back=_between(first, times.back),
        skipped=memory.skipped,
    )


def write_report(report: RolloutReport, path: Path) -> None:
    """Writes the HTML page, and the document beside it with the suffix .json."""
    report.write(path.with_suffix(".json"))
    write_text(path, rollout_page(report))


def _between(first: float | None, last: float | None) -> float | None:
    return None if first is None or last is None else round(max(last - first, 0.0), 3)
