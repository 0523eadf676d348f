"""The loop of a rollout: observe, decide, remember, act.

What is intended is written to the endpoint's record before it is done, and every change is sent with the state that it
was decided upon. A controller that was killed between any two of these is followed by another; one that finds the state
changed, or the lease in other hands, has done nothing and looks again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from shipway.endpoints.client import UnreachableError
from shipway.endpoints.protocol import ConflictError, Endpoint, EndpointStatus, NotReadyError, UnsupportedError
from shipway.endpoints.window import Window
from shipway.errors import DigestMismatchError, InputError, RejectedError, ShipwayError
from shipway.notify.alerts import Alert
from shipway.rollout.actions import Action, Done, Mirror, Notify, Retire, Shift, StageRevision, Tell, Wait, WarmUp
from shipway.rollout.clock import Clock
from shipway.rollout.evidence import Gatherer, judge, stretch_length, without_evidence
from shipway.rollout.lease import Owner
from shipway.rollout.ledger import Ledger
from shipway.rollout.machine import Look, accomplished, decide, failed, wanted_shares
from shipway.rollout.memory import Memory, read_memory
from shipway.rollout.plan import Phase, Plan

_LEASE_SECONDS = 30.0
_LONG_LEASE_SECONDS = 300.0
_LEASE_POLLS = 5
_QUICKEST_POLL, _SLOWEST_LOCAL, _SLOWEST_POLL = 0.25, 1.0, 30.0


class Outcomes(Protocol):
    """Judges the rules about labels and business metrics."""

    def look(self, plan: Plan, memory: Memory, phase: Phase, baseline: str, now: float) -> Look:
        """Returns a verdict for each of them."""


class Replayer(Protocol):
    """Sends logged requests again."""

    def send(self, memory: Memory, phase: Phase, look: Look, now: float) -> None:
        """Sends as many as are wanting, if any."""


def poll_interval(bake: float, lag: float) -> float:
    """Returns how often to look, seconds: 20 times a bake, 0.25 to 1 s; where metrics lag, half the lag at least."""
    wanted = max(_QUICKEST_POLL, bake / 20)
    return min(wanted, _SLOWEST_LOCAL) if lag < 2 else min(max(wanted, lag / 2), _SLOWEST_POLL)


class Controller:
    """Brings a rollout to its end, or follows another controller that does.

    Args:
        endpoint: Where it happens; its record holds the rollout's memory already.
        ledger: The registry.
        plan: What is to be done.
        alert: Where alerts go.
        clock: What durations run on.
        golden: Rows for warm-up.
        poll_seconds: How often to look; default: see `poll_interval`.
        outcomes: Judges labels and business metrics; None without them.
        replayer: Sends logged requests again; None where that is not wanted.
        owner: Who this controller is.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        ledger: Ledger,
        plan: Plan,
        *,
        alert: Callable[[Alert], None],
        clock: Clock,
        golden: Sequence[Mapping[str, Any]] = (),
        poll_seconds: float | None = None,
        outcomes: Outcomes | None = None,
        replayer: Replayer | None = None,
        owner: Owner | None = None,
    ) -> None:
        self._endpoint, self._ledger, self._plan = endpoint, ledger, plan
        self._alert, self._clock, self._golden = alert, clock, golden
        self._outcomes, self._replayer = outcomes, replayer
        self.owner = owner or Owner()
        bake = min((phase.bake for phase in plan.phases), default=0.0)
        self.poll_seconds = poll_seconds or poll_interval(bake, endpoint.lag_seconds)
        self._gatherers: dict[tuple[int, float], Gatherer] = {}
        self._references: dict[tuple[int, float], Window | None] = {}
        self._unreachable: float | None = None

    def run(self, deadline: float | None = None) -> Memory:
        """Returns the memory of the rollout once it is done.

        Args:
            deadline: When to stop trying, seconds since the epoch; default: when the rollout ends by itself.

        Raises:
            ShipwayError: The endpoint could not be reached for as long as the plan's patience; or the deadline passed.
        """
        while True:
            memory = self.turn()
            if memory is not None:
                return memory
            if deadline is not None and self._clock.now() > deadline:
                raise ShipwayError(
                    f"{self._endpoint.name}: the rollout did not end in the time given; run the same again to go on"
                )

    def turn(self) -> Memory | None:
        """Goes once around the loop; returns the memory of a rollout that is done."""
        now = self._clock.now()
        try:
            status = self._endpoint.status()
        except ShipwayError as error:
            self._endure(error, now)
            return None
        self._unreachable = None
        memory = read_memory(status.record, self._endpoint.name)
        if memory is None:
            raise ShipwayError(f"{self._endpoint.name}: somebody has emptied the endpoint's record during the rollout")
        if memory.stage == "done":
            return memory
        if not self.owner.may_act(memory.lease, now):
            self._clock.sleep(self.poll_seconds)
            return None
        look = self._look(memory, status, now)
        decision = decide(self._plan, memory, status, look, now)
        try:
            status = self._remember(memory, decision.memory, decision.action, status, look, now)
            if isinstance(decision.action, Done):
                return decision.memory
            self._carry_out(decision.memory, decision.action, status)
        except ConflictError:
            # Somebody else changed it: look again, but not as fast as the machine can.
            self._clock.sleep(self.poll_seconds / 4)
        except ShipwayError as error:
            # The endpoint may be away as a whole; what it says next decides.
            self._endure(error, now)
        return None

    def _endure(self, error: ShipwayError, now: float) -> None:
        since = self._unreachable = now if self._unreachable is None else min(self._unreachable, now)
        if now - since >= self._plan.patience:
            raise ShipwayError(
                f"{self._endpoint.name}: the endpoint could not be reached for {now - since:.0f} s, and the rollout is "
                f"not at its end; run the same again to go on: {error}"
            ) from error
        self._clock.sleep(self.poll_seconds)

    def _remember(
        self, before: Memory, memory: Memory, action: Action, status: EndpointStatus, look: Look | None, now: float
    ) -> EndpointStatus:
        """Writes what is intended, where it differs from what is written or the lease runs out."""
        if isinstance(action, Done):
            memory.lease = None
            return self._endpoint.write_record(memory.text(), expect=status.generation)
        takes_long = isinstance(action, (StageRevision, WarmUp, Tell, Notify))
        length = _LONG_LEASE_SECONDS if takes_long else max(_LEASE_SECONDS, _LEASE_POLLS * self.poll_seconds)
        lease = before.lease
        mine = lease is not None and lease.token == self.owner.token
        left = lease.expires - now if lease is not None else 0.0
        memory.lease = lease
        if mine and memory == before and left >= length / 2 and left <= _LONG_LEASE_SECONDS:
            return status
        memory.lease = self.owner.lease(now + length)
        if look is not None and memory.steps and memory.steps[-1].until is None:
            step = memory.steps[-1]
            step.requests, step.baseline_requests = look.requests, look.baseline_requests
            step.verdicts = list(look.verdicts)
        return self._endpoint.write_record(memory.text(), expect=status.generation)

    def _carry_out(self, memory: Memory, action: Action, status: EndpointStatus) -> None:
        if isinstance(action, Wait):
            self._clock.sleep(self.poll_seconds)
            return
        try:
            after = self._act(memory, action, status)
        except ConflictError:
            raise
        except ShipwayError as error:
            self._note_failure(action, error)
            return
        later = accomplished(memory, action)
        if later != memory:
            self._endpoint.write_record(later.text(), expect=after.generation)

    def _note_failure(self, action: Action, error: ShipwayError) -> None:
        refused = isinstance(error, (InputError, RejectedError, DigestMismatchError, NotReadyError))
        final = refused and isinstance(action, (StageRevision, Mirror, WarmUp))
        status = self._endpoint.status()
        found = read_memory(status.record, self._endpoint.name)
        if found is not None and found.lease is not None and found.lease.token == self.owner.token:
            later = failed(found, action, str(error), self._clock.now(), final=final)
            self._endpoint.write_record(later.text(), expect=status.generation)
        self._clock.sleep(self.poll_seconds)

    def _act(self, memory: Memory, action: Action, status: EndpointStatus) -> EndpointStatus:
        """Does one thing, and returns the status after it."""
        expect = status.generation
        if isinstance(action, StageRevision):
            side = memory.candidate if action.role == "candidate" else memory.stable
            if side is None:
                raise InputError(f"{memory.name}: there is no old version to put there")
            return self._endpoint.stage(side.release, action.revision, edges=status.edges, expect=expect)
        if isinstance(action, Shift):
            return self._endpoint.shift(dict(action.shares), expect=expect)
        if isinstance(action, Mirror):
            return self._endpoint.mirror(action.revision, action.percent, expect=expect)
        if isinstance(action, Retire):
            return self._endpoint.retire(action.revision, expect=expect)
        if isinstance(action, WarmUp):
            self._warm_up(action.revision)
        elif isinstance(action, Tell):
            self._tell(memory, action)
        elif isinstance(action, Notify):
            self._notify(memory, action)
        return status

    def _warm_up(self, revision: str) -> None:
        """Sends golden rows one by one; how they fare is judged by nothing but that most are answered."""
        wrong, reason = 0, ""
        for place in range(self._plan.warm_up if self._golden else 0):
            try:
                answer = self._endpoint.predict(revision, [self._golden[place % len(self._golden)]])
            except UnsupportedError:
                return
            except UnreachableError as error:
                wrong, reason = wrong + 1, str(error)
            else:
                if answer.status >= 400:
                    wrong, reason = wrong + 1, f"HTTP {answer.status}: {answer.reason()}"
            if wrong > self._plan.warm_up / 2:
                raise NotReadyError(
                    f"{revision} failed {wrong} of {place + 1} warm-up requests with golden rows, the last: {reason}"
                )

    def _tell(self, memory: Memory, action: Tell) -> None:
        release = memory.candidate.release
        stable = memory.stable.release.version if memory.stable is not None else ""
        if action.what == "live":
            self._ledger.live(release, stable)
        elif action.what == "baseline":
            self._ledger.baseline(release, self._last_window(memory))
        else:
            self._ledger.rolled_back(release, memory.reason, mark=memory.mark, stable_version=stable)

    def _notify(self, memory: Memory, action: Notify) -> None:
        facts: dict[str, Any] = {"version": memory.candidate.release.version, "revision": memory.candidate.revision}
        if memory.stable is not None:
            facts["stable"] = memory.stable.release.version
        if action.kind == "live":
            facts["baseline"] = self._baseline(memory)
        # The action's key is of this rollout; a receiver has heard of others.
        key = f"rollout/{memory.name}/{memory.candidate.revision}/{memory.timings.started:.0f}/{action.key}"
        self._alert(Alert(memory.name, action.kind, action.severity, action.text, self._clock.now(), key, facts))

    def _baseline(self, memory: Memory) -> dict[str, Any]:
        """Returns what dashboards compare later days with; nothing where the metrics cannot be had any more."""
        try:
            window = self._last_window(memory)
        except ShipwayError:
            return {}
        return {
            "latency_p99_ms": window["p99_ms"],
            "error_rate": window["error_rate"],
            "requests": window["requests"],
        }

    def _last_window(self, memory: Memory) -> dict[str, Any]:
        """Returns what the candidate did with all the traffic: what monitoring compares later days with."""
        step = memory.steps[-1]
        window = self._endpoint.windows(step.since, step.until or self._clock.now()).get(memory.candidate.revision)
        found = window or Window(revision=memory.candidate.revision, since=step.since, until=step.until or step.since)
        quantiles = {f"p{q * 100:g}_ms": found.quantile_ms(q) for q in (0.5, 0.95, 0.99)}
        return {**found.model_dump(mode="json"), "error_rate": found.error_rate, **quantiles}

    def _look(self, memory: Memory, status: EndpointStatus, now: float) -> Look | None:
        """Returns the evidence of the phase that is being watched; None where none is."""
        if memory.stage != "watch" or memory.since is None or memory.step >= len(self._plan.phases):
            return None
        phase = self._plan.phases[memory.step]
        found = {revision.id: revision.share for revision in status.revisions if revision.share}
        if found != wanted_shares(memory, phase):
            return None
        baseline = baseline_of(memory, phase)
        try:
            outcomes = self._outcomes.look(self._plan, memory, phase, baseline, now) if self._outcomes else None
            place = (memory.step, memory.since)
            length = stretch_length(phase.bake, self._endpoint.lag_seconds)
            gatherer = self._gatherers.setdefault(place, Gatherer(self._endpoint.windows, length))
            until = now - self._endpoint.lag_seconds
            evidence = gatherer.evidence(
                memory.since, until, memory.candidate.revision, baseline, self._reference(memory, phase)
            )
            look = judge(self._plan, phase, evidence, memory.looks, outcomes)
        except ShipwayError as error:
            return without_evidence(self._plan, phase, f"the metrics cannot be had: {error}", memory.looks)
        if self._replayer is not None:
            self._replayer.send(memory, phase, look, now)
        return look

    def _reference(self, memory: Memory, phase: Phase) -> Window | None:
        """Returns what the old version did before a phase in which it has no traffic."""
        stable = memory.stable
        if stable is None or baseline_of(memory, phase):
            return None
        place = (memory.step, memory.since or 0.0)
        if place not in self._references:
            before = [step for step in memory.steps if step.until is not None]
            if before:
                since, until = before[-1].since, before[-1].until or before[-1].since
                revision = baseline_of(memory, self._plan.phases[memory.step - 1])
            else:
                since, until = memory.timings.started - phase.bake, memory.since or memory.timings.started
                revision = stable.revision
            window = self._endpoint.windows(since, until).get(revision)
            self._references[place] = window if window is not None and window.requests else None
        return self._references[place]


def baseline_of(memory: Memory, phase: Phase) -> str:
    """Returns the revision that the candidate is compared with during a phase; "" where no old one has traffic then."""
    if memory.stable is None:
        return ""
    if phase.baseline and memory.baseline:
        return memory.baseline
    return memory.stable.revision if memory.stable.revision in wanted_shares(memory, phase) else ""
