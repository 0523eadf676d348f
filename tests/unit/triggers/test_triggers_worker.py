"""The engine at work: what it does with an alert, and what with each way in which an action can end."""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trigger_parts import NOON, PENGUINS, add, alert, decisions, route, routes

from shipway.triggers.actions import Outcome
from shipway.triggers.queue import Queue, Task
from shipway.triggers.store import Store
from shipway.triggers.worker import MOST_ATTEMPTS, Engine


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(f"sqlite:///{tmp_path}/trigger.db")
    yield found
    found.close()


def until(found: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def told() -> Counter[tuple[str, str]]:
    return Counter()


@pytest.fixture
def engine(tmp_path: Path, store: Store, told: Counter[tuple[str, str]]) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(*entries: dict[str, Any], **given: Any) -> Engine:
        found = routes(tmp_path, *entries, **given)
        made.append(Engine(store, found, tmp_path / "state", lambda name, state: told.update([(name, state)])))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_an_alert_is_decided_done_and_counted(
    tmp_path: Path, store: Store, engine: Callable[..., Engine], told: Counter[tuple[str, str]]
) -> None:
    working = engine(route(do="alert", spec="penguins"), route("never", on={"kind": "data"}))
    assert not working.alive
    working.start()
    assert working.alive
    add(store, alert("a"), alert("b"), alert("over", resolved=True))
    working.wake()
    until(lambda: [one["state"] for one in decisions(store)].count("done") == 2)
    lines = (tmp_path / "state" / "alerts.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert told == {("retrain", "matched"): 2, ("retrain", "done"): 2, ("", "skipped"): 1}
    working.stop()
    assert not working.alive


def test_a_database_that_fails_for_a_while_is_asked_again(
    tmp_path: Path, store: Store, engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, alert("a"))
    with sqlite3.connect(tmp_path / "trigger.db") as connection:
        connection.execute("ALTER TABLE decisions RENAME TO gone")
    working = engine(route(do="alert", spec="penguins"))
    complaints: list[str] = []
    monkeypatch.setattr("shipway.triggers.worker.log.error", lambda *given: complaints.append(str(given[1])))
    working.start()
    until(lambda: bool(complaints))
    assert "no such table: decisions" in complaints[0]
    assert working.alive
    with sqlite3.connect(tmp_path / "trigger.db") as connection:
        connection.execute("ALTER TABLE gone RENAME TO decisions")
    until(lambda: [one["state"] for one in decisions(store)] == ["done"])
    assert len(complaints) == 1


def test_a_spec_that_left_the_routes_file_fails_its_decision(store: Store, engine: Callable[..., Engine]) -> None:
    add(store, alert("a"))
    before = engine(route(debounce="1s"))
    before._go_round(time.time())
    after = engine(route(start={"spec": "other"}), specs={"other": {"spec": str(PENGUINS)}})
    until(lambda: after._go_round(time.time()) or decisions(store)[0]["state"] == "failed")
    assert decisions(store)[0]["reason"] == "spec 'penguins' is no longer in the routes file"


@pytest.mark.parametrize(
    ("state", "attempts", "outcome", "wanted"),
    [
        ("starting", 1, Outcome("started", "r", "name", "link", "v1"), {"state": "started", "run_name": "name"}),
        ("starting", 1, Outcome("started", "r", "name", "link", "v1"), {"run_link": "link", "data_version": "v1"}),
        ("starting", 1, Outcome("skipped", "unchanged"), {"state": "skipped", "reason": "unchanged", "begun": 0.0}),
        ("starting", 1, Outcome("failed", "no file"), {"state": "failed", "reason": "no file", "begun": 0.0}),
        ("starting", 3, Outcome("error", "off"), {"due": NOON + 8, "reason": "try 3: off; next in 8 s"}),
        ("starting", MOST_ATTEMPTS, Outcome("error", "off"), {"state": "failed", "reason": "off"}),
        ("starting", 1, Outcome("done", "told", run_link="page"), {"state": "done", "run_link": "page"}),
        ("started", 1, Outcome("running"), {"due": NOON + 1}),
        ("started", 99, Outcome("error", "off"), {"due": NOON + 30}),
        ("started", 1, Outcome("succeeded", "shipped"), {"state": "succeeded", "reason": "shipped"}),
        ("started", 1, Outcome("rejected", "auc"), {"state": "failed", "reason": "rejected: auc"}),
        ("started", 1, Outcome("failed", "memory"), {"state": "failed", "reason": "memory"}),
        ("started", 1, Outcome("lost", "gone"), {"state": "starting", "reason": "gone; it is started again"}),
        # One that is killed each time, by the machine's lack of memory say, is not begun for ever.
        ("started", MOST_ATTEMPTS, Outcome("lost", "gone"), {"state": "failed", "reason": "gone"}),
    ],
)
def test_what_comes_of_each_outcome(
    engine: Callable[..., Engine], state: str, attempts: int, outcome: Outcome, wanted: dict[str, Any]
) -> None:
    task = Task(1, "t1", "retrain", state, {"spec": "penguins", "do": "start"}, attempts, "", NOON)
    found = engine(route())._values(task, outcome, NOON)
    assert wanted.items() <= found.items()
    assert "begun" in wanted or "begun" not in found or found["state"] == "failed"


def test_an_action_that_crashes_is_tried_again(
    tmp_path: Path, store: Store, engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An interpreter that cannot even start: its home is not there.
    monkeypatch.setenv("PYTHONHOME", str(tmp_path / "nowhere"))
    working = engine(route(do="alert", spec="penguins"))
    add(store, alert("a"))
    working.start()
    until(lambda: bool(decisions(store)) and decisions(store)[0]["reason"].startswith("try 1: "))
    found = decisions(store)[0]
    assert found["state"] == "starting"
    assert "its process ended with code 1: " in found["reason"]
    monkeypatch.delenv("PYTHONHOME")
    until(lambda: decisions(store)[0]["state"] == "done")


def test_a_long_run_is_looked_at_less_often(tmp_path: Path, store: Store, engine: Callable[..., Engine]) -> None:
    working = engine(route())
    task = Task(1, "t1", "retrain", "started", {"spec": "penguins"}, 1, "", NOON)
    assert [working._pause(task, NOON + age) for age in (0, 100, 100_000)] == [1.0, 5.0, 15.0]
    add(store, alert("a"))
    assert Queue(store, routes(tmp_path, route())).decide(NOON)


def test_what_it_starts_does_not_know_the_databases_password(
    tmp_path: Path, store: Store, engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment.tmp\nmv {tmp_path}/environment.tmp {tmp_path}/known\n")
    program.chmod(0o755)
    monkeypatch.setattr("shipway.triggers.worker.sys.executable", str(program))
    monkeypatch.setenv("PGPASSWORD", "swordfish")
    monkeypatch.setenv("SHIPWAY_DATABASE_URL", "postgresql://u:swordfish@h/n")
    monkeypatch.setenv("SHIPWAY_NOTIFY_URLS", "json://elsewhere")
    add(store, alert("a"))
    engine(route(do="alert", spec="penguins")).start()
    until((tmp_path / "known").exists)
    known = (tmp_path / "known").read_text()
    assert "swordfish" not in known
    assert "json://elsewhere" in known
