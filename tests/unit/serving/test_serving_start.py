"""What a server starts with: a blessed package, or a table; its settings, its access log and its metrics."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from serving_admin import BASE, BEARER, ONE, TOKEN, V1, blessing, revision, table_server
from serving_process import SECONDS, STAND_IN, serve, until
from serving_stand_in import write_stand_in

from shipway.endpoints.client import call
from shipway.errors import InputError
from shipway.serving.settings import read_settings

pytestmark = pytest.mark.slow


def refused(*options: str, **environment: str) -> tuple[int, str]:
    given = {**os.environ, **environment}
    ended = subprocess.run([*STAND_IN, *options], capture_output=True, text=True, timeout=SECONDS, env=given)
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


def test_only_a_blessed_package_is_loaded(tmp_path: Path) -> None:
    digest = write_stand_in(tmp_path / "package")
    options = ["--package", str(tmp_path / "package"), "--name", "flights", "--version", "1", "--port", "0"]
    verdict = tmp_path / "blessing.json"
    verdict.write_text(json.dumps(blessing(digest)))
    for given, code, text in (
        ([], 3, "without a blessing"),
        (["--blessing", json.dumps({**blessing(digest), "decision": "rejected"})], 3, "not blessed"),
        (["--blessing", json.dumps(blessing("sha256:" + "0" * 64))], 1, digest),
        (["--blessing", str(verdict), "--digest", "sha256:" + "0" * 64], 3, digest),
        (["--blessing", "{"], 2, "--blessing"),
        (["--blessing", "{}"], 2, "decision"),
        (["--blessing", str(tmp_path / "nowhere")], 2, "nowhere"),
    ):
        ended = refused(*options, *given)
        assert ended[0] == code, ended
        assert text in ended[1]
    for told in (["--blessing", str(verdict)], ["--blessing", json.dumps(blessing(digest))]):
        with serve(tmp_path, *options, *told, unblessed=False) as server:
            answer = server.post(V1, ONE)
            assert answer.headers["x-shipway-revision"] == f"v1-{digest[7:15]}"
    told_by = {"SHIPWAY_BLESSING": verdict.read_text(), "SHIPWAY_REVISION": "v1-blue", "SHIPWAY_VERSION": "1"}
    with serve(tmp_path, *options[:4], "--port", "0", unblessed=False, environment=told_by) as server:
        assert server.post(V1, ONE).headers["x-shipway-revision"] == "v1-blue"
    write_stand_in(tmp_path / "package", shift=1.0)
    code, reason = refused(*options, "--blessing", str(verdict))
    assert (code, digest in reason) == (1, True)


def test_a_table_starts_several_and_goes_on_without_one_that_has_no_traffic(tmp_path: Path) -> None:
    table = [
        revision(tmp_path, "old", "1"),
        revision(tmp_path, "broken", "2", mode="misshapen"),
        revision(tmp_path, "unblessed", "3", blessing=None),
        revision(tmp_path, "gone", "4", isolated=True, digest="sha256:" + "0" * 64),
    ]
    with table_server(tmp_path, table, {"old": 100}) as admin:
        found = admin.table()
        assert [found[name]["ready"] for name in ("old", "broken", "unblessed", "gone")] == [True, False, False, False]
        assert "golden rows" in found["broken"]["reason"]
        assert "blessing" in found["unblessed"]["reason"]
        assert "blessing names" in found["gone"]["reason"]
        assert list(found) == [entry["id"] for entry in table]
        assert admin.shift({"old": 50, "broken": 50}).status == 409
        assert admin.ask("POST", "/revisions/broken/predict", ONE).status == 503
        # Put there anew, once it is whole, in its place.
        assert admin.stage(revision(tmp_path, "broken", "2")).status == 200
        assert list(admin.table()) == [entry["id"] for entry in table]
        assert admin.shift({"broken": 100}).status == 200
        assert admin.server.post(V1, ONE).headers["x-shipway-revision"] == "broken"


def test_a_table_whose_served_revision_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)

    def start(document: object) -> tuple[int, str]:
        (tmp_path / "table").write_text(document if isinstance(document, str) else json.dumps(document))
        return refused("--table", str(tmp_path / "table"), "--name", "flights", "--port", "0")

    old, new = revision(tmp_path, "old", "1"), revision(tmp_path, "new", "2", mode="misshapen", isolated=True)
    both = {"revisions": [old, new]}
    assert start({**both, "shares": {"old": 50, "new": 50}})[0] == 2
    assert start({"revisions": [{**old, "blessing": None}], "shares": {"old": 100}})[0] == 3
    for document, text in (
        ("{", "--table"),
        ({**both, "shares": {"old": 50}}, "add up to 100"),
        ({**both, "shares": {"x": 100}}, "'x'"),
        ({"revisions": [old, old], "shares": {}}, "ids must differ"),
        ({"revisions": [{**old, "id": "a b"}], "shares": {}}, "revisions.0.id"),
    ):
        code, reason = start(document)
        assert (code, text in reason) == (2, True), reason


def test_an_empty_table_serves_nothing_until_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "table").write_text('{"revisions": []}')
    options = ["--table", str(tmp_path / "table"), "--name", "flights", "--port", "0"]
    with serve(tmp_path, *options, "--token-file", str(tmp_path / "token"), wait=False, unblessed=False) as server:
        until(lambda: server.get("/v2/health/live").status == 200)
        assert server.get("/v2/health/ready").status == 503
        assert server.post(V1, ONE).status == 503
        entry = revision(tmp_path, "old", "1")
        body = json.dumps({key: entry[key] for key in entry if key != "id"}).encode()
        assert call("PUT", f"{server.url}{BASE}/revisions/old", body, BEARER).status == 200
        assert server.get("/v2/health/ready").status == 503
        assert call("PUT", f"{server.url}{BASE}/traffic", b'{"shares": {"old": 100}}', BEARER).status == 200
        assert server.get("/v2/health/ready").status == 200
        assert server.post(V1, ONE).status == 200


def test_two_revisions_of_a_regression_count_in_the_same_bins(tmp_path: Path) -> None:
    entries = []
    for name, version in (("old", "1"), ("new", "2")):
        entry = revision(tmp_path, name, version)
        digest = write_stand_in(tmp_path / f"package-{name}", task="regression", classes=[], shift=float(version))
        entries.append({**entry, "digest": digest, "blessing": blessing(digest)})
    entries[0]["edges"] = [0.0, 2.5]
    with table_server(tmp_path, entries, {"old": 100}) as admin:
        assert admin.ask("GET", "").json()["edges"] == [0.0, 2.5]
        assert admin.server.post(V1, ONE).status == 200
        assert admin.shift({"new": 100}).status == 200
        assert admin.server.post(V1, ONE).status == 200

        def counts(name: str) -> list[int]:
            predictions = admin.window(name).predictions
            return predictions.counts if predictions else []

        until(lambda: counts("old") == [0, 1, 0])
        until(lambda: counts("new") == [0, 0, 1])


def test_the_access_log_and_the_metrics_tell_of_requests(tmp_path: Path) -> None:
    table = [revision(tmp_path, "old", "1")]
    log = tmp_path / "predictions"
    options = ["--access-log", "all", "--log-uri", str(log), "--log-keep", "1d"]
    with table_server(tmp_path, table, {"old": 100}, *options) as admin:
        assert admin.server.post(V1, {"instances": ONE["instances"] * 3}).status == 200
        assert admin.server.post(V1, {"instances": []}).status == 400
        assert admin.server.get("/nowhere").status == 404

        def lines() -> list[dict[str, object]]:
            text = admin.server.log.read_text()
            return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

        until(lambda: any(line["path"] == "/nowhere" for line in lines()))
        first = next(line for line in lines() if line["path"] == V1)
        assert (first["method"], first["status"], first["revision"], first["rows"]) == ("POST", 200, "old", 3)
        assert {line["status"] for line in lines() if line["path"] == V1} == {200, 400}
        answer = admin.server.get("/metrics")
        assert answer.status == 200
        assert b'revision="old"' in answer.body
        admin.server.process.terminate()
        assert admin.server.process.wait(SECONDS) == 0
    # What was on its way when it was ended is in the log.
    assert list(log.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--flag", "version"], "--flag-provider"),
        (["--sticky", "user"], "--sticky"),
        (["--edges", "1,x"], "--edges"),
        (["--edges", "2,1"], "--edges"),
        (["--log-share", "2"], "--log-share"),
        (["--log-keep", "7 days"], "--log-keep"),
        (["--access-log", "some"], "--access-log"),
        (["--worker-seconds", "0"], "--worker-seconds"),
        (["--revision", "A B"], "--revision"),
        (["--table", "/nowhere", "--package", ""], "--table"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(options: list[str], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_settings(["--package", "/x", *options], {})


def test_the_environment_sets_what_the_command_line_leaves_open() -> None:
    told = {
        "SHIPWAY_STICKY": "header:x-user",
        "SHIPWAY_EDGES": "[1, 2.5]",
        "SHIPWAY_LOG_URI": "s3://bucket/log",
        "SHIPWAY_LOG_SHARE": "0.5",
        "SHIPWAY_LOG_KEEP": "2h",
        "SHIPWAY_ACCESS_LOG": "errors",
        "SHIPWAY_CONTROL": "s3://bucket/control.json",
        "SHIPWAY_FLAG": "version",
        "SHIPWAY_FLAG_PROVIDER": "a.b:c",
        "SHIPWAY_FLAG_ATTRIBUTE": "x-a, x-b",
        "SHIPWAY_ALLOW_UNBLESSED": "true",
    }
    found = read_settings(["--package", "/x", "--log-share", "0.25"], told)
    assert found.sticky is not None
    assert found.router.edges == (1.0, 2.5)
    assert found.router.allow_unblessed
    assert (found.log.uri, found.log.share, found.log.keep_seconds) == ("s3://bucket/log", 0.25, 7200.0)
    assert (found.access_log, found.control) == ("errors", "s3://bucket/control.json")
    assert found.flag is not None
    assert (found.flag.flag, found.flag.provider, found.flag.attributes) == ("version", "a.b:c", ("x-a", "x-b"))
