"""What each source's requests mean, and what is malformed in them."""

import json
import time
from typing import Any

import pytest
from trigger_service import github_headers, notification, own_event

from shipway.serving.limits import Refusal
from shipway.triggers.expression import expression
from shipway.triggers.sources.call import Call, Reading
from shipway.triggers.sources.kinds import read_call
from shipway.triggers.store import Delivery

EVENT = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


def read(
    kind: str, body: Any, headers: dict[str, str] | None = None, signed: bool = False, **given: Any
) -> list[Delivery]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reading = Reading("somewhere", **{name: one if name == "event" else _parsed(one) for name, one in given.items()})
    return list(
        read_call(kind, Call({"content-type": "application/json", **(headers or {})}, content, signed), reading)
    )


def _parsed(given: Any) -> Any:
    return {name: expression(one) for name, one in given.items()} if isinstance(given, dict) else expression(given)


def refused(kind: str, body: Any, said: str, status: int = 400, **given: Any) -> None:
    with pytest.raises(Refusal, match=said) as caught:
        read(kind, body, **given)
    assert caught.value.status == status
    assert len(caught.value.reason) < 400


def test_a_notification_is_an_event_for_each_alert():
    first, second = read("alertmanager", notification("a", "b"))
    assert first.incoming.fingerprint != second.incoming.fingerprint
    assert first.incoming.kind == "alert"
    assert first.incoming.title == "ErrorRate: a fails"
    assert first.incoming.labels == {
        "alertname": "ErrorRate",
        "model": "flights",
        "instance": "a",
        "status": "firing",
    }
    assert first.incoming.payload["receiver"] == "shipway"
    assert first.incoming.payload["labels"]["instance"] == "a"
    assert "alerts" not in first.incoming.payload


def test_an_alert_that_goes_on_is_the_same_and_its_end_is_another():
    def fingerprint(**changes: Any) -> str:
        body = notification("a")
        body["alerts"][0].update(changes)
        return read("alertmanager", body)[0].incoming.fingerprint

    same = fingerprint()
    assert fingerprint(endsAt="2026-02-01T00:00:00Z", generatorURL="http://another") == same
    assert fingerprint(startsAt="2026-03-01T00:00:00Z") != same
    (over,) = read("alertmanager", notification("a", status="resolved"))
    assert over.incoming.resolved
    assert over.incoming.fingerprint != same


def test_an_old_alertmanagers_alerts_are_told_apart_by_their_labels():
    body = notification("a", "b", "a")
    for one in body["alerts"]:
        del one["fingerprint"]
    first, second, third = (one.incoming.fingerprint for one in read("alertmanager", body))
    assert first == third != second


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "the body: expected an object, found a list"),
        ({}, "alerts: expected a list"),
        ({"alerts": []}, "alerts: expected a list"),
        ({"alerts": {"a": 1}}, "alerts: expected a list"),
        ({"alerts": [1]}, r"alerts\[0\]: expected an object, found a number"),
        ({"alerts": [{}]}, r"alerts\[0\].labels: expected an object, found null"),
        ({"alerts": [{"labels": {"a": 1}}]}, r"alerts\[0\].labels.a: expected text, found a number"),
        ({"alerts": [{"labels": {}}]}, r"alerts\[0\].status: expected text, found null"),
        ({"alerts": [{"labels": {}, "status": "x" * 999}]}, r"expected firing or resolved, found 'x{40}'"),
        ({"alerts": [{"labels": {}, "status": "firing"}]}, r"alerts\[0\].startsAt: expected text"),
        ({"alerts": [{"labels": {}, "status": "firing", "startsAt": 5}]}, r"startsAt: expected text"),
        ({"alerts": [{"labels": {}, "status": "firing", "startsAt": "x", "annotations": [1]}]}, "found a list"),
    ],
)
def test_what_is_no_notification_is_refused(body, said):
    refused("alertmanager", body, said)


def test_a_notification_of_too_many_alerts_is_refused():
    refused("alertmanager", {"alerts": [{}] * 1001}, "at most 1000 at once, found 1001", status=413)


def test_what_alerts_have_in_common_is_not_copied_without_bounds():
    many = notification(*[str(number) for number in range(500)])
    assert len(read("alertmanager", many)) == 500
    refused("alertmanager", {**many, "groupKey": "x" * 50_000}, "have in common is too large", 413)


def test_an_event_of_ours_says_what_a_check_found():
    gauges = {"drift_psi": {"distance": 0.4}, "drift_share": 0.5}
    body = own_event("drift", version="3", decision="retrain", gauges=gauges, until="2026-01-31T12:00:00Z")
    (one,) = read("cloudevents", body, {"content-type": EVENT})
    assert one.incoming.kind == "alert"
    assert one.incoming.title == "flights has drifted"
    assert {
        "model": "flights",
        "kind": "drift",
        "decision": "retrain",
        "version": "3",
    }.items() <= one.incoming.labels.items()
    assert one.incoming.payload["data"]["facts"]["until"] == "2026-01-31T12:00:00Z"
    (fact,) = one.facts
    assert (fact.model, fact.kind, fact.version, fact.data) == ("flights", "check", "3", gauges)
    assert fact.time == 1769860800.0


def test_an_event_of_ours_says_which_version_is_live():
    body = own_event("live", version=4, baseline={"latency_p99_ms": 12.5})
    (one,) = read("cloudevents", body, {"content-type": EVENT})
    assert [(fact.kind, fact.version, fact.data) for fact in one.facts] == [
        ("live", "4", {}),
        ("baseline 4", "4", {"latency_p99_ms": 12.5}),
    ]


@pytest.mark.parametrize("kind", ["rolled_back", "halted"])
def test_after_a_rollback_the_version_before_is_live(kind):
    (one,) = read("cloudevents", own_event(kind, version="4", stable="3"), {"content-type": EVENT})
    assert [(fact.kind, fact.version) for fact in one.facts] == [("live", "3")]
    (first,) = read("cloudevents", own_event(kind, version="4"), {"content-type": EVENT})
    assert first.facts == []


def test_a_clock_ahead_is_not_believed():
    (one,) = read(
        "cloudevents", {**own_event("live", version="4"), "time": "9999-01-01T00:00:00Z"}, {"content-type": EVENT}
    )
    assert len(one.facts) == 2
    assert all(fact.time <= time.time() for fact in one.facts)


@pytest.mark.parametrize(
    "data",
    [
        None,
        "text",
        [],
        {},
        {"model": 5, "facts": {}},
        {"model": "m", "facts": []},
        {"model": "m", "facts": {"version": []}},
    ],
)
def test_an_event_of_ours_that_says_nothing_is_an_event_all_the_same(data):
    (one,) = read("cloudevents", {**own_event("drift"), "data": data}, {"content-type": EVENT})
    assert one.facts == []
    assert one.incoming.labels["type"] == "dev.shipway.drift"


def test_binary_and_structured_events_are_the_same():
    event = own_event("drift", version="3", decision="retrain")
    headers = {f"ce-{name}": str(event[name]) for name in ("specversion", "id", "type", "source", "subject", "time")}
    (binary,) = read("cloudevents", event["data"], headers)
    (structured,) = read("cloudevents", event, {"content-type": EVENT})
    assert binary.incoming.fingerprint == structured.incoming.fingerprint
    assert binary.incoming.labels == structured.incoming.labels
    assert binary.facts == structured.facts


def test_a_batch_is_an_event_each():
    found = read("cloudevents", [own_event("drift", "1"), own_event("live", "2")], {"content-type": BATCH})
    assert [one.incoming.labels["type"] for one in found] == ["dev.shipway.drift", "dev.shipway.live"]
    assert read("cloudevents", [], {"content-type": BATCH}) == []


def test_a_binary_events_headers_are_percent_encoded():
    headers = {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-type": "t",
        "ce-source": "/a",
        "ce-subject": "Z%C3%BCrich%20%22a%22",
    }
    (one,) = read("cloudevents", b"", headers)
    assert one.incoming.labels["subject"] == 'Zürich "a"'
    refused("cloudevents", b"", "NUL", headers={**headers, "ce-id": "%00"})


def test_a_signature_does_not_answer_for_a_binary_events_headers():
    event = own_event("drift")
    headers = {f"ce-{name}": str(event[name]) for name in ("specversion", "id", "type", "source")}
    refused("cloudevents", event["data"], "the signature does not cover the headers", headers=headers, signed=True)
    assert read("cloudevents", event, {"content-type": EVENT}, signed=True)


OBJECTS = [
    (
        "google.cloud.storage.object.v1.finalized",
        {"bucket": "rows", "name": "2026/01.parquet", "md5Hash": "m==", "etag": "e"},
        {"bucket": "rows", "object": "2026/01.parquet", "etag": "m=="},
    ),
    (
        "com.amazonaws.s3.ObjectCreated:Put",
        {"s3": {"bucket": {"name": "rows"}, "object": {"key": "a.parquet", "eTag": "e"}}},
        {"bucket": "rows", "object": "a.parquet", "etag": "e"},
    ),
    (
        "aws.s3.object.created",
        {"detail": {"bucket": {"name": "rows"}, "object": {"key": "a.parquet", "etag": "e"}}},
        {"bucket": "rows", "object": "a.parquet", "etag": "e"},
    ),
    (
        "Microsoft.Storage.BlobCreated",
        {"url": "https://x.blob.core.windows.net/rows/a", "eTag": "e"},
        {"object": "https://x.blob.core.windows.net/rows/a", "etag": "e"},
    ),
    ("google.cloud.storage.object.v1.finalized", {"bucket": 5, "name": ["a"], "object": 7}, {}),
]


@pytest.mark.parametrize(("kind", "data", "expected"), OBJECTS)
def test_a_new_object_is_data(kind, data, expected):
    body = {"specversion": "1.0", "id": "1", "source": "/store", "type": kind, "data": data}
    (one,) = read("cloudevents", body, {"content-type": EVENT})
    assert one.incoming.kind == "data"
    assert one.incoming.labels == {"type": kind, "source": "/store", **expected}


def test_another_type_is_what_the_routes_file_says():
    body = {"specversion": "1.0", "id": "1", "source": "/lake", "type": "com.example.partition", "data": {"day": 5}}
    (one,) = read("cloudevents", body, {"content-type": EVENT}, event="data", labels={"day": "data.day"})
    assert (one.incoming.kind, one.incoming.labels["day"]) == ("data", "5")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"specversion": "0.3"}, "specversion: expected 1.0, found '0.3'"),
        ({"specversion": 1.0}, None),
        ({"id": ""}, "event.id: expected text, found empty text"),
        ({"id": 5}, "event.id: expected text, found a number"),
        ({"source": None}, "event.source: expected text, found null"),
        ({"type": ["a"]}, "event.type: expected text, found a list"),
        ({"subject": {}}, "event.subject: expected text, found an object"),
        ({"time": "yesterday"}, "event.time: expected a moment"),
        ({"time": "2026-01-31T12:00:00"}, "event.time: expected a moment"),
        ({"time": 5}, "event.time: expected text"),
        ({"Bad-Name": 1}, "lower-case letters and digits, found 'Bad-Name'"),
    ],
)
def test_what_is_no_cloudevent_is_refused(changes, said):
    refused("cloudevents", {**own_event("drift"), **changes}, said or "expected", headers={"content-type": EVENT})


def test_what_is_no_cloudevents_request_is_refused():
    refused("cloudevents", own_event("drift"), "expected content type", status=415)
    refused("cloudevents", {}, "expected a list of events", headers={"content-type": BATCH})
    refused("cloudevents", [5], r"events\[0\]: expected an object", headers={"content-type": BATCH})
    refused("cloudevents", [{}] * 1001, "at most 1000", status=413, headers={"content-type": BATCH})
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "t", "ce-source": "/a", "content-type": "text/csv"}
    refused("cloudevents", b"a,b", "data of content type text/csv", status=415, headers=headers)


PUSH = {
    "ref": "refs/heads/main",
    "after": "abc",
    "repository": {"full_name": "team/models"},
    "sender": {"login": "somebody"},
    "head_commit": {"message": "Say what\nmore"},
    "commits": [{"added": ["a.py"], "modified": [], "removed": []}],
}


def test_a_push_is_code():
    (one,) = read("github", PUSH, {"x-github-event": "push"})
    assert one.incoming.kind == "code"
    assert one.incoming.title == "push team/models main: Say what"
    assert one.incoming.labels == {
        "event": "push",
        "repository": "team/models",
        "sender": "somebody",
        "ref": "refs/heads/main",
        "branch": "main",
        "sha": "abc",
    }
    assert not one.incoming.resolved
    (gone,) = read("github", {**PUSH, "deleted": True}, {"x-github-event": "push"})
    assert gone.incoming.resolved


def test_a_delivery_that_is_sent_again_is_the_same_whatever_its_headers_say():
    body = json.dumps(PUSH).encode()
    first, again = (read("github", body, github_headers(body, "push", delivery=name))[0] for name in ("d-1", "d-2"))
    assert first.incoming.fingerprint == again.incoming.fingerprint
    (other,) = read("github", {**PUSH, "after": "def"}, {"x-github-event": "push"})
    assert other.incoming.fingerprint != first.incoming.fingerprint


def test_a_dispatch_may_ask_for_the_same_twice():
    def fingerprint(delivery: str, **payload: Any) -> str:
        body = {"action": "retrain", "client_payload": payload, "repository": {"full_name": "team/models"}}
        headers = {"x-github-event": "repository_dispatch", "x-github-delivery": delivery}
        (one,) = read("github", body, headers)
        assert (one.incoming.kind, one.incoming.labels["action"]) == ("request", "retrain")
        return one.incoming.fingerprint

    assert fingerprint("d-1") == fingerprint("d-1") != fingerprint("d-2")
    assert fingerprint("d-1", id=5) == fingerprint("d-2", id=5) != fingerprint("d-2", id=6)
    assert fingerprint("", other=1) != fingerprint("", other=2)


@pytest.mark.parametrize(
    ("event", "body", "labels", "kind"),
    [
        (
            "release",
            {"action": "published", "release": {"tag_name": "v1"}},
            {"action": "published", "tag": "v1"},
            "code",
        ),
        (
            "deployment_protection_rule",
            {"action": "requested", "environment": "prod"},
            {"environment": "prod"},
            "request",
        ),
        ("create", {"ref": "v1", "ref_type": "tag"}, {"ref": "v1"}, "code"),
        ("push", {"ref": "refs/tags/v2", "after": "x"}, {"tag": "v2"}, "code"),
    ],
)
def test_other_events_have_their_labels(event, body, labels, kind):
    (one,) = read("github", body, {"x-github-event": event})
    assert labels.items() <= one.incoming.labels.items()
    assert one.incoming.kind == kind


def test_what_is_not_githubs_is_refused():
    assert read("github", {"zen": "Keep it logically awesome."}, {"x-github-event": "ping"}) == []
    for name in ("", "a b", "../x", "p" * 61, "\u0130"):
        refused("github", PUSH, "X-GitHub-Event", headers={"x-github-event": name})
    refused("github", {}, "ref: expected text", headers={"x-github-event": "push"})
    refused("github", {**PUSH, "ref": 5}, "ref: expected text, found a number", headers={"x-github-event": "push"})
    form = {"x-github-event": "push", "content-type": "application/x-www-form-urlencoded"}
    refused("github", b"payload=%7B%7D", "expected content type application/json", status=415, headers=form)


def test_any_json_is_read_by_expressions():
    body = {"order": {"id": 17, "country": "DE", "what": ["a", "b"]}, "note": "one\n  line"}
    (one,) = read(
        "json",
        body,
        fingerprint="order.id",
        title="note",
        labels={"country": "order.country", "n": "length(order.what)"},
    )
    assert (one.incoming.fingerprint, one.incoming.title, one.incoming.kind) == ("17", "one line", "request")
    assert one.incoming.labels == {"country": "DE", "n": "2"}
    (plain,) = read("json", body, event="data")
    assert plain.incoming.fingerprint.startswith("sha256:")
    assert (plain.incoming.title, plain.incoming.kind) == ("data from somewhere", "data")
    assert read("json", body, {"content-type": "application/vnd.partner+json; charset=utf-8"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fingerprint": "missing"}, "the fingerprint, missing, finds nothing"),
        ({"fingerprint": "order"}, "expected one value, found a mapping"),
        ({"fingerprint": "length(order.id)"}, "does not fit the payload"),
        ({"title": "order"}, "expected one value"),
        ({"labels": {"a": "order"}}, "expected one value"),
    ],
)
def test_an_expression_that_does_not_fit_refuses_the_body(given, said):
    refused("json", {"order": {"id": 5}}, said, **given)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_page_in_a_browser_cannot_send_without_asking(content_type):
    refused("json", {}, "expected content type", status=415, headers={"content-type": content_type})
