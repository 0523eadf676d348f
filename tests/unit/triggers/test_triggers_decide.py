"""What follows from an alert, and whether it may be done now: pure functions."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trigger_parts import NOON, alert, route, routes

from shipway.platforms.local_keys import check_key
from shipway.spec.load import parse_setting
from shipway.triggers.decide import DAY, Decision, History, admit, debounced_until, decide, run_key


def start(**given: Any) -> dict[str, Any]:
    return {"spec": "penguins", **given}


def only(folder: Path, entry: dict[str, Any], **given: Any) -> Decision:
    (found,) = decide(alert(**given), routes(folder, entry), NOON)
    return found


def test_an_alert_becomes_a_start(tmp_path: Path) -> None:
    settings = {"split.test": "`0.25`", "train.epochs": "facts.epochs", "train.lr": 0.1, "split.until": "facts.until"}
    entry = route(start=start(set=settings))
    found = only(tmp_path, entry, payload={"facts": {"epochs": 5, "until": "20140101"}})
    assert (found.route, found.state, found.due) == ("retrain", "waiting", NOON)
    assert found.action == {
        "do": "start",
        "spec": "penguins",
        "pipeline": "training",
        "settings": ["split.test=0.25", "train.epochs=5", "train.lr=0.1", 'split.until="20140101"'],
        "parameters": {},
        "source": "",
        "unchanged": "start",
    }
    # What was text stays text, whatever it looks like.
    assert [parse_setting(entry)[1] for entry in found.action["settings"]] == [0.25, 5, 0.1, "20140101"]


def test_parameters_are_text(tmp_path: Path) -> None:
    given = start(pipeline="rollback", parameters={"reason": "'errors: 5 % / 1 m'", "to": "version"})
    found = only(tmp_path, route(start=given), payload={"version": 3})
    assert found.action["parameters"] == {"reason": "errors: 5 % / 1 m", "to": "3"}


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({}, "set.split.until: 'until' gives nothing; expected a number, a moment"),
        ({"until": "x: {y}"}, "set.split.until: 'until' gives 'x: {y}'; expected"),
        ({"until": ["a"]}, "set.split.until: 'until' gives ['a']; expected"),
    ],
)
def test_a_payload_that_lacks_what_is_needed_fails_its_decision(tmp_path: Path, payload: Any, told: str) -> None:
    found = only(tmp_path, route(start=start(set={"split.until": "until"})), payload=payload)
    assert found.state == "failed"
    assert found.reason.startswith(told)


@pytest.mark.parametrize(
    ("uri", "fine"),
    [
        ("s3://bucket/rows/2014.parquet", True),
        ("s3://bucket/rows/*.parquet", True),
        ("s3://bucket/other/2014.parquet", False),
        ("s3://bucket/rows/../other/a", False),
        ("s3://bucket/rows/%2e%2e/a", False),
        ("simplecache::s3://bucket/rows/a", False),
        ("s3://bucket/rows/a::file:///etc/passwd", False),
        ("/etc/passwd", False),
        ("", False),
        (7, False),
        ("s3://bucket/rows/\n", False),
        ("s3://bucket/rows/" + "a" * 1000, False),
    ],
)
def test_the_rows_lie_where_the_route_allows(tmp_path: Path, uri: Any, fine: bool) -> None:
    given = start(source="object.uri", within="s3://bucket/rows/")
    found = only(tmp_path, route(start=given), kind="data", payload={"object": {"uri": uri}})
    assert (found.state == "waiting") is fine, found.reason
    assert fine or found.reason.startswith("source: ")
    assert not fine or found.action["source"] == uri


def test_data_events_start_nothing_for_unchanged_rows_unless_asked_to(tmp_path: Path) -> None:
    assert only(tmp_path, route(), kind="data").action["unchanged"] == "skip"
    assert only(tmp_path, route(unchanged="start"), kind="data").action["unchanged"] == "start"
    assert only(tmp_path, route(unchanged="skip"), kind="alert").action["unchanged"] == "skip"


def test_deeds(tmp_path: Path) -> None:
    found = only(tmp_path, route(do="rollback", spec="penguins"), labels={"kind": "drift", "version": "7"})
    wanted = {"do": "rollback", "spec": "penguins", "title": "alert a", "severity": "", "version": "7"}
    assert found.action == wanted


def test_every_route_that_is_for_it_decides(tmp_path: Path) -> None:
    entries = [route("one"), route("two", do="alert", spec="penguins"), route("three", on={"kind": "data"})]
    found = decide(alert(), routes(tmp_path, *entries), NOON)
    assert [decision.route for decision in found] == ["one", "two"]
    assert len({decision.key for decision in found}) == 2


def test_why_nothing_follows(tmp_path: Path) -> None:
    entries = [route("one", on={"kind": "data"}), route("two", on={"labels": {"kind": "x"}})]
    (found,) = decide(alert(), routes(tmp_path, *entries), NOON)
    assert (found.route, found.state) == ("", "skipped")
    assert found.reason == "no route is for it: one: kind is alert, not data; two: label kind is 'drift', not x"
    (over,) = decide(alert(resolved=True), routes(tmp_path, route()), NOON)
    assert (over.state, over.reason) == ("skipped", "it says that something is over, which starts nothing")
    (none,) = decide(alert(), routes(tmp_path), NOON)
    assert none.reason == "there are no routes"


@given(st.text(), st.text(), st.text())
def test_a_key_is_a_key_and_the_same_again(name: str, source: str, fingerprint: str) -> None:
    key = run_key(name, source, fingerprint)
    assert re.fullmatch("t[0-9a-f]{15}", check_key(key))
    assert key == run_key(name, source, fingerprint)
    assert key != run_key(name, source, fingerprint + "x")
    assert key != run_key(name + "x", source, fingerprint)


@pytest.mark.parametrize(
    ("given", "history", "kind", "told"),
    [
        ({}, History(), "go", ""),
        ({}, History(last_begun=NOON - 1, today=[NOON - 1] * 50, running=50), "go", ""),
        ({"cooldown": "6h"}, History(last_begun=NOON - 3600), "skip", "cooldown: the route was last at work 1h ago"),
        ({"cooldown": "6h"}, History(last_begun=NOON - 6 * 3600), "go", ""),
        ({"quota": 2}, History(today=[NOON - 5, NOON - 9]), "skip", "quota: the route was at work 2 times"),
        ({"quota": 2}, History(today=[NOON - 5]), "go", ""),
        ({"concurrent": 1}, History(running=1), "wait", "waits: 1 of its runs go on, at most 1 may"),
        ({"concurrent": 2}, History(running=1), "go", ""),
        ({"quiet": ["11:00-13:00"]}, History(), "wait", "waits for the end of the quiet hours 11:00-13:00 UTC"),
        ({}, History(starting=True), "wait", "waits: another run of the same pipeline is being started"),
    ],
)
def test_admission(tmp_path: Path, given: dict[str, Any], history: History, kind: str, told: str) -> None:
    (found,) = routes(tmp_path, route(**given)).routes
    verdict = admit(found, history, NOON)
    assert verdict.kind == kind
    assert verdict.reason.startswith(told)
    assert (verdict.until > NOON) is (kind == "wait")


def test_a_debounce_comes_to_an_end(tmp_path: Path) -> None:
    (found,) = routes(tmp_path, route(debounce="2m")).routes
    assert debounced_until(found, NOON, NOON) == NOON + 120
    assert debounced_until(found, NOON, NOON + 60) == NOON + 180
    assert debounced_until(found, NOON, NOON + 1150) == NOON + 1200
    assert debounced_until(found, NOON, NOON + DAY) == NOON + DAY
