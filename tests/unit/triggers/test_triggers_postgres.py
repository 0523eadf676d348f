"""The trigger service on a real PostgreSQL: replicas share the work, and one alert is still one run."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubeflow_stand_in import serving
from sqlalchemy import text
from trigger_parts import (
    NOON,
    PENGUINS,
    add,
    alert,
    decisions,
    log_of,
    post,
    postgresql,
    route,
    routes,
    service,
    until,
    write_routes,
)

from shipway.triggers.queue import BATCH, Queue
from shipway.triggers.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture
def database(server: str) -> Iterator[str]:
    yield server
    store = Store(server)
    with store.writing() as connection:
        connection.execute(text("DROP TABLE decisions, alerts, facts"))
    store.close()


def test_replicas_decide_and_begin_each_thing_once(tmp_path: Path, database: str) -> None:
    found = routes(tmp_path, route(quota=5), route("waits", debounce="2m"))
    first = Store(database)
    add(first, *[alert(str(number)) for number in range(2 * BATCH + 1)])
    begun: list[str] = []

    def work() -> None:
        store = Store(database)
        queue = Queue(store, found)
        while queue.decide(NOON):
            pass
        claim(queue, NOON)
        store.close()

    def claim(queue: Queue, now: float) -> None:
        more = True
        while more:
            task, more = queue.claim(now)
            if task is not None:
                begun.append(task.key)
                queue.settle(task, now, state="started", due=now + 1e6)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # What found another one at a start has waited.
    claim(Queue(first, found), NOON + 60)
    made = decisions(first)
    assert len(made) == len({one["key"] for one in made}) == 2 * (2 * BATCH + 1)
    assert len(begun) == len(set(begun)) == 5
    states = [one["state"] for one in made if one["route"] == "waits"]
    assert states.count("waiting") == 1
    assert states.count("skipped") == 2 * BATCH
    first.close()


def test_two_replicas_of_which_one_is_killed_start_one_run(tmp_path: Path, database: str) -> None:
    specs = {"penguins": {"spec": str(PENGUINS), "target": "kubeflow"}}
    written = write_routes(tmp_path, route(), specs=specs)
    event = {"id": "drift-of-december", "kind": "drift"}
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    with (
        serving() as kubeflow,
        service(one, written, database, ["begun"], kubeflow.url) as first,
        service(two, written, database, ["begun"], kubeflow.url) as second,
    ):
        for url in (first, second):
            until(lambda at=url: post(at, event) == 202, one, "not taken")  # type: ignore[misc]  # mypy infers no default
        store = Store(database)
        until(lambda: decisions(store)[0]["state"] == "started", one, "not started")
        assert "begun -9" in log_of(one).read_text() + log_of(two).read_text()
        assert [store.alerts()[0]["count"] > 1, len(decisions(store))] == [True, 1]
        store.close()
        assert len(kubeflow.live) == 1
