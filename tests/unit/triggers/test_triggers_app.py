"""The application over a real socket: what is refused and why, what is stored, what readers see."""

import json
import socket
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from trigger_service import (
    BEARER,
    READER,
    TOKEN,
    Service,
    github_headers,
    listening,
    notification,
    own_event,
    serving,
    signed,
)

from shipway.errors import InputError
from shipway.triggers.app import create_app
from shipway.triggers.routes import load_routes
from shipway.triggers.settings import app_settings, without_authentication

EVENT = {"content-type": "application/cloudevents+json"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running


def reason(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    return str(body["error"])


def test_an_alert_is_stored_before_it_is_acknowledged(service: Service):
    service.engine.woken.clear()
    answer = service.post("alertmanager", notification("a", "b"), BEARER)
    assert answer.status_code == 202
    first, second = answer.json()["alerts"]
    assert (first["folded"], second["folded"]) == (False, False)
    assert service.engine.woken.wait(10)
    with closing(sqlite3.connect(service.store.place.removeprefix("sqlite:///"))) as connection:
        found = connection.execute("SELECT id, state FROM alerts WHERE source = 'alertmanager' ORDER BY title")
        assert found.fetchall() == [(first["id"], "new"), (second["id"], "new")]
    again = service.post("alertmanager", notification("b"), BEARER)
    assert (again.status_code, again.json()) == (202, {"alerts": [{"id": second["id"], "folded": True}]})


def test_each_source_lets_in_its_own(service: Service):
    assert service.post("shipway", own_event("drift", "own"), {**BEARER, **EVENT}).status_code == 202
    body = json.dumps({"ref": "refs/heads/main"}).encode()
    assert service.post("github", body, github_headers(body, "push")).status_code == 202
    order = b'{"order": {"id": 1}}'
    assert service.post("partner", order, signed(order)).status_code == 202
    ping = service.post("github", b"{}", github_headers(b"{}", "ping"))
    assert (ping.status_code, ping.json()) == (202, {"alerts": []})


@pytest.mark.parametrize("source", ["shipway", "signed", "alertmanager", "github", "partner"])
def test_what_is_unsigned_or_signed_wrongly_is_not_let_in(service: Service, source):
    body = b'{"order": {"id": 2}}'
    before = len(service.store.alerts(limit=500))
    assert reason(service.post(source, body), 401)
    wrong = {
        "authorization": f"Bearer {TOKEN[:-1]}",
        **github_headers(body, "push", key="another-secret-16"),
        **signed(body, key="another-secret-16"),
    }
    assert reason(service.post(source, body, wrong), 401)
    # Signed for another body.
    moved = {**github_headers(b"{}", "push"), **signed(b"{}")}
    assert reason(service.post(source, body, moved), 401)
    assert len(service.store.alerts(limit=500)) == before


def test_a_signed_message_is_taken_once_and_not_for_long(service: Service):
    body = b'{"order": {"id": 3}}'
    headers = signed(body)
    assert service.post("partner", body, headers).status_code == 202
    assert "taken before" in reason(service.post("partner", body, headers), 409)
    assert "old" in reason(service.post("partner", body, signed(body, stamp=1_700_000_000)), 401)


def test_a_signed_message_that_was_malformed_may_come_again(service: Service):
    body = b'{"order": {}}'
    headers = signed(body)
    assert "finds nothing" in reason(service.post("partner", body, headers), 400)
    assert "finds nothing" in reason(service.post("partner", body, headers), 400)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "empty"),
        (b"not json", 400, "not JSON"),
        (b"[1, 2]", 400, "expected an object, found a list"),
        (b'"text"', 400, "expected an object, found text"),
        (b'{"a":' * 30 + b"1" + b"}" * 30, 400, "deeper than 20 levels"),
        (b"[" * 30_000, 400, "not JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", 400, "not JSON"),
        (b'{"a": 1e999}', 400, "not JSON"),
        (b'{"a": 123456789012345678901234567890}', 400, "more than 64 bits"),
        (b'{"a": "\\u0000"}', 400, "NUL"),
        (b'{"a": "' + b"x" * (64 << 10) + b'"}', 413, "larger than 65536 bytes"),
    ],
)
def test_a_malformed_body_is_refused_with_its_reason(service: Service, body, status, said):
    assert said in reason(service.post("plain", body, BEARER), status)


def test_other_methods_types_and_sources_are_refused(service: Service):
    got = service.client.get("/hooks/plain", headers=BEARER)
    assert reason(got, 405)
    assert got.headers["allow"] == "POST"
    assert "no source 'nobody'" in reason(service.post("nobody", b"{}", BEARER), 404)
    assert reason(service.post("plain", b"a=1", {**BEARER, "content-type": "application/x-www-form-urlencoded"}), 415)
    assert reason(service.post("plain", b"\x1f\x8b", {**BEARER, "content-encoding": "gzip"}), 415)
    assert reason(service.client.get("/nothing"), 404)
    assert reason(service.client.post("/alerts"), 405)


def exchange(url: str, request: bytes) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_a_body_without_an_end_is_refused_once_it_is_too_large(service: Service):
    head = (
        f"POST /hooks/plain HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    answer = exchange(service.url, head.encode() + chunk * 3 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"larger than 65536 bytes" in answer


def test_a_body_that_is_announced_too_large_is_refused_unread(service: Service):
    head = (
        f"POST /hooks/plain HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        "Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n"
    )
    answer = exchange(service.url, head.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_source_that_sends_too_much_waits_and_strangers_cannot_make_it_wait(tmp_path):
    routes = "sources:\n  one: {kind: json, auth: {bearer: EVENTS}}\nreaders: {bearer: READER}\nlimits: {rate: 2/h}\n"
    with serving(tmp_path, routes) as running:
        strangers = [running.post("one", b"{}") for _ in range(5)]
        assert {answer.status_code for answer in strangers} == {401, 429}
        answers = [running.post("one", b'{"a": %d}' % number, BEARER) for number in range(3)]
        assert [answer.status_code for answer in answers] == [202, 429, 429]
        assert "too many requests" in reason(answers[2], 429)
        assert int(answers[2].headers["retry-after"]) > 1000


def test_readers_show_who_they_are(service: Service):
    for path in ("/alerts", "/runs", "/", f"/alerts/{'0' * 24}", f"/view/{'0' * 24}"):
        answer = service.client.get(path)
        assert reason(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert reason(service.client.get(path, headers=BEARER), 401)
    assert service.client.get("/", auth=("me", READER)).status_code == 200
    assert reason(service.read(f"/alerts/{'0' * 24}"), 404) == "no alert has this id"


def test_readers_see_alerts_page_by_page(service: Service):
    service.post("plain", {"n": 1}, BEARER)
    service.post("plain", {"n": 2}, BEARER)
    last, before = service.read("/alerts?source=plain&limit=2").json()["alerts"]
    assert last["received"] > before["received"]
    assert service.read(f"/alerts?source=plain&limit=1&before={last['received']}").json()["alerts"] == [before]
    assert service.read(f"/alerts/{last['id']}").json()["payload"] == {"n": 2}
    assert service.read("/runs").json() == {"runs": []}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "before=nan", "before=-1", "before=1e999", "source=%00", "source=A%27"]
)
def test_a_query_that_is_out_of_bounds_is_refused(service: Service, query):
    assert "query." in reason(service.read(f"/alerts?{query}"), 400)


def test_nothing_of_a_payload_reaches_the_page_unescaped(service: Service):
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    body = notification("evil", status="firing", severity=attack)
    body["alerts"][0]["labels"]["alertname"] = attack
    body["alerts"][0]["annotations"]["summary"] = attack
    (stored,) = service.post("alertmanager", body, BEARER).json()["alerts"]
    for path in ("/", f"/view/{stored['id']}"):
        answer = service.read(path)
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "&lt;script&gt;" in answer.text
        assert "<script" not in answer.text
        assert "<img" not in answer.text


def test_metrics_say_what_came_and_what_checks_found(service: Service):
    gauges = {"drift_psi": {"a b": 0.4, "bad": "x"}, "drift_share": 0.5, "prediction_psi": True}
    gauges |= {"performance": {"auc": 0.7}, "performance_baseline": {"auc": 0.8}, "checked_timestamp_seconds": 5.5}
    service.post("shipway", own_event("checked", "m-1", version="7", gauges=gauges), {**BEARER, **EVENT})
    baseline = {"latency_p99_ms": 12.5, "error_rate": 0.001}
    service.post("shipway", own_event("live", "m-2", version="7", baseline=baseline), {**BEARER, **EVENT})
    service.post("shipway", own_event("live", "m-2", version="7", baseline=baseline), {**BEARER, **EVENT})
    # Version 8 came and went: what is live, and its baseline, are version 7's again.
    service.post("shipway", own_event("live", "m-3", version="8", baseline={"latency_p99_ms": 99}), {**BEARER, **EVENT})
    service.post("shipway", own_event("rolled_back", "m-4", version="8", stable="7"), {**BEARER, **EVENT})
    service.post("partner", b"{}")
    answer = service.client.get("/metrics")
    assert answer.status_code == 200
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["shipway_trigger_alerts_total", "folded", "shipway"] == 1
    assert samples["shipway_trigger_alerts_total", "partner", "refused"] >= 1
    assert samples["shipway_trigger_queue",] == service.store.counts()[0] > 0
    assert samples["shipway_trigger_runs", "failed"] == 0
    assert samples["shipway_drift_psi", "7", "a b", "flights"] == 0.4
    assert ("shipway_drift_psi", "7", "bad", "flights") not in samples
    assert samples["shipway_drift_share", "7", "flights"] == 0.5
    assert ("shipway_prediction_psi", "7", "flights") not in samples
    assert samples["shipway_performance", "7", "auc", "flights"] == 0.7
    assert samples["shipway_performance_baseline", "7", "auc", "flights"] == 0.8
    assert samples["shipway_checked_timestamp_seconds", "7", "flights"] == 5.5
    assert samples["shipway_live_info", "7", "flights"] == 1
    assert ("shipway_live_info", "8", "flights") not in samples
    assert samples["shipway_baseline_latency_p99_seconds", "7", "flights"] == 0.0125
    assert samples["shipway_baseline_error_rate", "7", "flights"] == 0.001


def test_it_is_ready_while_engine_and_database_are(tmp_path):
    with serving(tmp_path) as running:
        assert running.client.get("/healthz").json() == {"ok": True, "reasons": []}
        assert running.client.get("/readyz").json() == {"ok": True, "reasons": []}
        running.engine.alive = False
        answer = running.client.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["the engine does not run"])
        assert running.client.get("/healthz").status_code == 200
        running.engine.running = False
        answer = running.client.get("/healthz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["the engine has ended"])


def test_what_cannot_be_stored_is_not_acknowledged_and_may_come_again(tmp_path):
    with serving(tmp_path) as running:
        path = Path(running.store.place.removeprefix("sqlite:///"))
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("ALTER TABLE alerts RENAME TO elsewhere")
            order = b'{"order": {"id": 1}}'
            headers = signed(order)
            answer = running.post("partner", order, headers)
            assert reason(answer, 503) == "it could not be stored; send it again"
            assert answer.headers["retry-after"] == "5"
            assert reason(running.read("/alerts"), 503)
            assert reason(running.client.get("/metrics"), 503)
            connection.execute("ALTER TABLE elsewhere RENAME TO alerts")
        # The very same message: it was not taken the first time.
        assert running.post("partner", order, headers).status_code == 202


def test_requests_that_come_together_are_each_answered_with_their_own(service: Service):
    answers: dict[int, httpx.Response] = {}

    def send(first: int) -> None:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            for number in range(first, first + 20):
                headers = {**BEARER, "content-type": "application/json"}
                content = json.dumps(notification(f"many-{number % 50}")).encode()
                answers[number] = client.post("/hooks/alertmanager", content=content, headers=headers)

    senders = [threading.Thread(target=send, args=(first,)) for first in range(0, 160, 20)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    stored = {number: answer.json()["alerts"][0] for number, answer in answers.items()}
    assert len(stored) == 160
    ids = {name: {one["id"] for number, one in stored.items() if number % 50 == name} for name in range(50)}
    assert all(len(found) == 1 for found in ids.values())
    assert len(set.union(*ids.values())) == 50
    assert sum(not one["folded"] for one in stored.values()) == 50


def test_without_authentication_only_this_machine_is_let_in(tmp_path):
    with serving(tmp_path, "sources:\n  open: {kind: json}\n") as running:
        assert running.post("open", {"a": 1}).status_code == 202
        assert "localhost" in reason(running.post("open", {"a": 2}, {"host": "evil.example"}), 403)
        assert reason(running.client.get("/alerts", headers={"host": "evil.example"}), 403)
        assert len(running.client.get("/alerts").json()["alerts"]) == 1


def test_what_has_no_authentication_is_named(tmp_path):
    (tmp_path / "routes.yaml").write_text("sources:\n  open: {kind: json}\n  b: {kind: json, auth: {bearer: EVENTS}}\n")
    routes = load_routes(tmp_path / "routes.yaml")
    assert without_authentication(app_settings(routes, {"EVENTS": TOKEN})) == ["sources.open", "readers"]
    with pytest.raises(InputError, match="secret EVENTS: set the variable EVENTS"):
        app_settings(routes, {"SHIPWAY_SECRETS": str(tmp_path)})


def test_a_fault_of_ours_is_told_by_a_reference_alone(service: Service, tmp_path, caplog):
    broken = create_app(app_settings(load_routes(_open(tmp_path)), {}), service.store, service.engine)

    async def fault() -> None:
        raise ZeroDivisionError("secret detail")

    broken.add_api_route("/fault", fault)
    with listening(broken) as address:
        answer = httpx.get(f"{address}/fault")
    told = reason(answer, 500)
    assert "secret detail" not in told
    assert told.rpartition(" ")[2] in caplog.text


def _open(folder: Path) -> Path:
    (folder / "routes.yaml").write_text("sources:\n  open: {kind: json}\n")
    return folder / "routes.yaml"


def test_what_was_sent_begins_no_line_of_the_log(service: Service, caplog):
    body = notification("a", **{"x\nERROR forged": "y"})
    body["alerts"][0]["labels"]["x\nERROR forged"] = 1
    assert "forged" in reason(service.post("alertmanager", body, BEARER), 400)
    assert "forged" in caplog.text
    assert "\nERROR forged" not in caplog.text


def test_no_secret_is_in_the_log(service: Service, caplog):
    order = b'{"order": {"id": 77}}'
    service.post("plain", b"x", BEARER)
    service.post("partner", order, {**signed(order), "x-shipway-timestamp": "5"})
    service.post("shipway", b"{}", {"authorization": f"Bearer {TOKEN}x"})
    assert "refused" in caplog.text
    assert all(secret not in caplog.text for secret in (TOKEN, signed(order)["x-shipway-signature"]))
