"""The store: what is acknowledged is there, once."""

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update
from trigger_parts import postgresql

from shipway.errors import InputError
from shipway.triggers.incoming import Incoming
from shipway.triggers.store import Delivery, Fact, Store, StoreError, alert_id, bounded_fingerprint
from shipway.triggers.tables import alerts, decisions, metadata


def delivery(name: str, source: str = "shipway", fact: Fact | None = None) -> Delivery:
    incoming = Incoming(source, "alert", name, {"name": name}, {"value": [1, {"a": None}]}, f"alert {name}")
    return Delivery(incoming, [fact] if fact else [])


def decide(store: Store, name: str, state: str, created: float = 5.0) -> None:
    key = alert_id("shipway", name)
    row = {
        "alert_id": key,
        "route": "retrain",
        "key": f"t{name}",
        "action": {"do": "start"},
        "state": state,
        "reason": f"it is {state}",
        "due": created,
        "created": created,
        "updated": created,
    }
    with store.writing() as connection:
        connection.execute(insert(decisions).values(row))
        connection.execute(update(alerts).where(alerts.c.id == key).values(state="decided"))


@pytest.fixture(scope="module")
def server():
    with postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store(request, tmp_path):
    is_sqlite = request.param == "sqlite"
    opened = Store(f"sqlite:///{tmp_path / 'deep' / 'trigger.db'}" if is_sqlite else request.getfixturevalue("server"))
    yield opened
    if not is_sqlite:
        with opened.writing() as connection:
            metadata.drop_all(connection)
    opened.close()


def test_an_alert_that_is_known_is_counted_and_not_stored_again(store):
    first, second, again = store.add([delivery("a"), delivery("b"), delivery("a")], now=10.0)
    assert (first.folded, second.folded, again.folded) == (False, False, True)
    assert first.id == again.id == alert_id("shipway", "a")
    assert [one.folded for one in store.add([delivery("b"), delivery("c")], now=20.0)] == [True, False]
    found = {one["fingerprint"]: one for one in store.alerts()}
    assert {name: one["count"] for name, one in found.items()} == {"a": 2, "b": 2, "c": 1}
    assert (found["a"]["received"], found["b"]["last_seen"]) == (10.0, 20.0)
    whole = store.alert(first.id)
    assert whole is not None
    assert whole["payload"] == {"value": [1, {"a": None}]}
    assert store.alert("0" * 24) is None


def test_the_same_fingerprint_of_another_source_is_another_alert(store):
    stored = store.add([delivery("a"), delivery("a", source="github")])
    assert [one.folded for one in stored] == [False, False]
    assert len(store.alerts()) == 2
    assert [one["source"] for one in store.alerts(source="github")] == ["github"]


def test_what_was_decided_stays_decided_when_it_comes_again(store):
    store.add([delivery("a")])
    decide(store, "a", "started")
    store.add([delivery("a")])
    (alert,) = store.alerts()
    assert alert["state"] == "decided"
    assert [(one["route"], one["state"], one["reason"]) for one in alert["decisions"]] == [
        ("retrain", "started", "it is started")
    ]
    assert store.counts() == (0, {"started": 1})


def test_alerts_and_runs_come_newest_first_page_by_page(store):
    for moment, name in enumerate("abcd"):
        store.add([delivery(name)], now=float(moment))
        decide(store, name, "skipped" if name == "c" else "succeeded", created=float(moment))
    assert [one["fingerprint"] for one in store.alerts(limit=2)] == ["d", "c"]
    assert [one["fingerprint"] for one in store.alerts(limit=2, before=2.0)] == ["b", "a"]
    assert [one["key"] for one in store.runs()] == ["td", "tb", "ta"]
    assert [one["title"] for one in store.runs(limit=1, before=3.0)] == ["alert b"]
    assert store.runs(route="another") == []


def test_alerts_of_one_commit_come_page_by_page_and_in_their_order(store):
    store.add([delivery(name) for name in "cab"], now=1.7e9)
    found, before = [], None
    for _ in range(3):
        (one,) = store.alerts(limit=1, before=before)
        found.append(one["fingerprint"])
        before = one["received"]
    assert found == ["b", "a", "c"]


def test_an_older_fact_never_replaces_a_newer_one(store):
    def fact(version: str, time: float, kind: str = "check") -> Fact:
        return Fact("flights", kind, version, {"psi": time}, time)

    store.add([delivery("a", fact=fact("3", 30.0)), delivery("b", fact=fact("2", 20.0))])
    store.add([delivery("c", fact=fact("1", 10.0))])
    assert [(one.kind, one.version, one.data) for one in store.facts()] == [("check", "3", {"psi": 30.0})]
    store.add([delivery("d", fact=fact("4", 40.0)), delivery("e", fact=fact("4", 41.0, "live"))])
    assert [(one.kind, one.version) for one in store.facts()] == [("check", "4"), ("live", "4")]


def test_only_old_alerts_that_started_nothing_are_forgotten(store):
    for name in ("new", "skipped", "run", "recent"):
        store.add([delivery(name)], now=1.0)
    decide(store, "skipped", "skipped")
    decide(store, "run", "succeeded")
    decide(store, "recent", "skipped")
    store.add([delivery("recent")], now=100.0)
    assert store.forget(before=50.0) == 1
    assert {one["fingerprint"] for one in store.alerts()} == {"new", "run", "recent"}
    assert [one["key"] for one in store.runs()] == ["trun"]
    assert store.forget(before=50.0) == 0


def test_a_transaction_that_fails_leaves_nothing(store):
    store.add([delivery("a")])
    with (
        pytest.raises(StoreError, match=r"database (sqlite|postgresql).*(UNIQUE|duplicate key)"),
        store.writing() as connection,
    ):
        connection.execute(update(alerts).values(title="changed"))
        connection.execute(insert(alerts).from_select(alerts.c.keys(), select(alerts)))
    assert store.alerts()[0]["title"] == "alert a"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://root:hunter2@db/name", "found mysql, expected sqlite or postgresql"),
        ("sqlite://", "in memory"),
        ("not a url hunter2", "cannot be read"),
        ("postgresql://user:hunter2@host:hunter2/name", "cannot be read"),
        ("sqlite:////proc/no/such.db", "No such file|cannot"),
    ],
)
def test_a_database_that_cannot_work_is_refused(url, said):
    with pytest.raises(InputError, match=said) as caught:
        Store(url)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "trigger.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match=f"{path}: file is not a database"):
        Store(f"sqlite:///{path}")


def test_a_database_out_of_reach_is_told_without_its_password():
    for url in ("user:hunter2@127.0.0.1:1/name", "127.0.0.1:1/name?user=user&password=hunter2"):
        with pytest.raises(StoreError, match=r"postgresql.*127.0.0.1:1/name.*: .*refused") as caught:
            Store(f"postgres://{url}")
        assert "hunter2" not in str(caught.value)


def test_a_long_fingerprint_becomes_its_digest():
    assert bounded_fingerprint("x" * 200) == "x" * 200
    long, other = bounded_fingerprint("x" * 201), bounded_fingerprint("x" * 202)
    assert long != other
    assert long.startswith("sha256:")
    assert len(long) == 71


WRITER = """
import sys
from shipway.triggers.incoming import Incoming
from shipway.triggers.store import Delivery, Store
store = Store(sys.argv[1])
for number in range(0, 200, 10):
    names = [str(one) for one in range(number, number + 10)]
    store.add([Delivery(Incoming("s", "alert", name, {}, {}, name)) for name in reversed(names)])
"""


def test_processes_that_store_the_same_alerts_side_by_side_store_each_once(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'trigger.db'}"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    try:
        said = [writer.communicate(timeout=60)[1] for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
    assert [writer.returncode for writer in writers] == [0, 0, 0], said
    store = Store(url)
    found = store.alerts(limit=500)
    store.close()
    assert len(found) == 200
    assert {one["count"] for one in found} == {3}
