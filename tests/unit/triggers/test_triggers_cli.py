"""`shipway trigger`: the dry run of a payload, and what the service refuses to start with."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from trigger_parts import PENGUINS, route, write_routes
from typer.testing import CliRunner

from shipway.cli.main import app
from shipway.errors import InputError, ShipwayError, SpecError
from shipway.triggers.service import serve


def dry_run(*given: str, body: str | None = None) -> str:
    found = CliRunner().invoke(app, ["trigger", "test", *given], input=body, catch_exceptions=True)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0
    return str(found.output)


def test_a_payload_is_shown_what_it_would_start(tmp_path: Path) -> None:
    start = {"spec": "penguins", "set": {"split.until": "until"}, "source": "uri", "within": "s3://rows/"}
    entries = [
        route("retrain", start=start, cooldown="6h", quota=4, unchanged="skip"),
        route("back", do="rollback", spec="penguins"),
        route("data", on={"kind": "data"}),
    ]
    written = write_routes(tmp_path, *entries)
    payload = tmp_path / "event.json"
    payload.write_text(json.dumps({"id": "a", "kind": "drift", "until": "2014-01-01", "uri": "s3://rows/a.parquet"}))
    found = dry_run(str(written), str(payload), "--source", "events")
    assert "kind request, fingerprint a" in found
    assert "labels kind=drift" in found
    assert (
        'start training of penguins --set split.until="2014-01-01" --data s3://rows/a.parquet '
        "unless its rows are unchanged" in found
    )
    assert "within cooldown 6h, quota 4" in found
    assert "rollback of penguins" in found
    assert "data: no: kind is request, not data" in found
    assert not (tmp_path / "runs").exists()

    cannot = dry_run(str(written), "-", "--source", "events", body='{"id": "b", "kind": "drift"}')
    assert "retrain: cannot: set.split.until: 'until' gives nothing" in cannot


def test_a_dry_run_refuses_what_the_service_would(tmp_path: Path) -> None:
    written = str(write_routes(tmp_path, route()))
    with pytest.raises(InputError, match="-: it would be refused: "):
        dry_run(written, "-", "--source", "events", body="not JSON")
    with pytest.raises(InputError, match="--source: expected events, found 'nobody'"):
        dry_run(written, "-", "--source", "nobody", body="{}")
    with pytest.raises(InputError, match="--header broken: expected NAME: VALUE"):
        dry_run(written, "-", "--source", "events", "--header", "broken", body="{}")
    with pytest.raises(InputError, match="expected content type application/json, found text/plain"):
        dry_run(written, "-", "--source", "events", "--header", "content-type: text/plain", body="{}")
    with pytest.raises(InputError, match=r"gone\.json: cannot be read: No such file"):
        dry_run(written, "gone.json", "--source", "events")
    signed = tmp_path / "signed.yaml"
    signed.write_text("sources:\n  store: {kind: cloudevents, auth: {hmac: STORE_SECRET}}\n")
    binary = [f"--header=ce-{name}: {value}" for name, value in (("specversion", "1.0"), ("id", "1"), ("source", "/s"))]
    with pytest.raises(InputError, match="a signed event has to be structured"):
        dry_run(str(signed), "-", "--source", "store", "--header=ce-type: t", *binary, body="{}")
    with pytest.raises(SpecError, match="unknown key"):
        Path(written).write_text(Path(written).read_text().replace("routes:", "route:"))
        dry_run(written, "-", "--source", "events", body="{}")


def test_what_it_does_not_start_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_routes(tmp_path, route())
    monkeypatch.delenv("SHIPWAY_DATABASE_URL", raising=False)
    everywhere = ".".join("0000")
    with pytest.raises(InputError, match=r"sources\.events, readers: no authentication, which is for loopback only"):
        serve(written, host=everywhere, port=0, state=tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ShipwayError, match=r"cannot listen on 127\.0\.0\.1:"):
            serve(written, host="127.0.0.1", port=taken.getsockname()[1], state=tmp_path)
    with pytest.raises(InputError, match="database URL: found mysql, expected sqlite or postgresql"):
        serve(written, host="127.0.0.1", port=0, database="mysql://u:secret@h/d", state=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/state: cannot make the state folder"):
        serve(written, host="127.0.0.1", port=0, state=tmp_path / "file" / "state")
    content = yaml.safe_load(written.read_text())
    content["sources"]["events"]["auth"] = {"bearer": "NO_SUCH_TOKEN"}
    written.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="NO_SUCH_TOKEN"):
        serve(written, host="127.0.0.1", port=0, state=tmp_path)


@pytest.mark.slow
def test_it_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    written = write_routes(tmp_path, route(do="alert", spec="penguins"), specs={"penguins": {"spec": str(PENGUINS)}})
    command = [sys.executable, "-m", "shipway.cli", "trigger", "serve", str(written), "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "SHIPWAY_DATABASE_URL"}
    process = subprocess.Popen(
        [*command, "--state", str(tmp_path / "state")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f", 1 routes, sqlite:///{tmp_path}/state/trigger.db" in line
        url = line.split(",")[0].removeprefix("trigger service at ")
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=60)
        assert (process.returncode, complaints) in ((0, ""), (-signal.SIGTERM, ""))
    finally:
        process.kill()
        process.communicate()
