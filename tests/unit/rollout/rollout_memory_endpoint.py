"""An endpoint in memory that keeps every promise of the protocol, with faults on demand and a clock that tests turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shipway.endpoints.client import Answer
from shipway.endpoints.protocol import ConflictError, EndpointStatus, NotReadyError, RevisionStatus, revision_id
from shipway.endpoints.window import LATENCY_EDGES_MS, PROBABILITY_EDGES, PredictionCounts, Window
from shipway.errors import InputError, NotBlessedError, RejectedError, ShipwayError
from shipway.lineage.documents import Blessing, Release


def release(version: str, *, blessed: bool = True) -> Release:
    digest = f"sha256:{version.rjust(64, 'a')}"
    blessing = Blessing(
        decision="blessed" if blessed else "rejected", model_digest=digest, evaluation_digest="sha256:" + "e" * 64
    )
    return Release(
        name="flights",
        version=version,
        digest=digest,
        package_uri=f"mlflow-artifacts:/{version}",
        tracking_uri="http://127.0.0.1:1",
        created=True,
        blessing=blessing,
    )


_EPOCH = 1_799_900_000.0


class Turned:
    """A clock that stands still until somebody sleeps or turns it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class Behaviour:
    """What a revision's requests are like.

    Attributes:
        rate: Requests a second when it has all the traffic.
        errors: Share of them that fail.
        milliseconds: What most of them take.
        bins: Share of the predictions by bin.
        since: From when on it is so; before, it is good.
    """

    rate: float = 200.0
    errors: float = 0.0
    milliseconds: float = 1.0
    bins: Sequence[float] = tuple(1 / (len(PROBABILITY_EDGES) + 1) for _ in range(len(PROBABILITY_EDGES) + 1))
    since: float = 0.0


class Killed(BaseException):
    """The controller's process ended here."""


@dataclass
class MemoryEndpoint:
    """An endpoint in memory.

    Attributes:
        refuses: Beginning of a call -> the error it raises.
        killed_after: The controller is killed once so many actions were begun or ended.
        trusting: Whether it does as told also where a revision is not ready, to show what a controller dares.
        before: Called with each call before it is carried out.
    """

    clock: Turned
    name: str = "flights"
    lag_seconds: float = 0.0
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    refuses: dict[str, ShipwayError] = field(default_factory=dict)
    metrics_away: bool = False
    trusting: bool = False
    killed_after: int | None = None
    blessed: set[str] = field(default_factory=set)
    before: Callable[[str], None] = lambda _call: None
    calls: list[str] = field(default_factory=list)
    states: list[EndpointStatus] = field(default_factory=list)
    shifted: list[EndpointStatus] = field(default_factory=list)
    actions: int = 0
    _revisions: dict[str, RevisionStatus] = field(default_factory=dict)
    _record: str = ""
    _generation: int = 0
    _history: list[tuple[float, dict[str, int], dict[str, int]]] = field(default_factory=list)

    @property
    def generation(self) -> str:
        return str(self._generation)

    def status(self) -> EndpointStatus:
        self.before("status")
        return self.seen()

    def seen(self) -> EndpointStatus:
        return EndpointStatus(
            self.name, "http://memory", tuple(self._revisions.values()), 1, self.generation, self._record
        )

    def serve(self, version: str) -> str:
        """Serves a version with all the traffic, as if it had been so for ever."""
        found = release(version)
        revision = revision_id(found.version, found.digest)
        self.blessed.add(found.digest)
        self._revisions[revision] = RevisionStatus(revision, version, found.digest, 100, True)
        self._remember(0.0)
        return revision

    def set_ready(self, revision: str, ready: bool, reason: str = "killed") -> None:
        if revision in self._revisions and self._revisions[revision].ready != ready:
            self._set(revision, ready=ready, reason="" if ready else reason)
            self._generation += 1

    def remove(self, revision: str) -> None:
        if self._revisions.pop(revision, None) is not None:
            self._generation += 1

    def stage(
        self,
        release: Release,
        revision: str = "",
        *,
        edges: Sequence[float] = (),  # noqa: ARG002 - the protocol's
        expect: str | None = None,
    ) -> EndpointStatus:
        wanted = revision or revision_id(release.version, release.digest)
        self._begin(f"stage {wanted}", expect)
        if release.blessing.decision != "blessed" or release.blessing.model_digest != release.digest:
            raise NotBlessedError(f"{wanted} is not blessed")
        self.blessed.add(release.digest)
        known = self._revisions.get(wanted)
        if known is None or not known.ready or known.digest != release.digest:
            share = known.share if known else 0
            self._revisions[wanted] = RevisionStatus(wanted, release.version, release.digest, share, True)
        return self._end()

    def shift(self, shares: Mapping[str, int], *, expect: str | None = None) -> EndpointStatus:
        self._begin(f"shift {dict(shares)}", expect)
        if sum(shares.values()) != 100 or not set(shares) <= set(self._revisions):
            raise InputError(f"shares {dict(shares)} of {sorted(self._revisions)}")
        for revision, share in shares.items():
            if share and not self._revisions[revision].ready and not self.trusting:
                raise NotReadyError(f"{revision} is not ready")
        for revision in self._revisions:
            self._set(revision, share=shares.get(revision, 0))
        self.shifted.append(self.seen())
        return self._end()

    def mirror(self, revision: str, percent: int, *, expect: str | None = None) -> EndpointStatus:
        self._begin(f"mirror {revision} {percent}", expect)
        if revision not in self._revisions or (percent and self._revisions[revision].share):
            raise InputError(f"{revision} cannot be mirrored to")
        for found in self._revisions:
            self._set(found, mirror=percent if found == revision else 0)
        return self._end()

    def retire(self, revision: str, *, expect: str | None = None) -> EndpointStatus:
        self._begin(f"retire {revision}", expect)
        if revision in self._revisions and self._revisions[revision].share:
            raise InputError(f"{revision} has traffic")
        self._revisions.pop(revision, None)
        return self._end()

    def write_record(self, record: str, *, expect: str | None = None) -> EndpointStatus:
        self._begin("record", expect)
        if len(record.encode()) > 32 * 1024:
            raise InputError("the record is too long")
        self._record = record
        return self._end()

    def predict(self, revision: str, rows: Sequence[Mapping[str, Any]]) -> Answer:
        self._check(f"predict {revision} {len(rows)}")
        failing = revision in self._revisions and self._behaviour(revision).errors == 1.0
        return Answer(500 if failing else 200, {}, b'{"predictions": [1]}')

    def windows(self, since: float, until: float) -> dict[str, Window]:
        self.before("windows")
        if self.metrics_away:
            raise ShipwayError("the metrics are away")
        return {revision: self._window(revision, since, until) for revision in self._revisions}

    def stop(self) -> EndpointStatus:
        found = self.seen()
        self._revisions.clear()
        return found

    def _window(self, revision: str, since: float, until: float) -> Window:
        """Counts that add up whatever the cut: those until a moment, less those until the other."""
        behaviour = self._behaviour(revision)
        begun, ended = (self._requests(revision, moment, behaviour.since) for moment in (since, until))
        before, after = ended[0] - begun[0], ended[1] - begun[1]
        errors = int(after * behaviour.errors)
        latency = [0] * (len(LATENCY_EDGES_MS) + 1)
        slow = next(i for i, edge in enumerate(LATENCY_EDGES_MS) if edge >= behaviour.milliseconds)
        usual = next(i for i, edge in enumerate(LATENCY_EDGES_MS) if edge >= 1.0)
        latency[usual] += before
        latency[slow] += after - errors
        flat = Behaviour().bins
        counts = [int(before * one + (after - errors) * other) for one, other in zip(flat, behaviour.bins, strict=True)]
        predictions = PredictionCounts(kind="number", edges=list(PROBABILITY_EDGES), counts=counts)
        return Window(
            revision=revision,
            since=since,
            until=until,
            requests=before + after,
            errors=errors,
            latency=latency,
            predictions=predictions,
        )

    def _requests(self, revision: str, until: float, turns: float) -> tuple[int, int]:
        """Requests until a moment: those before and after the behaviour turned."""
        good = bad = 0.0
        moments = [*[moment for moment, _, _ in self._history[1:]], float("inf")]
        for (begin, shares, mirrors), end in zip(self._history, moments, strict=True):
            rate = self._behaviour(revision).rate * max(shares.get(revision, 0), mirrors.get(revision, 0)) / 100
            first, last = max(begin, _EPOCH), min(end, until)
            good += max(min(last, turns) - first, 0.0) * rate
            bad += max(last - max(first, turns), 0.0) * rate
        return int(good), int(bad)

    def _behaviour(self, revision: str) -> Behaviour:
        return self.behaviours.get(revision, Behaviour())

    def _begin(self, call: str, expect: str | None) -> None:
        self._check(call)
        if expect is not None and expect != self.generation:
            raise ConflictError(f"the generation is {self.generation}, not {expect}")

    def _check(self, call: str) -> None:
        self.before(call)
        self.calls.append(call)
        self.die()
        for prefix, error in self.refuses.items():
            if call.startswith(prefix):
                raise error

    def die(self) -> None:
        """Counts an action, and ends the controller where the test wants it ended."""
        self.actions += 1
        if self.killed_after is not None and self.actions > self.killed_after:
            self.killed_after = None
            raise Killed

    def _end(self) -> EndpointStatus:
        self._generation += 1
        self._remember(self.clock.time)
        self.states.append(self.seen())
        self.die()
        return self.seen()

    def _remember(self, moment: float) -> None:
        shares = {found.id: found.share for found in self._revisions.values()}
        mirrors = {found.id: found.mirror for found in self._revisions.values()}
        self._history.append((moment, shares, mirrors))

    def _set(self, revision: str, **changes: Any) -> None:
        self._revisions[revision] = replace(self._revisions[revision], **changes)


@dataclass
class MemoryLedger:
    """A registry that keeps what it is told."""

    endpoint: MemoryEndpoint | None = None
    marked: set[str] = field(default_factory=set)
    champion: str = ""
    previous: str = ""
    baselines: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    away: bool = False

    def check(self, release: Release) -> None:
        if release.version in self.marked:
            raise RejectedError(f"version {release.version} is marked")

    def live(self, release: Release, previous_version: str) -> None:
        self._die()
        self.champion = release.version
        self.previous = previous_version or self.previous
        self._die()

    def rolled_back(self, release: Release, reason: str, *, mark: bool, stable_version: str) -> None:
        self._die()
        if self.away:
            raise ShipwayError("the registry does not answer")
        if mark:
            self.marked.add(release.version)
        if self.champion == release.version:
            self.champion = stable_version
        self.reasons[release.version] = reason
        self._die()

    def baseline(self, release: Release, baseline: Mapping[str, Any]) -> None:
        self._die()
        self.baselines[release.version] = baseline

    def _die(self) -> None:
        if self.endpoint is not None:
            self.endpoint.die()
