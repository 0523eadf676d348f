"""What a rollout remembers: one small document, kept as the endpoint's record together with the controller's lease.

It is written before each action, so that whoever reads it after a crash knows what was intended; what was done is read
from the endpoint itself.
"""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shipway.errors import ShipwayError
from shipway.lineage.documents import Blessing, Release
from shipway.rollout.rules import Verdict

Outcome = Literal["live", "rolled_back", "halted"]
Stage = Literal["prepare", "watch", "finish", "back", "done"]
CommandKind = Literal["resume", "abort"]

_DETAILED_BYTES = 24 * 1024


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Lease(_Part):
    """Who controls the endpoint.

    Attributes:
        token: The controller, unlike any other.
        host: Its machine.
        pid: Its process.
        start: When that process started, as its machine counts; tells it from a later one with the same id.
        expires: Until when it holds, seconds since the epoch.
    """

    token: str
    host: str
    pid: int
    start: str
    expires: float


class Side(_Part):
    """A version that takes part, and its revision's id."""

    revision: str
    release: Release


class Command(_Part):
    """What a person asked for."""

    kind: CommandKind
    who: str
    time: float


class Pause(_Part):
    """Why a rollout waits for a person, and since when.

    Attributes:
        kind: hold: a rule asked for a person; inconclusive: there is too little evidence, and it may still come.
        reason: In one sentence.
        since: Seconds since the epoch.
        rules: Keys of the rules that a `resume` sets aside.
    """

    kind: Literal["hold", "inconclusive"]
    reason: str
    since: float
    rules: list[str] = Field(default_factory=list)


class Failing(_Part):
    """An action that does not succeed.

    Attributes:
        action: Its label.
        since: First failure, seconds since the epoch.
        reason: The last error's message.
        final: Whether trying again is of no use.
    """

    action: str
    since: float
    reason: str
    final: bool = False


class StepReport(_Part):
    """A phase as it went.

    Attributes:
        label: The phase.
        share: The candidate's percent.
        since: When the shares were set, seconds since the epoch.
        until: When it ended; None while it goes on.
        requests: The candidate's requests.
        baseline_requests: The baseline's.
        verdicts: The last look.
        ended: What ended it.
    """

    label: str
    share: int
    since: float
    until: float | None = None
    requests: int = 0
    baseline_requests: int = 0
    verdicts: list[Verdict] = Field(default_factory=list)
    ended: str = ""


class LookCount(_Part):
    """Looks at a rule that spends its false-alarm rate look by look.

    Attributes:
        number: How many there were.
        rows: The candidate's rows at the last one.
        verdict: What it found.
    """

    number: int
    rows: int
    verdict: Verdict


class Timings(_Part):
    """Moments of a rollout, seconds since the epoch.

    Attributes:
        started: Its beginning.
        traffic: When the candidate first answered callers.
        first_bad: When the trouble that ended it began, to the stretch of evidence.
        decided: When the way back was decided.
        back: When the old version was seen to have all the traffic again.
        ended: Its end.
    """

    started: float
    traffic: float | None = None
    first_bad: float | None = None
    decided: float | None = None
    back: float | None = None
    ended: float | None = None


class Memory(_Part):
    """What a rollout remembers.

    Attributes:
        schema_version: Of this document.
        candidate: The new version.
        stable: The old one; None for a first rollout.
        baseline: Revision id of the fresh copy of the old version; "" when there is none.
        strategy: The strategy's name.
        stage: prepare: until the candidate is ready; watch: phase by phase; finish: it is good, tidy up; back: return
            to the old version; done.
        step: The phase that is being watched.
        since: Since when its shares have been as they should; None before.
        pending: Rule -> since when its condition has held.
        looks: Rule -> looks that spent of its false-alarm rate, in this phase.
        waived: Rules that a person set aside, in this phase.
        warmed: Revisions that were warmed up.
        paused: Set while it waits for a person.
        failing: Set while an action does not succeed.
        skipped: Labels of actions that were given up.
        told: What the registry and people were told already.
        outcome: How it ended, or is about to end.
        reason: Why, in one sentence.
        mark: Whether the candidate is marked as bad.
        incident: Whether that is an incident.
        steps: The phases so far.
        timings: When what happened.
        command: What a person asked for and nobody has heeded yet.
        lease: Who controls the endpoint; None when nobody does.
    """

    schema_version: int = 1
    candidate: Side
    stable: Side | None = None
    baseline: str = ""
    strategy: str = ""
    stage: Stage = "prepare"
    step: int = 0
    since: float | None = None
    pending: dict[str, float] = Field(default_factory=dict)
    looks: dict[str, LookCount] = Field(default_factory=dict)
    waived: list[str] = Field(default_factory=list)
    warmed: list[str] = Field(default_factory=list)
    paused: Pause | None = None
    failing: Failing | None = None
    skipped: list[str] = Field(default_factory=list)
    told: list[str] = Field(default_factory=list)
    outcome: Outcome | None = None
    reason: str = ""
    mark: bool = False
    incident: bool = False
    steps: list[StepReport] = Field(default_factory=list)
    timings: Timings
    command: Command | None = None
    lease: Lease | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.candidate.release.name

    def text(self) -> str:
        """Returns the memory as an endpoint's record, without the oldest phases' numbers where it would be too long."""
        steps = [step.model_copy() for step in self.steps]
        shorter = self.model_copy(update={"steps": steps})
        for step in steps[:-1]:
            content = shorter.model_dump_json(exclude_defaults=True)
            if len(content.encode()) <= _DETAILED_BYTES:
                return content
            step.verdicts = []
        return shorter.model_dump_json(exclude_defaults=True)


def read_memory(record: str, name: str) -> Memory | None:
    """Returns what an endpoint's record remembers, None where it is empty.

    Raises:
        ShipwayError: The record is none of a rollout's.
    """
    if not record.strip():
        return None
    try:
        return Memory.model_validate(json.loads(record))
    except (ValueError, ValidationError) as error:
        detail = str(error).splitlines()[0]
        raise ShipwayError(
            f"{name}: the endpoint's record is not one of this version of Shipway ({detail}); if no rollout is under "
            f"way, empty it with a rollback: shipway rollback {name}"
        ) from error


def side(release: Release, revision: str) -> Side:
    """Returns a side with what of its release an endpoint's record has room for: the blessing without its rules."""
    blessing = Blessing(
        decision=release.blessing.decision,
        model_digest=release.blessing.model_digest,
        evaluation_digest=release.blessing.evaluation_digest,
    )
    return Side(revision=revision, release=release.model_copy(update={"blessing": blessing}))
