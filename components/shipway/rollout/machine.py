"""The state machine of a rollout: from what is remembered and what is seen to the next action. No I/O.

Each call compares what the endpoint serves with what the present stage wants, and returns the first action that brings
the two together. So nothing depends on whether an action that was decided earlier has been carried out: a controller
that died anywhere is followed by another that looks, and decides the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shipway.endpoints.protocol import EndpointStatus
from shipway.rollout.actions import Action, Done, Mirror, Notify, Retire, Shift, StageRevision, Tell, Wait, WarmUp
from shipway.rollout.memory import Failing, LookCount, Memory, Outcome, Pause, Side, StepReport
from shipway.rollout.plan import Phase, Plan
from shipway.rollout.rules import RuleSetting, Verdict, due, pending

BLESSED = "blessed"


@dataclass(frozen=True, slots=True)
class Look:
    """What the evidence says now.

    Attributes:
        verdicts: A verdict for each rule, and `requests`.
        requests: The candidate's requests in this phase.
        baseline_requests: The baseline's.
        looks: Looks that spent of a rule's false-alarm rate, this one included.
    """

    verdicts: Sequence[Verdict] = ()
    requests: int = 0
    baseline_requests: int = 0
    looks: dict[str, LookCount] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """The next action, and what is remembered before it is done."""

    action: Action
    memory: Memory


def decide(plan: Plan, memory: Memory, status: EndpointStatus, look: Look | None, now: float) -> Decision:
    """Returns what to do next.

    Args:
        plan: What the rollout is to do.
        memory: What it remembers, a person's command included.
        status: What the endpoint serves now.
        look: The evidence of the present phase; None where nobody has looked.
        now: Seconds since the epoch.
    """
    memory = _heed_clock(memory.model_copy(deep=True), now)
    memory = _heed_command(plan, memory, now)
    if memory.stage in ("prepare", "watch") and memory.failing is not None:
        failing = memory.failing
        if failing.final or now - failing.since >= plan.patience:
            reason = f"{failing.action} failed: {failing.reason}"
            memory = turn_back(memory, now, "rolled_back", reason, mark=False)
    if memory.stage in ("prepare", "watch") and not _is_blessed(memory.candidate):
        memory = turn_back(memory, now, "rolled_back", "no blessing names the candidate's digest", mark=False)
    while memory.stage != "done":
        if memory.stage == "prepare":
            action = _prepare(plan, memory, status, now)
        elif memory.stage == "watch":
            action = _watch(plan, memory, status, look, now)
            look = None
        elif memory.stage == "finish":
            action = _finish(plan, memory, status, now)
        else:
            action = _back(plan, memory, status, now)
        if action is not None:
            return Decision(action, memory)
    return Decision(Done(), memory)


def accomplished(memory: Memory, action: Action) -> Memory:
    """Returns the memory after an action has succeeded; what the endpoint's status tells is not repeated here."""
    memory = memory.model_copy(deep=True)
    if memory.failing is not None and memory.failing.action == action.label:
        memory.failing = None
    if isinstance(action, WarmUp):
        memory.warmed.append(action.revision)
    elif isinstance(action, (Tell, Notify)):
        memory.told.append(action.label)
    return memory


def failed(memory: Memory, action: Action, reason: str, now: float, *, final: bool) -> Memory:
    """Returns the memory after an action has failed.

    Args:
        memory: Before.
        action: What was tried.
        reason: The error's message.
        now: Seconds since the epoch.
        final: Whether trying again is of no use.
    """
    before = memory.failing
    since = min(before.since, now) if before is not None and before.action == action.label else now
    failing = Failing(action=action.label, since=since, reason=reason[:500], final=final)
    return memory.model_copy(update={"failing": failing})


def turn_back(
    memory: Memory, now: float, outcome: Outcome, reason: str, *, mark: bool, since: float | None = None
) -> Memory:
    """Returns the memory of a rollout that goes back to the old version from now on.

    Args:
        memory: Before.
        now: Seconds since the epoch.
        outcome: `rolled_back` or `halted`.
        reason: Why, in one sentence.
        mark: Whether the candidate is marked as bad.
        since: When the trouble began.
    """
    memory = memory.model_copy(deep=True)
    memory.stage, memory.outcome, memory.reason, memory.mark = "back", outcome, reason, mark
    memory.paused = memory.failing = memory.command = None
    memory.timings.decided = now
    memory.timings.first_bad = since
    if memory.steps and memory.steps[-1].until is None:
        memory.steps[-1].until, memory.steps[-1].ended = now, reason
    return memory


def wanted_shares(memory: Memory, phase: Phase) -> dict[str, int]:
    """Returns the shares of a phase."""
    if memory.stable is None:
        return {memory.candidate.revision: 100}
    baseline = phase.baseline if memory.baseline else 0
    shares = {
        memory.candidate.revision: phase.share,
        memory.baseline: baseline,
        memory.stable.revision: 100 - phase.share - baseline,
    }
    return {revision: share for revision, share in shares.items() if share}


def _heed_clock(memory: Memory, now: float) -> Memory:
    """A clock that was set back must not make anything last for ever."""
    if memory.since is not None:
        memory.since = min(memory.since, now)
    if memory.paused is not None:
        memory.paused.since = min(memory.paused.since, now)
    if memory.failing is not None:
        memory.failing.since = min(memory.failing.since, now)
    return memory


def _heed_command(plan: Plan, memory: Memory, now: float) -> Memory:
    command, memory.command = memory.command, None
    if command is None or memory.stage not in ("prepare", "watch"):
        return memory
    if command.kind == "abort":
        return turn_back(memory, now, "halted", f"aborted by {command.who}", mark=False)
    if memory.paused is None:
        return memory
    pause, memory.paused = memory.paused, None
    if pause.kind == "hold":
        memory.waived += pause.rules
    else:
        _advance(plan, memory, now, f"resumed by {command.who} without conclusive evidence")
    return memory


def _prepare(plan: Plan, memory: Memory, status: EndpointStatus, now: float) -> Action | None:
    candidate, stable = memory.candidate, memory.stable
    if stable is not None and status.live is None:
        if not _is_ready(status, stable):
            return StageRevision("stable", stable.revision)
        return Shift(((stable.revision, 100),))
    if not _is_ready(status, candidate):
        if candidate.revision in memory.warmed:
            _lost(memory, status, now)
            return None
        return StageRevision("candidate", candidate.revision)
    if candidate.revision not in memory.warmed:
        if plan.warm_up:
            return WarmUp(candidate.revision)
        memory.warmed.append(candidate.revision)
    memory.stage, memory.step, memory.since = "watch", 0, None
    return None


def _watch(plan: Plan, memory: Memory, status: EndpointStatus, look: Look | None, now: float) -> Action | None:
    """Returns an action, or None once the stage has changed."""
    if not _is_ready(status, memory.candidate):
        _lost(memory, status, now)
        return None
    phase = plan.phases[memory.step]
    action = _set_up(plan, memory, status, phase)
    if action is not None:
        memory.since, memory.pending, memory.looks = None, {}, {}
        return action
    if memory.since is None:
        memory.since = now
        _open_step(memory, phase, now)
        return Wait()
    if look is None:
        return Wait()
    return _judge(plan, memory, phase, look, now)


def _set_up(plan: Plan, memory: Memory, status: EndpointStatus, phase: Phase) -> Action | None:
    """Returns what is missing for a phase to be as it should: revisions, shares, mirror."""
    candidate, stable = memory.candidate, memory.stable
    if stable is not None and not _is_ready(status, stable):
        return StageRevision("stable", stable.revision)
    if phase.baseline and stable is not None and memory.baseline:
        action = _fresh_baseline(plan, memory, status, stable)
        if action is not None:
            return action
    found = status.revision(candidate.revision)
    mirrored = found.mirror if found else 0
    if mirrored and not phase.mirror:
        return Mirror(candidate.revision, 0)
    shares = wanted_shares(memory, phase)
    if _shares(status) != shares:
        return Shift(tuple(shares.items()))
    if mirrored != phase.mirror:
        return Mirror(candidate.revision, phase.mirror)
    return None


def _fresh_baseline(plan: Plan, memory: Memory, status: EndpointStatus, stable: Side) -> Action | None:
    if not _is_ready(status, Side(revision=memory.baseline, release=stable.release)):
        return StageRevision("baseline", memory.baseline)
    if memory.baseline not in memory.warmed:
        if plan.warm_up:
            return WarmUp(memory.baseline)
        memory.warmed.append(memory.baseline)
    return None


def _judge(plan: Plan, memory: Memory, phase: Phase, look: Look, now: float) -> Action | None:
    memory.looks = look.looks
    memory.pending = pending(memory.pending, look.verdicts, now)
    step = memory.steps[-1]
    settings = [setting for setting in plan.rules if setting.key not in memory.waived]
    for setting in due(settings, memory.pending, now):
        verdict = next(verdict for verdict in look.verdicts if verdict.key == setting.key)
        reason = f"{setting.text} is violated at {phase.label}: {said(verdict)}"
        if setting.action in ("rollback", "halt"):
            _note(step, look)
            outcome: Outcome = "rolled_back" if setting.action == "rollback" else "halted"
            turned = turn_back(memory, now, outcome, reason, mark=outcome == "rolled_back", since=verdict.since)
            _become(memory, turned)
            memory.incident = setting.incident
            return None
        if setting.action == "hold" and (memory.paused is None or memory.paused.kind != "hold"):
            _note(step, look)
            memory.paused = Pause(kind="hold", reason=reason, since=now, rules=[setting.key])
        if setting.action == "alert":
            key = f"{step.since:.0f}:{memory.step}:{setting.key}"
            notice = Notify("rule", "incident" if setting.incident else "warning", f"{memory.name}: {reason}", key)
            if notice.label not in memory.told:
                return notice
    open_questions = [v for v in look.verdicts if v.needed and v.state != "ok" and v.key not in memory.waived]
    waited = now - (memory.since if memory.since is not None else now)
    on_hold = memory.paused is not None and memory.paused.kind == "hold"
    if not open_questions and waited >= phase.bake and not on_hold:
        _note(step, look)
        memory.paused = None
        _advance(plan, memory, now, "judged good")
        return None
    if memory.paused is None and open_questions and waited >= phase.patience:
        _note(step, look)
        unclear = "; ".join(f"{_text(plan, verdict)}: {said(verdict)}" for verdict in open_questions)
        reason = f"inconclusive at {phase.label} after {waited:.0f} s: {unclear}"
        memory.paused = Pause(kind="inconclusive", reason=reason, since=now)
    return _paused(plan, memory, now)


def _paused(plan: Plan, memory: Memory, now: float) -> Action | None:
    if memory.paused is None:
        return Wait()
    key = f"paused:{memory.step}:{memory.paused.kind}:{','.join(memory.paused.rules)}"
    notice = Notify("paused", "warning", f"{memory.name}: the rollout is paused: {memory.paused.reason}", key)
    if notice.label not in memory.told:
        return notice
    if now - memory.paused.since >= plan.hold:
        reason = f"nobody decided within {plan.hold:.0f} s; it was paused: {memory.paused.reason}"
        _become(memory, turn_back(memory, now, "rolled_back", reason, mark=False))
        return None
    return Wait()


def _finish(plan: Plan, memory: Memory, status: EndpointStatus, now: float) -> Action | None:
    candidate, stable = memory.candidate, memory.stable
    waiting = stable is not None and status.revision(stable.revision) is not None
    if not _is_ready(status, candidate):
        if waiting or "tell live" not in memory.told:
            _lost(memory, status, now)
            return None
    elif _shares(status) != {candidate.revision: 100}:
        shift = Shift(((candidate.revision, 100),))
        if not _given_up(plan, memory, shift, now):
            return shift
        _become(memory, turn_back(memory, now, "rolled_back", memory.skipped.pop(), mark=False))
        return None
    remaining: list[Action] = [Tell("live"), Tell("baseline")]
    remaining += [Retire(old) for old in _old(memory, stable) if status.revision(old) is not None]
    before = f" after version {stable.release.version}" if stable else ""
    text = f"{memory.name}: version {candidate.release.version} is live{before}"
    remaining.append(Notify("live", "info", text, f"live:{candidate.revision}:{memory.timings.started:.0f}"))
    action = _next(plan, memory, remaining, now)
    if action is None:
        memory.stage, memory.outcome, memory.timings.ended = "done", "live", now
        memory.reason = memory.reason or "judged good at every step"
    return action


def _back(plan: Plan, memory: Memory, status: EndpointStatus, now: float) -> Action | None:
    for action in _returning(plan, memory, status, now):
        return action
    if memory.timings.back is None and memory.stable and _shares(status) == {memory.stable.revision: 100}:
        memory.timings.back = now
    candidate = memory.candidate
    found = status.revision(candidate.revision)
    severity: Literal["warning", "incident"] = "incident" if memory.incident else "warning"
    outcome = memory.outcome or "rolled_back"
    text = f"{memory.name}: version {candidate.release.version} {outcome.replace('_', ' ')}: {memory.reason}"
    key = f"{outcome}:{candidate.revision}:{memory.timings.started:.0f}"
    # People hear of it before the registry does, which may be away.
    remaining: list[Action] = [Notify(outcome, severity, text, key)]
    if found is not None and found.mirror:
        remaining.append(Mirror(candidate.revision, 0))
    remaining.append(Tell("rolled_back"))
    shares = _shares(status)
    gone = [revision for revision in (candidate.revision, memory.baseline) if revision]
    remaining += [Retire(old) for old in gone if status.revision(old) is not None and old not in shares]
    following = _next(plan, memory, remaining, now)
    if following is None:
        memory.stage, memory.timings.ended = "done", now
    return following


def _returning(plan: Plan, memory: Memory, status: EndpointStatus, now: float) -> Iterator[Action]:
    """Yields what is still to be done until the old version has all the traffic."""
    stable = memory.stable
    if stable is None:
        if memory.candidate.revision in _shares(status):
            memory.outcome, memory.incident = "halted", True
            _add_reason(memory, "there is no old version to go back to: it keeps the traffic")
        return
    if _shares(status) == {stable.revision: 100}:
        return
    ready = _is_ready(status, stable)
    needed = Shift(((stable.revision, 100),)) if ready else StageRevision("stable", stable.revision)
    if _given_up(plan, memory, needed, now):
        memory.outcome, memory.incident = "halted", True
        _add_reason(memory, f"version {stable.release.version} could not be put back: {memory.skipped[-1]}")
        return
    copy = Side(revision=memory.baseline, release=stable.release)
    if not ready and memory.baseline and _is_ready(status, copy) and _shares(status) != {memory.baseline: 100}:
        meanwhile = Shift(((memory.baseline, 100),), "shift to the fresh copy")
        if not _given_up(plan, memory, meanwhile, now):
            yield meanwhile
            return
    yield needed


def _next(plan: Plan, memory: Memory, actions: Sequence[Action], now: float) -> Action | None:
    """Returns the first action that is neither done nor given up."""
    for action in actions:
        if action.label not in memory.told and not _given_up(plan, memory, action, now):
            return action
    return None


def _given_up(plan: Plan, memory: Memory, action: Action, now: float) -> bool:
    if any(skipped.startswith(f"{action.label}: ") for skipped in memory.skipped):
        return True
    failing = memory.failing
    if failing is None or failing.action != action.label or now - failing.since < plan.patience:
        return False
    memory.skipped.append(f"{action.label}: {failing.reason}")
    memory.failing = None
    return True


def _lost(memory: Memory, status: EndpointStatus, now: float) -> None:
    found = status.revision(memory.candidate.revision)
    if found is None:
        reason = "the candidate is gone from the endpoint"
    elif found.digest != memory.candidate.release.digest:
        reason = (
            f"revision {found.id} has the digest {found.digest}, not the candidate's {memory.candidate.release.digest}"
        )
    else:
        reason = f"the candidate is not ready: {found.reason or 'no reason given'}"
    _become(memory, turn_back(memory, now, "rolled_back", reason, mark=False, since=now))


def _advance(plan: Plan, memory: Memory, now: float, ended: str) -> None:
    if memory.steps and memory.steps[-1].until is None:
        memory.steps[-1].until, memory.steps[-1].ended = now, ended
    memory.since, memory.pending, memory.looks, memory.waived, memory.paused = None, {}, {}, [], None
    if memory.step + 1 == len(plan.phases):
        memory.stage = "finish"
    else:
        memory.step += 1


def _open_step(memory: Memory, phase: Phase, now: float) -> None:
    if phase.share and memory.timings.traffic is None:
        memory.timings.traffic = now
    if memory.steps and memory.steps[-1].until is None:
        memory.steps[-1].since = now
    else:
        memory.steps.append(StepReport(label=phase.label, share=phase.share, since=now))


def _note(step: StepReport, look: Look) -> None:
    step.requests, step.baseline_requests, step.verdicts = look.requests, look.baseline_requests, list(look.verdicts)


def said(verdict: Verdict) -> str:
    """Returns a verdict's numbers in words."""
    parts = [f"{verdict.value:.4g}" if verdict.value is not None else "no value"]
    if verdict.bound is not None:
        parts.append(f"bound {verdict.bound:.4g}")
    if verdict.baseline is not None:
        parts.append(f"baseline {verdict.baseline:.4g}")
    if verdict.note:
        parts.append(verdict.note)
    return ", ".join(parts)


def _text(plan: Plan, verdict: Verdict) -> str:
    found: RuleSetting | None = next((setting for setting in plan.rules if setting.key == verdict.key), None)
    return found.text if found else verdict.key


def _is_ready(status: EndpointStatus, wanted: Side) -> bool:
    """Whether a revision is there, answers, and has the release's bytes."""
    found = status.revision(wanted.revision)
    return found is not None and found.ready and found.digest == wanted.release.digest


def _is_blessed(wanted: Side) -> bool:
    blessing = wanted.release.blessing
    return blessing.decision == BLESSED and blessing.model_digest == wanted.release.digest


def _shares(status: EndpointStatus) -> dict[str, int]:
    return {found.id: found.share for found in status.revisions if found.share}


def _old(memory: Memory, stable: Side | None) -> list[str]:
    return [revision for revision in (memory.baseline, stable.revision if stable else "") if revision]


def _add_reason(memory: Memory, text: str) -> None:
    if text not in memory.reason:
        memory.reason = f"{memory.reason}; {text}"


def _become(memory: Memory, other: Memory) -> None:
    """Takes over another memory's values: the functions here change the one copy that `decide` made."""
    for name in type(memory).model_fields:
        setattr(memory, name, getattr(other, name))
