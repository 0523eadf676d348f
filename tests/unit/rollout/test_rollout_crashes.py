"""A controller that is killed between any two actions, and two of them at once."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rollout_memory_endpoint import Behaviour, release
from rollout_runs import NEW_ID, OLD_ID, World, section, until_it_ends

from shipway.rollout.controller import Controller
from shipway.rollout.lease import Owner, process_start
from shipway.rollout.memory import Lease
from shipway.rollout.plan import plan_of
from shipway.rollout.rollout import _begin
from shipway.spec.rollout import RolloutSection

QUICK: dict[str, Any] = {"bake": "6s", "keep_warm": "6s", "hold": "20s", "patience": "30s", "min_requests": 10}


@pytest.fixture(scope="module")
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def good(_: World) -> RolloutSection:
    return section(**QUICK, baseline="fresh", shadow={"bake": "6s", "min_requests": 10}, steps=[5, 100])


def bad(world: World) -> RolloutSection:
    world.endpoint.behaviours[NEW_ID] = Behaviour(errors=0.5)
    return section(**QUICK, baseline="fresh", steps=[5, 100])


def shifted(world: World) -> RolloutSection:
    world.endpoint.behaviours[NEW_ID] = Behaviour(bins=[*[0.0] * 10, *[0.1] * 10])
    return section(**QUICK, steps=[25, 100])


def lost(world: World) -> RolloutSection:
    world.endpoint.remove(OLD_ID)
    return section(**QUICK, strategy="blue_green")


def first(_: World) -> RolloutSection:
    return section(**QUICK)


@pytest.mark.slow
@pytest.mark.parametrize(("old", "scene"), [("1", good), ("1", bad), ("1", shifted), ("1", lost), ("", first)])
def test_a_kill_at_any_boundary_changes_nothing(
    tmp_path: Path, dead: int, old: str, scene: Callable[[World], RolloutSection]
) -> None:
    whole = World(tmp_path, old=old)
    whole.start(scene(whole))
    expected, boundaries = whole.end_state(), whole.endpoint.actions
    assert boundaries > 20
    for boundary in range(boundaries):
        world = World(tmp_path, old=old)
        spec = scene(world)
        world.endpoint.killed_after = boundary
        until_it_ends(lambda world=world, spec=spec: world.start(spec, owner=Owner(pid=dead, start="1")))
        assert world.end_state() == expected, boundary


def test_a_dead_controllers_lease_is_taken_over_at_once_and_a_living_ones_is_not(dead: int) -> None:
    mine = Owner()
    later = 1e12
    assert mine.may_act(None, 0.0)
    assert mine.may_act(mine.lease(later), 0.0)
    living = Owner(token="other")
    assert not mine.may_act(living.lease(later), 0.0)
    assert mine.may_act(living.lease(5.0), 6.0)
    assert mine.may_act(Owner(token="other", pid=dead).lease(later), 0.0)
    # The id was given to another process since.
    again = Lease(token="other", host=mine.host, pid=mine.pid, start="1", expires=later)
    assert process_start(mine.pid) != "1"
    assert mine.may_act(again, 0.0)
    assert not mine.may_act(again.model_copy(update={"host": "elsewhere"}), 0.0)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(st.booleans(), min_size=10, max_size=80),
    inner=st.lists(st.integers(0, 9), max_size=60),
    is_bad=st.booleans(),
)
def test_two_controllers_never_fight(tmp_path: Path, turns: list[bool], inner: list[int], is_bad: bool) -> None:
    """The other controller gets its turn between and within the turns of the first, wherever Hypothesis likes."""
    world = World(tmp_path)
    spec = (bad if is_bad else good)(world)
    memory = _begin(release("2"), release("1"), spec, world.endpoint, world.clock, world.ledger)
    plan = plan_of(spec, alone=False)
    both = [
        Controller(
            world.endpoint,
            world.ledger,
            plan,
            alert=world.alerts.append,
            clock=world.clock,
            golden=[{"x": 1.0}],
            poll_seconds=1.0,
            owner=Owner(token=str(number)),
        )
        for number in range(2)
    ]
    assert memory.stage == "prepare"
    within = iter(inner)
    acting = [0]

    def interrupt(_: str) -> None:
        if next(within, 9) < 3:
            world.endpoint.before = lambda _call: None
            acting[0] = 1 - acting[0]
            both[acting[0]].turn()
            acting[0] = 1 - acting[0]
            world.endpoint.before = interrupt

    world.endpoint.before = interrupt
    done = None
    for place in range(3000):
        acting[0] = int(turns[place % len(turns)])
        done = both[acting[0]].turn()
        if done is not None:
            break
    assert done is not None
    assert done.outcome == ("rolled_back" if is_bad else "live")
    assert world.shares == ({OLD_ID: 100} if is_bad else {NEW_ID: 100})
    shares = []
    for state in world.endpoint.states:
        found = tuple(sorted((one.id, one.share) for one in state.revisions if one.share))
        if not shares or shares[-1] != found:
            shares.append(found)
    # A fight would set the same shares twice, with others in between.
    assert len(shares) == len(set(shares)) + (1 if is_bad else 0)
