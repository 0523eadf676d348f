"""Rolling a version out, and back: the entrances to this stage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipway.endpoints.protocol import ConflictError, Endpoint, EndpointStatus, RevisionStatus, revision_id
from shipway.errors import InputError, NotBlessedError, RejectedError, ShipwayError
from shipway.lineage.documents import Blessing, Release
from shipway.notify.alerts import Alert
from shipway.rollout.clock import Clock, WallClock
from shipway.rollout.controller import Controller
from shipway.rollout.lease import Owner
from shipway.rollout.ledger import Ledger
from shipway.rollout.machine import BLESSED, turn_back
from shipway.rollout.memory import Command, CommandKind, Memory, Outcome, Timings, read_memory, side
from shipway.rollout.outcomes import LogOutcomes
from shipway.rollout.plan import Plan, plan_of
from shipway.rollout.replay import LogReplayer
from shipway.rollout.report import RolloutReport, report_of, write_report
from shipway.spec.rollout import RolloutSection

_ATTEMPTS = 20
# How long a rollback by hand tries again what fails, seconds: the traffic is back by then, and a person is waiting.
_REGISTRY_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """How a rollout or a rollback ended.

    Attributes:
        outcome: `live`, `rolled_back` or `halted`.
        reason: Why, in one sentence.
        report: All of it.
    """

    outcome: Outcome
    reason: str
    report: RolloutReport


def roll_out(
    release: Release,
    stable: Release | None,
    section: RolloutSection,
    endpoint: Endpoint,
    ledger: Ledger,
    *,
    alert: Callable[[Alert], None],
    report_path: Path,
    clock: Clock | None = None,
    poll_seconds: float | None = None,
    golden: Sequence[Mapping[str, Any]] = (),
    log_uri: str = "",
    owner: Owner | None = None,
) -> RolloutResult:
    """Brings a version to all of an endpoint's traffic, or back.

    A rollout of the same version that is under way is gone on with; so is one whose controller was killed.

    Args:
        release: The version.
        stable: The version that the registry has as champion; what the endpoint serves decides which one is old.
        section: The spec's section `rollout`.
        endpoint: Where.
        ledger: The registry.
        alert: Where alerts go.
        report_path: The HTML report; the same as JSON is written beside it, with the suffix .json.
        clock: What durations run on; default: the machine's.
        poll_seconds: How often to look; default: by bake time and the metrics' lag.
        golden: Rows for warm-up.
        log_uri: The prediction log, for replay and outcomes; "" without one.
        owner: Who controls; default: this process.

    Raises:
        RejectedError: The version was rolled back or halted; the report is written.
        NotBlessedError: It may not be promoted; nothing has changed.
        ShipwayError: Another version's rollout is under way, or the endpoint cannot be reached.
    """
    if release.blessing.decision != BLESSED or release.blessing.model_digest != release.digest:
        raise NotBlessedError(
            f"{release.name} version {release.version}: no blessing names its digest {release.digest}"
        )
    clock = clock or WallClock()
    memory = _begin(release, stable, section, endpoint, clock, ledger)
    plan = plan_of(section, alone=memory.stable is None)
    if memory.stage == "done":
        _already_live(memory, ledger)
    else:
        controller = Controller(
            endpoint,
            ledger,
            plan,
            alert=alert,
            clock=clock,
            golden=golden,
            poll_seconds=poll_seconds,
            outcomes=LogOutcomes(section.outcomes, log_uri) if section.outcomes is not None else None,
            replayer=LogReplayer(endpoint, log_uri) if section.replay and log_uri else None,
            owner=owner,
        )
        memory = controller.run()
    return _concluded(memory, plan, report_path)


def roll_back(
    name: str,
    endpoint: Endpoint,
    ledger: Ledger,
    *,
    stable: Release | None,
    reason: str,
    alert: Callable[[Alert], None],
    report_path: Path,
    clock: Clock | None = None,
    seconds: float = 600.0,
    poll_seconds: float | None = None,
    owner: Owner | None = None,
) -> RolloutResult:
    """Brings the old version back: traffic first, then the registry, then the report.

    A rollout that is under way is ended, whoever controls it.

    Args:
        name: The model's name.
        endpoint: Where.
        ledger: The registry.
        stable: The version to go back to, where no rollout is under way.
        reason: Why, for report and registry.
        alert: Where alerts go.
        report_path: The HTML report; the same as JSON is written beside it.
        clock: What durations run on.
        seconds: How long it may take.
        poll_seconds: How often to look.
        owner: Who controls; default: this process.

    Raises:
        InputError: Nothing is served, or there is no version to go back to.
        ShipwayError: It could not be done in the time.
    """
    clock, owner = clock or WallClock(), owner or Owner()
    deadline = clock.now() + seconds
    for _ in range(_ATTEMPTS):
        status = endpoint.status()
        memory = _turned(name, status, stable, reason, clock.now())
        memory.lease = owner.lease(clock.now() + 60)
        try:
            endpoint.write_record(memory.text(), expect=status.generation)
            break
        except ConflictError:
            continue
    else:
        raise ShipwayError(f"{name}: the endpoint changed each time the rollback was to be written; try again")
    plan = Plan("rollback", (), patience=min(seconds / 2, _REGISTRY_PATIENCE))
    poll = poll_seconds or min(max(endpoint.lag_seconds / 10, 0.25), 2.0)
    controller = Controller(endpoint, ledger, plan, alert=alert, clock=clock, poll_seconds=poll, owner=owner)
    memory = controller.run(deadline)
    report = report_of(memory, plan)
    write_report(report, report_path)
    if memory.outcome == "halted" and memory.skipped:
        raise ShipwayError(f"{name}: {memory.reason}")
    if memory.skipped:
        raise ShipwayError(
            f"{name}: all traffic is back, but not everything was done: {'; '.join(memory.skipped)} "
            f"(run the same again for the rest: shipway rollback {name}; report: {report_path})"
        )
    return RolloutResult(memory.outcome or "rolled_back", memory.reason, report)


def send_command(endpoint: Endpoint, kind: CommandKind, who: str, clock: Clock | None = None) -> Memory:
    """Tells the rollout that is under way what a person decided; its controller heeds it at its next look.

    Args:
        endpoint: Where.
        kind: `resume`: go on although it is paused; `abort`: all traffic back to the old version.
        who: Who says so.
        clock: The time of the command.

    Returns:
        The rollout's memory as it was.

    Raises:
        InputError: No rollout is under way; or it is not paused, and there is nothing to resume.
        ShipwayError: The endpoint changed each time.
    """
    clock = clock or WallClock()
    for _ in range(_ATTEMPTS):
        status = endpoint.status()
        memory = read_memory(status.record, endpoint.name)
        if memory is None or memory.stage == "done":
            raise InputError(f"{endpoint.name}: no rollout is under way")
        if kind == "resume" and memory.paused is None:
            raise InputError(f"{endpoint.name}: the rollout is not paused (it is at: {stage_text(memory)})")
        if kind == "abort" and memory.stage in ("finish", "back"):
            raise InputError(
                f"{endpoint.name}: the rollout cannot be aborted any more (it is at: {stage_text(memory)}); "
                f"to go back to the old version: shipway rollback {endpoint.name}"
            )
        told = memory.model_copy(update={"command": Command(kind=kind, who=who, time=clock.now())})
        try:
            endpoint.write_record(told.text(), expect=status.generation)
        except ConflictError:
            continue
        return memory
    raise ShipwayError(f"{endpoint.name}: the endpoint changed each time the command was to be written; try again")


def stage_text(memory: Memory) -> str:
    """Returns where a rollout is, in words."""
    if memory.stage == "watch":
        label = memory.steps[-1].label if memory.steps else "its first step"
        return f"{label}, paused: {memory.paused.reason}" if memory.paused is not None else label
    words = {"prepare": "putting the candidate there", "finish": "tidying up", "back": "going back"}
    return words.get(memory.stage) or (memory.outcome or "done").replace("_", " ")


def _begin(
    release: Release,
    stable: Release | None,
    section: RolloutSection,
    endpoint: Endpoint,
    clock: Clock,
    ledger: Ledger,
) -> Memory:
    """Returns the memory to go on with, written to the endpoint; a finished one where there is nothing to do."""
    for _ in range(_ATTEMPTS):
        status = endpoint.status()
        under_way = read_memory(status.record, endpoint.name)
        if under_way is not None and under_way.stage != "done":
            found = under_way.candidate.release
            if (found.version, found.digest) == (release.version, release.digest):
                return under_way
            raise ShipwayError(
                f"{release.name}: version {found.version} is being rolled out ({stage_text(under_way)}), so "
                f"version {release.version} has to wait; end the other one with: shipway rollout abort {release.name}, "
                f"or, where its controller is gone, shipway rollback {release.name}"
            )
        # A rollout that goes on is not asked about: one on its way back may have marked the version itself.
        ledger.check(release)
        memory = _fresh(release, stable, section, status, clock.now())
        if memory.stage == "done":
            return memory
        try:
            endpoint.write_record(memory.text(), expect=status.generation)
        except ConflictError:
            continue
        return memory
    raise ShipwayError(f"{release.name}: the endpoint changed each time the rollout was to begin; try again")


def _fresh(
    release: Release, stable: Release | None, section: RolloutSection, status: EndpointStatus, now: float
) -> Memory:
    revision = revision_id(release.version, release.digest)
    memory = Memory(candidate=side(release, revision), strategy=section.strategy, timings=Timings(started=now))
    live = status.live
    if live is not None and (live.version, live.digest) == (release.version, release.digest) and live.share == 100:
        memory.stage, memory.outcome, memory.timings.ended = "done", "live", now
        memory.reason = "it has all the traffic already: nothing to do"
        memory.candidate.revision = live.id
        return memory
    if live is not None and (live.version, live.digest) != (release.version, release.digest):
        memory.stable = side(_release_served(live, stable, release.name), live.id)
    elif live is None and stable is not None and stable.digest != release.digest:
        memory.stable = side(stable, revision_id(stable.version, stable.digest))
    fresh = section.baseline == "fresh" and section.strategy == "canary" and any(step < 100 for step in section.steps)
    if fresh and memory.stable is not None:
        old = memory.stable.release
        memory.baseline = revision_id(old.version, old.digest, "baseline")
    return memory


def _release_served(live: RevisionStatus, known: Release | None, name: str) -> Release:
    """Returns the release of what is served: the registry's where it is that one, else what the endpoint says of it."""
    if known is not None and (known.version, known.digest) == (live.version, live.digest):
        return known
    return Release(
        name=name,
        version=live.version,
        digest=live.digest,
        package_uri="",
        tracking_uri="",
        created=False,
        blessing=Blessing(decision="", model_digest=live.digest, evaluation_digest=""),
    )


def _already_live(memory: Memory, ledger: Ledger) -> None:
    ledger.live(memory.candidate.release, "")


def _turned(name: str, status: EndpointStatus, stable: Release | None, reason: str, now: float) -> Memory:
    """Returns the memory of a rollout that goes back on a person's word."""
    memory = read_memory(status.record, name)
    if memory is not None and memory.stage == "back":
        return memory
    if memory is not None and memory.stage != "done":
        return turn_back(memory, now, "rolled_back", reason, mark=True)
    live = status.live
    if live is None:
        raise InputError(f"{name}: nothing is served, so there is nothing to roll back")
    if stable is None:
        raise InputError(f"{name}: version {live.version} is served, and the registry knows of no version before it")
    if (live.version, live.digest) == (stable.version, stable.digest) and live.share == 100:
        if memory is not None and memory.outcome == "rolled_back":
            return memory.model_copy(update={"stage": "back", "told": [], "skipped": []})
        raise InputError(f"{name}: version {live.version} has all the traffic already: there is nothing to roll back")
    there = next((found for found in status.revisions if found.digest == stable.digest and found.id != live.id), None)
    old = there.id if there is not None else revision_id(stable.version, stable.digest)
    fresh = Memory(
        candidate=side(_release_served(live, None, name), live.id),
        stable=side(stable, old),
        strategy="rollback",
        timings=Timings(started=now, traffic=None),
    )
    return turn_back(fresh, now, "rolled_back", reason, mark=True)


def _concluded(memory: Memory, plan: Plan, report_path: Path) -> RolloutResult:
    report = report_of(memory, plan)
    write_report(report, report_path)
    outcome: Outcome = memory.outcome or "halted"
    if outcome != "live":
        release = memory.candidate.release
        words = "was rolled back" if outcome == "rolled_back" else "was halted"
        raise RejectedError(
            f"{release.name} version {release.version} {words}: {memory.reason} (report: {report_path})"
        )
    return RolloutResult(outcome, memory.reason, report)
