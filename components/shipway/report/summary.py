"""The summary of a run: what `summary.json` holds."""

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from shipway.errors import InputError, RejectedError, ShipwayError
from shipway.lineage.documents import Document, RuleResult
from shipway.lineage.files import read_json, write_json
from shipway.lineage.steps import StepRecord

RUN_FILE = "run.json"
STEPS_FILE = "steps.json"
SUMMARY_FILE = "summary.json"
PAGE_FILE = "index.html"


class _Goal(NamedTuple):
    """What a pipeline is for: the step that ends it well, the word for that, and the steps that know the rest."""

    step: str
    outcome: str
    version_from: str
    digest_from: str
    endpoint_from: str = ""
    decision_from: str = ""


_GOALS = {
    "training": _Goal("smoke", "shipped", "register", "train", "deploy", "gate"),
    "promotion": _Goal("rollout", "promoted", "candidate", "candidate", "rollout"),
    "rollback": _Goal("rollback", "rolled_back", "rollback", "rollback", "rollback"),
    "inference": _Goal("gather", "scored", "resolve", "resolve"),
    "monitoring": _Goal("monitor", "checked", "resolve", "resolve", decision_from="monitor"),
}
_EXIT_CODES = {error.kind: error.exit_code for error in (ShipwayError, InputError, RejectedError)}


class RunInfo(BaseModel):
    """What was known when the run began.

    Attributes:
        run_id: The run's id, also the name of its folder.
        name: The model's name.
        pipeline: Which pipeline ran.
        spec: The spec file.
        started: UTC time, ISO 8601.
        runner: What runs the steps.
        code_version: Git SHA of the project, or `unknown`.
        spec_digest: Digest of the spec with its overrides.
    """

    run_id: str
    name: str
    pipeline: str = "training"
    spec: str
    started: str
    runner: str
    code_version: str
    spec_digest: str


class StepState(BaseModel):
    """One step as the runner saw it, with the record that the step left.

    Attributes:
        name: The step's name.
        status: `running`, `succeeded`, `rejected`, `failed` or `skipped`.
        seconds: Wall time in this run (0 for a cached step).
        cached: Whether its outputs came from the cache.
        log: Path of its log, relative to the run folder.
        record: The record, also of the earlier run that a cached step's outputs come from.
    """

    name: str
    status: str
    seconds: float = 0.0
    cached: bool = False
    log: str = ""
    record: StepRecord | None = None


class StepSummary(BaseModel):
    """One step in the summary."""

    name: str
    status: str
    seconds: float
    cached: bool


class ModelSummary(BaseModel):
    """The model that the run made, promoted, put back, scored with, or checked.

    Attributes:
        name: Its name in the registry.
        version: Its registry version; None when it was not registered, or nothing is served.
        digest: Its package's digest; None when there is none.
        new_version: Whether this run registered it.
    """

    name: str
    version: str | None = None
    digest: str | None = None
    new_version: bool = False


class Summary(Document):
    """How a run ended; times are in seconds.

    `outcome` is `shipped` (training), `promoted`, `rolled_back`, `scored` (inference), `checked` (monitoring), or for
    every pipeline `rejected` or `failed`. `decision` is the gates' (`blessed`, `rejected`) or a check's (`ok`, `alert`,
    `retrain`, `rollback`).
    """

    run_id: str
    pipeline: str = "training"
    spec: str
    started: str
    seconds: float
    outcome: str
    exit_code: int
    failed_step: str | None = None
    reason: list[str] = Field(default_factory=list)
    steps: list[StepSummary]
    data_version: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    gates: list[RuleResult] = Field(default_factory=list)
    decision: str | None = None
    model: ModelSummary
    endpoint: str | None = None
    example: str | None = None
    code_version: str
    spec_digest: str
    facts: dict[str, dict[str, Any]] = Field(default_factory=dict)
    reports: dict[str, str] = Field(default_factory=dict)


def read_steps(run_folder: Path) -> list[StepState]:
    """Reads the steps that the runner has seen so far."""
    return [StepState.model_validate(entry) for entry in read_json(run_folder / STEPS_FILE)]


def write_steps(run_folder: Path, steps: list[StepState]) -> None:
    """Writes the steps that the runner has seen so far."""
    write_json(run_folder / STEPS_FILE, [state.model_dump() for state in steps])


def summarise(run_folder: Path, seconds: float) -> Summary:
    """Builds the summary from what lies in a run's folder.

    Args:
        run_folder: Holds `run.json` and `steps.json`.
        seconds: Wall time of the run so far.
    """
    run = RunInfo.model_validate(read_json(run_folder / RUN_FILE))
    goal = _GOALS[run.pipeline]
    steps = read_steps(run_folder)
    records = {state.name: state.record for state in steps if state.record is not None}
    facts = {name: record.facts for name, record in records.items()}

    def fact(step: str, key: str) -> Any:
        return facts.get(step, {}).get(key)

    failed = next((state for state in steps if state.status == "failed"), None)
    rejected = next((state for state in steps if state.status == "rejected"), None)
    done = {state.name for state in steps if state.status == "succeeded"}
    culprit = failed or rejected
    if culprit is not None:
        kind = culprit.record.kind if culprit.record is not None else "error"
        outcome = "rejected" if kind == "rejected" else "failed"
        exit_code = _EXIT_CODES.get(kind, 1)
        if rejected is not None and outcome == "rejected":
            # The step that refuses to go on says it again; the verdict itself was this one's.
            culprit = rejected
        reason, name = _reason(run_folder, culprit), culprit.name
    elif goal.step in done:
        outcome, exit_code, reason, name = goal.outcome, 0, [], None
    else:
        outcome, exit_code, name = "failed", 1, None
        reason = [f"the {run.pipeline} pipeline ended before its step {goal.step}"]
    return Summary(
        run_id=run.run_id,
        pipeline=run.pipeline,
        spec=run.spec,
        started=run.started,
        seconds=round(seconds, 2),
        outcome=outcome,
        exit_code=exit_code,
        failed_step=name,
        reason=reason,
        steps=[
            StepSummary(name=state.name, status=state.status, seconds=round(state.seconds, 2), cached=state.cached)
            for state in steps
        ],
        data_version=fact("ingest", "data_version"),
        metrics=fact("evaluate", "metrics") or {},
        gates=fact("gate", "gates") or [],
        decision=fact(goal.decision_from, "decision"),
        model=ModelSummary(
            name=run.name,
            version=fact(goal.version_from, "version") or None,
            digest=fact(goal.digest_from, "model_digest") or None,
            new_version=bool(fact("register", "created")),
        ),
        endpoint=fact(goal.endpoint_from, "endpoint") or None,
        example=fact("deploy", "example"),
        code_version=run.code_version,
        spec_digest=run.spec_digest,
        facts=facts,
        reports=_reports(run_folder, records),
    )


def _reason(run_folder: Path, culprit: StepState) -> list[str]:
    if culprit.record is not None and culprit.record.reason:
        return culprit.record.reason
    log = run_folder / culprit.log
    last = log.read_text(errors="replace").strip().splitlines()[-5:] if culprit.log and log.is_file() else []
    return [f"the step's process ended without a word of its own (killed, or out of memory?); log: {log}", *last]


def _reports(run_folder: Path, records: dict[str, StepRecord]) -> dict[str, str]:
    """Copies the steps' pages into the run folder, so that the run's page can link them and outlives the artifacts."""
    copied: dict[str, str] = {}
    for name, record in records.items():
        for number, (title, path) in enumerate(record.reports.items(), 1):
            source = Path(path)
            if not source.is_file():
                continue
            target = Path("reports") / (f"{name}-{number}.html" if number > 1 else f"{name}.html")
            (run_folder / target).parent.mkdir(exist_ok=True)
            (run_folder / target).write_bytes(source.read_bytes())
            copied[title] = target.as_posix()
    return copied
