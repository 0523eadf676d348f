"""Several revisions behind one server, each in a slot or in a process of its own; real processes, killed and hung."""

import os
import signal
import socket
from pathlib import Path

import pytest
from serving_admin import BASE, BEARER, ONE, ROW, V1, Load, blessing, revision, table_server
from serving_process import SECONDS, until
from serving_stand_in import write_stand_in

from shipway.endpoints.client import call

pytestmark = pytest.mark.slow


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_process_of_a_candidate_loses_no_request(tmp_path: Path) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", isolated=True)]
    with table_server(tmp_path, table, {"old": 50, "new": 50}) as admin:
        before = admin.table()["new"]
        assert (before["ready"], before["isolated"], before["reason"]) == (True, True, "")
        with Load(admin.server) as load:
            until(lambda: admin.window("new").requests > 20)
            os.kill(before["pid"], signal.SIGKILL)
            until(lambda: "SIGKILL" in admin.table()["new"]["reason"])
            until(lambda: admin.window("new").errors > 20)
        assert {status for status, _ in load.answers} == {200}
        after = admin.table()["new"]
        assert "SIGKILL" in after["reason"]
        assert after["share"] == 50
        # What it did not answer is charged to it, and answered by the other one.
        old, new = admin.window("old"), admin.window("new")
        assert old.errors == 0
        assert new.errors + sum(new.latency) == new.requests
        assert old.requests == load.answers[200, "old"]
        assert admin.server.get("/v2/health/ready").status == 200
        # It is put there anew, and takes its share up again.
        assert admin.stage(table[1]).status == 200
        after = admin.table()["new"]
        assert (after["ready"], after["share"], after["reason"]) == (True, 50, "")
        until(lambda: admin.server.post(V1, ONE).headers["x-shipway-revision"] == "new")


@pytest.mark.parametrize("mode", ["hang", "die", "error", "picky"])
def test_whatever_a_candidate_does_in_its_process_the_older_one_answers(tmp_path: Path, mode: str) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", mode=mode, isolated=True)]
    with table_server(tmp_path, table, {"new": 100}, "--worker-seconds", "1") as admin:
        for _ in range(3):
            answer = admin.server.post(V1, ONE)
            assert answer.status == 200
            assert answer.headers["x-shipway-revision"] == "old"
            assert answer.json()["predictions"][0]["probability"] == pytest.approx(0.880797, abs=1e-6)
        new = admin.window("new")
        assert (new.requests, new.errors) == (3, 3)
        assert admin.window("old").requests == 3
        table_now = admin.table()["new"]
        assert table_now["ready"] is (mode in ("error", "picky"))
        expected = {"hang": "did not answer", "die": "exit code 9"}.get(mode, "")
        assert expected in table_now["reason"]


@pytest.mark.parametrize("mode", ["error", "picky"])
def test_a_faulty_candidate_in_a_slot_is_answered_for_too(tmp_path: Path, mode: str) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", mode=mode)]
    with table_server(tmp_path, table, {"old": 10, "new": 90}) as admin:
        answers = [admin.server.post(V1, ONE) for _ in range(20)]
        assert {(answer.status, answer.headers["x-shipway-revision"]) for answer in answers} == {(200, "old")}
        assert admin.window("new").errors == admin.window("new").requests > 0


def test_a_malformed_request_is_refused_and_no_error_of_the_candidate(tmp_path: Path) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", isolated=True)]
    with table_server(tmp_path, table, {"old": 0, "new": 100}) as admin:
        for body in ({"instances": [{}]}, {"instances": 3}, {"instances": [{**ROW, "delay": "x"}]}):
            assert admin.server.post(V1, body).status == 400
        new = admin.window("new")
        assert (new.requests, new.refused, new.errors) == (3, 3, 0)
        assert admin.window("old").requests == 0


def test_a_fault_of_the_older_one_alone_is_told_to_the_caller(tmp_path: Path) -> None:
    table = [revision(tmp_path, "old", "1", mode="error"), revision(tmp_path, "new", "2")]
    with table_server(tmp_path, table, {"old": 100}) as admin:
        answer = admin.server.post(V1, ONE)
        # The newer one has no traffic, and is never answered from.
        assert answer.status == 500
        assert "reference" in answer.reason()
        assert "secret" not in answer.reason()
        assert admin.window("old").errors == 1


def test_a_process_ends_with_the_server_however_that_ends(tmp_path: Path) -> None:
    for number, mode in ((signal.SIGKILL, "hang"), (signal.SIGTERM, "ok")):
        folder = tmp_path / mode
        table = [revision(folder, "old", "1"), revision(folder, "new", "2", mode=mode, isolated=True)]
        with table_server(folder, table, {"new": 100}) as admin:
            pid = admin.table()["new"]["pid"]
            assert lives(pid)
            with socket.create_connection(tuple(admin.server.url[7:].split(":")), timeout=SECONDS) as connection:
                if mode == "hang":
                    body = b'{"instances": [{"delay": 1, "holiday": true, "carrier": "AA"}]}'
                    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (V1.encode(), len(body))
                    connection.sendall(head + body)
                    assert admin.server.get("/v2/health/live").status == 200
                admin.server.process.send_signal(number)
            admin.server.process.wait(SECONDS)
            until(lambda pid=pid: not lives(pid))


def test_a_process_that_serves_alone_is_started_anew(tmp_path: Path) -> None:
    table = [revision(tmp_path, "only", "1", isolated=True)]
    with table_server(tmp_path, table, {"only": 100}) as admin:
        pid = admin.table()["only"]["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: admin.table()["only"]["pid"] not in (0, pid))
        until(admin.server.ready)
        assert admin.server.post(V1, ONE).status == 200


def test_sigterm_lets_a_request_in_a_process_end(tmp_path: Path) -> None:
    table = [revision(tmp_path, "only", "1", mode="slow", isolated=True)]
    with table_server(tmp_path, table, {"only": 100}) as admin:
        rows = ",".join(['{"delay": 1, "holiday": true, "carrier": "AA"}'] * 5)
        body = f'{{"instances": [{rows}]}}'.encode()
        host, port = admin.server.url[7:].split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (V1.encode(), len(body))
            connection.sendall(head + body)
            assert admin.server.get("/v2/health/live").status == 200
            admin.server.process.send_signal(signal.SIGTERM)
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b'"label"') == 5
        assert admin.server.process.wait(SECONDS) == 0


def test_a_revision_moves_into_the_servers_process_without_dropping_a_request(tmp_path: Path) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", isolated=True)]
    with table_server(tmp_path, table, {"new": 100}) as admin:
        pid = admin.table()["new"]["pid"]
        with Load(admin.server) as load:
            until(lambda: admin.window("new").requests > 20)
            assert admin.stage({**table[1], "isolated": False}).status == 200
            now = admin.table()["new"]
            assert (now["isolated"], now["pid"], now["share"], now["ready"]) == (False, 0, 100, True)
            seen = admin.window("new").requests
            until(lambda: admin.window("new").requests > seen + 20)
        assert set(load.answers) == {(200, "new")}
        # What it did before it moved still counts.
        assert admin.window("new").requests == load.answers[200, "new"]
        until(lambda: not lives(pid))
        assert admin.stage({**table[1], "isolated": False}).status == 200
        assert admin.stage({**table[1], "isolated": True}).status == 200
        assert admin.table()["new"]["pid"]


def test_traffic_changes_all_at_once_or_not_at_all(tmp_path: Path) -> None:
    table = [revision(tmp_path, "a", "1"), revision(tmp_path, "b", "2"), revision(tmp_path, "c", "3", isolated=True)]
    with table_server(tmp_path, table, {"a": 100}) as admin:
        for shares, mirror, status in (
            ({"a": 50, "b": 49}, None, 400),
            ({"a": 150, "b": -50}, None, 400),
            ({"a": 99.5, "b": 0.5}, None, 400),
            ({"a": True, "b": 99}, None, 400),
            ({}, None, 400),
            ({"a": 50, "x": 50}, None, 404),
            ({"a": 100}, {"revision": "x", "percent": 10}, 404),
            ({"a": 50, "b": 50}, {"revision": "b", "percent": 10}, 400),
            ({"a": 100}, {"revision": "b", "percent": 101}, 400),
        ):
            assert admin.shift(shares, mirror).status == status, shares
            assert admin.shares() == {"a": 100, "b": 0, "c": 0}
        with Load(admin.server) as load:
            for _ in range(20):
                assert admin.shift({"b": 30, "c": 70}).status == 200
                assert admin.shift({"a": 100}, {"revision": "c", "percent": 50}).status == 200
                assert admin.table()["c"]["mirror"] == 50
        assert {status for status, _ in load.answers} == {200}
        os.kill(admin.table()["c"]["pid"], signal.SIGKILL)
        until(lambda: "SIGKILL" in admin.table()["c"]["reason"])
        answer = admin.shift({"a": 50, "c": 50})
        assert answer.status == 409
        assert "SIGKILL" in answer.reason()
        assert admin.shares() == {"a": 100, "b": 0, "c": 0}


def test_a_revision_is_retired_once_it_has_no_traffic(tmp_path: Path) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", isolated=True)]
    with table_server(tmp_path, table, {"old": 100}, mirror={"revision": "new", "percent": 100}) as admin:
        assert admin.retire("old").status == 409
        assert admin.retire("nowhere").status == 200
        pid = admin.table()["new"]["pid"]
        assert admin.table()["new"]["mirror"] == 100
        assert admin.retire("new").status == 200
        assert set(admin.table()) == {"old"}
        assert not lives(pid)
        assert admin.server.post(V1, ONE).status == 200


def test_an_unblessed_or_changed_package_is_refused(tmp_path: Path) -> None:
    table = [revision(tmp_path, "old", "1")]
    with table_server(tmp_path, table, {"old": 100}) as admin:
        new = revision(tmp_path, "new", "2", isolated=True)
        for isolated in (True, False):
            for verdict in (None, {**blessing(new["digest"]), "decision": "rejected"}, blessing(table[0]["digest"])):
                answer = admin.stage({**new, "blessing": verdict, "isolated": isolated})
                assert answer.status == 403, answer.reason()
                assert "bless" in answer.reason()
            other = "sha256:" + "0" * 64
            changed = {**new, "digest": other, "blessing": blessing(other), "isolated": isolated}
            answer = admin.stage(changed)
            assert answer.status == 409
            assert new["digest"] in answer.reason()
            assert admin.stage({**new, "path": str(tmp_path / "nowhere"), "isolated": isolated}).status == 422
            broken = revision(tmp_path, "broken", "3", mode="misshapen", isolated=isolated)
            answer = admin.stage(broken)
            assert answer.status == 422
            assert "golden rows" in answer.reason()
        write_stand_in(tmp_path / "package-new", shift=7.0)
        assert admin.stage(new).status == 409
        assert admin.stage({**new, "id": "../x"}).status in (400, 404)
        assert admin.stage({**new, "surplus": 1}).status == 400
        assert admin.stage({**new, "digest": "sha256:0"}).status == 400
        assert set(admin.table()) == {"old"}
        order = {key: new[key] for key in ("path", "version", "digest")}
        load = f"{admin.server.url}/v2/repository/models/flights/load"
        assert call("POST", load, b'{"path": "x"}', BEARER).status == 400
        assert admin.server.post("/v2/repository/models/flights/load", order, BEARER).status == 403


def test_a_process_that_dies_while_it_loads_is_told(tmp_path: Path) -> None:
    with table_server(tmp_path, [revision(tmp_path, "old", "1")], {"old": 100}) as admin:
        new = revision(tmp_path, "new", "2", mode="dies-loading", isolated=True)
        answer = admin.stage(new)
        assert answer.status == 422
        assert "exit code 3" in answer.reason()
        assert set(admin.table()) == {"old"}


def test_administration_wants_the_token_everywhere(tmp_path: Path) -> None:
    with table_server(tmp_path, [revision(tmp_path, "old", "1")], {"old": 100}) as admin:
        for method, path in (
            ("GET", ""),
            ("PUT", "/revisions/x"),
            ("DELETE", "/revisions/x"),
            ("PUT", "/traffic"),
            ("GET", "/windows"),
            ("POST", "/revisions/old/predict"),
        ):
            for headers in ({}, {"authorization": "Bearer wrong"}):
                assert admin.ask(method, path, {}, headers).status == 401
        assert call("GET", admin.server.url + BASE.replace("flights", "other"), None, BEARER).status == 404
        assert admin.server.get("/metrics").status == 200


def test_a_directed_prediction_is_of_that_revision_and_no_other(tmp_path: Path) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", mode="error", isolated=True)]
    with table_server(tmp_path, table, {"old": 100}) as admin:
        two = {"instances": [ROW, ROW]}
        answer = admin.ask("POST", "/revisions/new/predict", two)
        assert (answer.status, answer.headers["x-shipway-revision"]) == (200, "new")
        assert answer.json()["predictions"][0]["probability"] == pytest.approx(0.952574, abs=1e-6)
        assert admin.ask("POST", "/revisions/new/predict", ONE).status == 500
        assert admin.ask("POST", "/revisions/new/predict", {"instances": [{}]}).status == 400
        assert admin.ask("POST", "/revisions/nowhere/predict", ONE).status == 404
        # A rollout may send requests again as load: they are evidence.
        new = admin.window("new")
        assert (new.requests, new.errors, new.refused) == (3, 1, 1)
        os.kill(admin.table()["new"]["pid"], signal.SIGKILL)
        until(lambda: "SIGKILL" in admin.table()["new"]["reason"])
        answer = admin.ask("POST", "/revisions/new/predict", two)
        assert answer.status == 503
        assert "SIGKILL" in answer.reason()
        # A version without traffic is not there for callers.
        assert admin.server.get("/v2/models/flights/versions/2/ready").status == 404
        assert admin.server.get("/v2/models/flights/versions/1/ready").status == 200
