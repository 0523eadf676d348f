"""Alerts, routes files and stores for the tests of the trigger engine."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from shipway.triggers.incoming import Incoming
from shipway.triggers.routes import Routes, load_routes
from shipway.triggers.store import Delivery, Store

PENGUINS = Path(__file__).parents[3] / "pipelines" / "examples" / "penguins" / "shipway.yaml"
NOON = 1_767_268_800.0  # 2026-01-01 12:00 UTC


def alert(
    fingerprint: str = "a",
    *,
    source: str = "events",
    kind: Any = "alert",
    labels: Mapping[str, str] | None = None,
    payload: Mapping[str, Any] | None = None,
    resolved: bool = False,
) -> Incoming:
    return Incoming(
        source, kind, fingerprint, labels or {"kind": "drift"}, payload or {}, f"alert {fingerprint}", resolved
    )


def routes(folder: Path, *entries: Mapping[str, Any], specs: Mapping[str, Any] | None = None) -> Routes:
    return load_routes(write_routes(folder, *entries, specs=specs))


def write_routes(folder: Path, *entries: Mapping[str, Any], specs: Mapping[str, Any] | None = None) -> Path:
    content = {
        "sources": {"events": {"kind": "json", "fingerprint": "id", "labels": {"kind": "kind"}}},
        "specs": specs or {"penguins": {"spec": str(PENGUINS), "runs": str(folder / "runs")}},
        "routes": list(entries),
    }
    path = folder / "routes.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def route(name: str = "retrain", **given: Any) -> dict[str, Any]:
    deed = {} if "do" in given else {"start": {"spec": "penguins"}}
    return {"name": name, "on": {"labels": {"kind": "drift"}}, **deed, **given}


def add(store: Store, *alerts: Incoming, now: float = NOON) -> None:
    store.add([Delivery(one) for one in alerts], now)


def decisions(store: Store) -> list[dict[str, Any]]:
    """Returns every decision, the oldest first."""
    found = [one for entry in store.alerts(limit=10_000) for one in entry["decisions"]]
    return sorted(found, key=lambda one: one["id"])


@contextmanager
def postgresql() -> Iterator[str]:
    """Runs a PostgreSQL of its own, of Debian's package, and gives its URL; it listens on a socket file only."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not programs:
        pytest.skip("no PostgreSQL of Debian's package here (.ci/packages installs it)")
    program = programs[-1].parent
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        # It refuses to be root.
        become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
        if become:
            Path(folder).chmod(0o755)
            subprocess.run(["chown", "-R", "nobody:nogroup", folder], check=True)
        data = f"{folder}/data"

        def run(*command: str) -> None:
            subprocess.run([*become, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL)

        run(str(program / "initdb"), "-D", data, "-U", "shipway", "--auth=trust", "--no-sync", "-E", "UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
        log = f"{folder}/log"
        run(str(program / "pg_ctl"), "-D", data, "-l", log, "-o", options, "-w", "-t", "60", "start")
        try:
            yield f"postgresql://shipway@/postgres?host={folder}"
        finally:
            run(str(program / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")


def log_of(folder: Path) -> Path:
    return folder / "service.log"


@contextmanager
def service(folder: Path, routes: Path, database: str, points: list[str], kubeflow: str) -> Iterator[str]:
    """Runs the service with its lives; gives its URL, and ends whatever it left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("trigger_lives.py"))]
    command += [str(routes), str(port), database, str(folder / "state"), *points]
    with log_of(folder).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "KFP_HOST": kubeflow, "SHIPWAY_STATE": str(folder / "state")},
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def post(url: str, body: dict[str, Any]) -> int:
    """Sends an event; 0 where nobody answers."""
    request = urllib.request.Request(
        f"{url}/hooks/events", json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except (OSError, urllib.error.URLError):
        return 0


def until(found: Callable[[], bool], folder: Path, what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}, after {seconds} s:\n{log_of(folder).read_text()[-4000:]}")
        time.sleep(0.1)
