"""Alerts become decisions, decisions are claimed once, and a claim ends with whoever held it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trigger_parts import NOON, PENGUINS, add, alert, decisions, route, routes

from shipway.triggers.queue import BATCH, Queue, Task
from shipway.triggers.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(f"sqlite:///{tmp_path}/trigger.db")
    yield found
    found.close()


def claimed(queue: Queue, now: float) -> Task:
    task, _ = queue.claim(now)
    assert task is not None
    return task


def states(store: Store) -> list[tuple[str, str]]:
    return [(one["route"], one["state"]) for one in decisions(store)]


def test_an_alert_is_decided_once_and_claimed_once(tmp_path: Path, store: Store) -> None:
    found = routes(tmp_path, route())
    queue, other = Queue(store, found), Queue(store, found)
    add(store, alert("a"))
    add(store, alert("a"))
    assert dict(queue.decide(NOON)) == {("retrain", "waiting"): 1}
    assert not other.decide(NOON)
    task = claimed(queue, NOON)
    assert (task.state, task.attempts, task.begun) == ("starting", 1, NOON)
    assert other.claim(NOON) == (None, False)
    assert queue.settle(task, NOON, state="started", run_name="r")
    assert states(store) == [("retrain", "started")]


def test_what_a_dead_process_had_claimed_goes_to_the_next(tmp_path: Path, store: Store) -> None:
    found = routes(tmp_path, route())
    dead, living = Queue(store, found, lease_seconds=10), Queue(store, found, lease_seconds=10)
    add(store, alert("a"))
    dead.decide(NOON)
    first = claimed(dead, NOON)
    dead.renew([first.id], NOON + 5)
    assert living.claim(NOON + 12) == (None, False)
    second = claimed(living, NOON + 16)
    assert (second.key, second.attempts, second.begun) == (first.key, 2, NOON)
    # Should the first still live, it is not its task any more.
    assert not dead.settle(first, NOON + 17, state="started", run_name="other")
    assert living.settle(second, NOON + 17, state="started", run_name="r")
    assert [one["run_name"] for one in decisions(store)] == ["r"]


def test_cooldown_quota_and_concurrency_hold_over_the_history(tmp_path: Path, store: Store) -> None:
    queue = Queue(store, routes(tmp_path, route(cooldown="1h", quota=2, concurrent=1)))

    def begin(name: str, now: float) -> str:
        add(store, alert(name), now=now)
        queue.decide(now)
        task, _ = queue.claim(now)
        if task is not None:
            queue.settle(task, now, state="started", due=now + 3601.5)
        return str(decisions(store)[-1]["reason"])

    def end() -> None:
        """Ends the run that goes on."""
        task = claimed(queue, NOON + 3602)
        queue.settle(task, NOON, state="succeeded")

    assert begin("a", NOON) == "is being started"
    assert begin("b", NOON + 60).startswith("cooldown: the route was last at work 1m ago")
    assert begin("c", NOON + 3601).startswith("waits: 1 of its runs go on")
    end()
    task = claimed(queue, NOON + 3700)
    queue.settle(task, NOON + 3700, state="succeeded")
    assert begin("d", NOON + 8000).startswith("quota: the route was at work 2 times")
    assert begin("e", NOON + 86400 + 10) == "is being started"
    assert [state for _, state in states(store)] == ["succeeded", "skipped", "succeeded", "skipped", "started"]


def test_the_last_alert_of_a_debounce_stands_for_all(tmp_path: Path, store: Store) -> None:
    queue = Queue(store, routes(tmp_path, route(debounce="2m"), route("other")))
    add(store, alert("a"), alert("b"))
    queue.decide(NOON)
    add(store, alert("c"), now=NOON + 60)
    queue.decide(NOON + 60)
    by_route = [state for name, state in states(store) if name == "retrain"]
    assert by_route == ["skipped", "skipped", "waiting"]
    assert [state for name, state in states(store) if name == "other"] == ["waiting"] * 3
    last = decisions(store)[-2]
    assert (last["route"], last["due"]) == ("retrain", NOON + 180)
    first, second = (one["reason"] for one in decisions(store) if one["state"] == "skipped")
    assert f"debounce: alert {last['alert_id']} came within 2m" in second
    assert first.startswith("debounce: alert ")


def test_what_is_decided_at_once_is_in_the_order_in_which_it_came(tmp_path: Path, store: Store) -> None:
    queue = Queue(store, routes(tmp_path, route(debounce="2m")))
    names = [f"alert {number}" for number in range(9)]
    add(store, *[alert(name) for name in names])
    queue.decide(NOON)
    (last,) = [one for one in store.alerts() if one["decisions"][0]["state"] == "waiting"]
    assert last["fingerprint"] == names[-1]
    found = decisions(store)
    assert len({one["created"] for one in found}) == len(names)


def test_two_runs_of_a_pipeline_are_not_started_at_the_same_moment(tmp_path: Path, store: Store) -> None:
    specs = {name: {"spec": str(PENGUINS)} for name in ("penguins", "others")}
    entries = [route("one"), route("two"), route("three", start={"spec": "others"})]
    queue = Queue(store, routes(tmp_path, *entries, specs=specs))
    add(store, alert("a"))
    queue.decide(NOON)
    first = claimed(queue, NOON)
    assert queue.claim(NOON) == (None, True)
    third = claimed(queue, NOON)
    assert (first.route, third.route) == ("one", "three")
    queue.settle(first, NOON, state="started", data_version="v1", due=NOON + 1e6)
    second = claimed(queue, NOON + 2)
    # What it is compared with is the last run of the same pipeline, whichever route it came from.
    assert (second.route, second.last_data) == ("two", "v1")
    assert third.last_data == ""


def test_a_route_that_is_gone_leaves_nothing_waiting(tmp_path: Path, store: Store) -> None:
    add(store, alert("a"))
    Queue(store, routes(tmp_path, route(debounce="2m"))).decide(NOON)
    assert Queue(store, routes(tmp_path, route("new"))).claim(NOON + 200) == (None, True)
    assert decisions(store)[0]["reason"] == "route 'retrain' is no longer in the routes file"


def test_many_at_once_are_each_decided_once(tmp_path: Path, store: Store) -> None:
    found = routes(tmp_path, route(quota=5))
    add(store, *[alert(str(number)) for number in range(3 * BATCH)])
    begun: list[Any] = []

    def work() -> None:
        queue = Queue(store, found)
        while queue.decide(NOON):
            pass
        claim(queue, NOON)

    def claim(queue: Queue, now: float) -> None:
        more = True
        while more:
            task, more = queue.claim(now)
            if task is not None:
                begun.append(task.key)
                queue.settle(task, NOON, state="started", due=NOON + 1e6)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One that found the other at a start has waited.
    claim(Queue(store, found), NOON + 60)
    assert len(decisions(store)) == len({one["key"] for one in decisions(store)}) == 3 * BATCH
    assert len(begun) == len(set(begun)) == 5
    assert sum(one["state"] == "skipped" for one in decisions(store)) == 3 * BATCH - 5
