"""1,000 random histories of a rollout: whatever happens, its invariants hold."""

import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rollout_memory_endpoint import Behaviour, Killed
from rollout_runs import BASELINE_ID, NEW_ID, OLD_ID, World, section, until_it_ends

from shipway.errors import InputError, ShipwayError
from shipway.rollout.lease import Owner
from shipway.rollout.rollout import send_command

EVENTS = (
    "kill",
    "conflict",
    "candidate dies",
    "old dies",
    "baseline dies",
    "all ready",
    "candidate vanishes",
    "old vanishes",
    "metrics away",
    "metrics back",
    "clock forward",
    "clock back",
    "resume",
    "abort",
    "refuse",
    "accept",
)
JUMP = 40.0
MOST_CALLS = 3000

PROCESS = subprocess.Popen(["true"])
PROCESS.wait()

SECTIONS: list[dict[str, Any]] = [
    {"steps": [5, 100]},
    {"steps": [25, 50, 100], "baseline": "fresh"},
    {"strategy": "blue_green"},
    {"strategy": "shadow", "shadow": {"bake": "3s", "min_requests": 5}},
    {"steps": [10, 100], "shadow": {"bake": "3s", "min_requests": 5, "percent": 50}},
]
BEHAVIOURS = [
    Behaviour(),
    Behaviour(errors=0.5),
    Behaviour(errors=1.0),
    Behaviour(milliseconds=80.0),
    Behaviour(rate=1.0),
    Behaviour(bins=[*[0.0] * 10, *[0.1] * 10]),
    Behaviour(errors=0.5, since=1_800_000_008.0),
]


class History:
    """Lets events happen before the calls that they are put at."""

    def __init__(self, world: World, events: dict[int, str]) -> None:
        self.world, self.events, self.calls, self.kills = world, events, 0, 0

    def before(self, _: str) -> None:
        self.calls += 1
        assert self.calls < MOST_CALLS, "it does not end"
        event = self.events.get(self.calls)
        if event is None:
            return
        endpoint = self.world.endpoint
        endpoint.before = lambda _call: None
        try:
            self._happen(event)
        finally:
            endpoint.before = self.before

    def _happen(self, event: str) -> None:
        world, endpoint = self.world, self.world.endpoint
        if event == "kill":
            self.kills += 1
            raise Killed
        if event == "conflict":
            endpoint.write_record(endpoint.seen().record)
        elif event.endswith("dies"):
            revision = {"candidate": NEW_ID, "old": OLD_ID, "baseline": BASELINE_ID}[event.split(maxsplit=1)[0]]
            endpoint.set_ready(revision, False)
        elif event.endswith("vanishes"):
            revision = {"candidate": NEW_ID, "old": OLD_ID}[event.split(maxsplit=1)[0]]
            if world.shares != {revision: 100}:
                endpoint.remove(revision)
        elif event == "all ready":
            for found in endpoint.seen().revisions:
                endpoint.set_ready(found.id, True)
        elif event.startswith("metrics"):
            endpoint.metrics_away = event == "metrics away"
        elif event.startswith("clock"):
            world.clock.time += JUMP if event == "clock forward" else -JUMP
        elif event in ("resume", "abort"):
            self._command(event)
        else:
            refused = {call: ShipwayError("the platform refuses") for call in ("stage", "shift", "retire")}
            endpoint.refuses = refused if event == "refuse" else {}

    def _command(self, kind: str) -> None:
        if self.world.endpoint.seen().record:
            with contextlib.suppress(InputError):
                send_command(self.world.endpoint, kind, "ann", self.world.clock)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    spec=st.sampled_from(SECTIONS),
    behaviour=st.sampled_from(BEHAVIOURS),
    old=st.sampled_from(["1", "1", "1", ""]),
    events=st.dictionaries(st.integers(1, 60), st.sampled_from(EVENTS), max_size=8),
)
def test_the_invariants_hold(
    tmp_path_factory: Any, spec: dict[str, Any], behaviour: Behaviour, old: str, events: dict[int, str]
) -> None:
    world = World(Path(tmp_path_factory.getbasetemp()), old=old)
    world.endpoint.trusting = True
    world.endpoint.behaviours[NEW_ID] = behaviour
    history = History(world, events)
    world.endpoint.before = history.before
    began = world.clock.now()
    asked = section(bake="3s", keep_warm="3s", patience="12s", hold="15s", min_requests=5, **spec)
    outcome = until_it_ends(lambda: world.start(asked, owner=Owner(pid=PROCESS.pid, start="1")))
    world.endpoint.before = lambda _call: None

    for state in world.endpoint.shifted:
        shares = {found.id: found.share for found in state.revisions if found.share}
        assert sum(shares.values()) == 100
        for revision in shares:
            found = state.revision(revision)
            assert found is not None
            assert found.ready, f"{revision} got traffic and is not ready"
            assert found.digest in world.endpoint.blessed
    assert outcome in ("live", "rolled_back", "halted")
    memory = world.memory
    assert (memory.stage, memory.lease) == ("done", None)
    if outcome == "live":
        assert world.shares == {NEW_ID: 100}
        assert (world.ledger.champion, NEW_ID in memory.warmed) == ("2", True)
    else:
        assert world.ledger.champion == old
        if outcome == "rolled_back" and old:
            assert world.shares == {OLD_ID: 100}
    # Every phase, its patience and its hold, the way back, and what the clock jumped.
    phases = 5 * (12 + 15 + 10) + 5 * 15
    assert world.clock.now() - began < phases + JUMP * 2 * len(events) + 60
