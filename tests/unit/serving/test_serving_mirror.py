"""Mirroring: to a process, to a slot and to another server; the primary never waits for it."""

import json
import os
import signal
from pathlib import Path

import pytest
from serving_admin import ONE, ROW, V1, Load, revision, table_server
from serving_process import until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("isolated", [True, False])
def test_a_shadow_is_asked_compared_and_never_answered_from(tmp_path: Path, isolated: bool) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "1.5", isolated=isolated)]
    with table_server(tmp_path, table, {"old": 100}, mirror={"revision": "new", "percent": 100}) as admin:
        for delay in range(20):
            answer = admin.server.post(V1, {"instances": [{**ROW, "delay": delay}] * 2})
            assert answer.headers["x-shipway-revision"] == "old"
        assert admin.server.post(V1, {"instances": [{}]}).status == 400
        until(lambda: admin.window("new").mirror.sent == 20)
        new = admin.window("new")
        assert (new.requests, new.errors, new.refused, new.mirror.dropped) == (20, 0, 0, 0)
        until(lambda: admin.window("new").mirror.compared == 40)
        assert admin.window("new").mirror.agreed == 40
        assert admin.window("new").mirror.difference > 0
        assert admin.window("old").mirror.sent == 0
        assert admin.shift({"old": 100}).status == 200
        assert admin.server.post(V1, ONE).status == 200
        assert admin.window("new").mirror.sent == 20


@pytest.mark.parametrize("isolated", [True, False])
def test_a_shadow_that_hangs_costs_the_primary_nothing(tmp_path: Path, isolated: bool) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", mode="hang", isolated=isolated)]
    with table_server(tmp_path, table, {"old": 100}, mirror={"revision": "new", "percent": 100}) as admin:
        with Load(admin.server) as load:
            until(lambda: admin.window("new").mirror.dropped > 50)
        assert set(load.answers) == {(200, "old")}
        assert admin.window("old").requests == load.answers[200, "old"]
        assert admin.window("old").errors == 0
        # Switched off while it hangs, it still holds nothing up.
        assert admin.shift({"old": 100}).status == 200
        assert admin.server.post(V1, ONE).status == 200


@pytest.mark.parametrize("mode", ["die", "error", "picky"])
def test_a_shadow_that_fails_is_charged_with_it(tmp_path: Path, mode: str) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", mode=mode, isolated=True)]
    with table_server(tmp_path, table, {"old": 100}, mirror={"revision": "new", "percent": 100}) as admin:
        assert {admin.server.post(V1, ONE).status for _ in range(10)} == {200}
        until(lambda: admin.window("new").mirror.failed == 10)
        assert admin.window("new").errors == 10
        assert admin.table()["new"]["ready"] is (mode != "die")


def test_a_share_of_the_requests_is_mirrored(tmp_path: Path) -> None:
    table = [revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2")]
    with table_server(tmp_path, table, {"old": 100}, mirror={"revision": "new", "percent": 20}) as admin:
        for _ in range(300):
            assert admin.server.post(V1, ONE).status == 200
        # Binomial with n = 300, p = 0.2: outside of this once in ten million runs.
        until(lambda: 22 < admin.window("new").mirror.sent < 105)


def test_requests_are_mirrored_to_another_server_as_a_document_says(tmp_path: Path) -> None:
    here, there = revision(tmp_path, "old", "1"), revision(tmp_path, "new", "1.5")
    control = tmp_path / "control.json"
    told = {"SHIPWAY_CONTROL": str(control)}

    def write(document: object) -> None:
        content = document if isinstance(document, str) else json.dumps(document)
        (tmp_path / "next").write_text(content)
        (tmp_path / "next").replace(control)

    with (
        # Both replicas of one service read the same document.
        table_server(tmp_path / "b", [there], {"new": 100}, environment=told) as candidate,
        table_server(tmp_path / "a", [here], {"old": 100}, environment=told) as primary,
    ):
        url = f"{candidate.server.url}{V1}"
        mirror = {"revision": "new", "url": url, "percent": 100, "auth": "none"}
        assert primary.server.post(V1, ONE).status == 200
        write({"mirror": mirror})

        def mirrored() -> bool:
            answer = primary.server.post(V1, ONE)
            assert (answer.status, answer.headers["x-shipway-revision"]) == (200, "old")
            return "new" in primary.windows() and primary.windows()["new"].mirror.compared > 5

        until(mirrored)
        assert primary.windows()["new"].mirror.failed == 0
        assert primary.windows()["new"].mirror.agreed == primary.windows()["new"].mirror.compared
        # The one that sends them counts them; and the candidate does not mirror to itself.
        assert candidate.window("new").requests == 0
        assert candidate.server.post(V1, ONE).status == 200
        assert candidate.window("new").mirror.sent == 0
        write("{")
        until(lambda: "not a control document" in primary.server.log.read_text())
        os.kill(candidate.server.process.pid, signal.SIGKILL)
        failed = primary.windows()["new"].mirror.failed
        until(lambda: primary.server.post(V1, ONE) and primary.windows()["new"].mirror.failed > failed)
        write({"mirror": None})
        until(lambda: "mirroring to nothing" in primary.server.log.read_text())


def test_a_control_document_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    with table_server(tmp_path, [revision(tmp_path, "old", "1")], {"old": 100}, "--control", "memory://x/y") as admin:
        assert admin.server.post(V1, ONE).status == 200
        assert "control" not in admin.server.log.read_text()
