"""Administers a server of a test, and starts one with a table of stand-ins."""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from serving_process import SECONDS, Server, serve, until
from serving_stand_in import write_stand_in

from shipway.endpoints.client import Answer, call, json_bytes
from shipway.endpoints.window import Window

TOKEN = "correct horse"
BEARER = {"authorization": f"Bearer {TOKEN}"}
BASE = "/shipway/v1/models/flights"
V1 = "/v1/models/flights:predict"
ROW = {"delay": 1.0, "holiday": True, "carrier": "AA"}
ONE = {"instances": [ROW]}


def blessing(digest: str) -> dict[str, Any]:
    return {"decision": "blessed", "model_digest": digest, "evaluation_digest": "sha256:0"}


def revision(folder: Path, name: str, version: str, mode: str = "ok", **more: Any) -> dict[str, Any]:
    """Writes a stand-in that predicts by its version, and returns its entry in a table."""
    package = folder / f"package-{name}"
    digest = write_stand_in(package, mode=mode, shift=float(version))
    entry = {"id": name, "path": str(package), "version": version, "digest": digest, "blessing": blessing(digest)}
    return {**entry, **more}


class Admin:
    def __init__(self, server: Server) -> None:
        self.server = server

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] = BEARER) -> Answer:
        content = None if body is None else json_bytes(body)
        return call(method, f"{self.server.url}{BASE}{path}", content, headers, SECONDS)

    def stage(self, entry: Mapping[str, Any]) -> Answer:
        return self.ask("PUT", f"/revisions/{entry['id']}", {key: entry[key] for key in entry if key != "id"})

    def shift(self, shares: Mapping[str, Any], mirror: object = None) -> Answer:
        return self.ask("PUT", "/traffic", {"shares": shares, "mirror": mirror})

    def retire(self, name: str) -> Answer:
        return self.ask("DELETE", f"/revisions/{name}")

    def table(self) -> dict[str, dict[str, Any]]:
        return {entry["id"]: entry for entry in self.ask("GET", "").json()["revisions"]}

    def shares(self) -> dict[str, int]:
        return {name: entry["share"] for name, entry in self.table().items()}

    def windows(self) -> dict[str, Window]:
        answer = self.ask("GET", f"/windows?since=0&until={time.time() + 3600}")
        return {name: Window.model_validate(found) for name, found in answer.json()["windows"].items()}

    def window(self, name: str) -> Window:
        return self.windows()[name]


@contextlib.contextmanager
def table_server(
    folder: Path,
    revisions: list[dict[str, Any]],
    shares: Mapping[str, int],
    *options: str,
    mirror: object = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Admin]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token").write_text(TOKEN)
    (folder / "table").write_text(json.dumps({"revisions": revisions, "shares": shares, "mirror": mirror}))
    given = [
        "--table",
        str(folder / "table"),
        "--name",
        "flights",
        "--port",
        "0",
        "--token-file",
        str(folder / "token"),
    ]
    with serve(folder, *given, *options, unblessed=False, environment=environment) as server:
        admin = Admin(server)
        # Those without traffic are loaded after the server is ready.
        until(lambda: all("being loaded" not in entry["reason"] for entry in admin.table().values()))
        yield admin


class Load:
    """Requests from a few threads until it is left; `answers` counts (status, revision)."""

    def __init__(self, server: Server, threads: int = 4, body: object = ONE) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        self._server = server
        self._body = body
        self._done = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads

    def __enter__(self) -> "Load":
        self._callers = [self._pool.submit(self._ask) for _ in range(self._threads)]
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        with self._pool:
            for caller in self._callers:
                self.answers += caller.result(SECONDS)

    def _ask(self) -> Counter[tuple[int, str]]:
        seen: Counter[tuple[int, str]] = Counter()
        while not self._done.is_set():
            answer = self._server.post(V1, self._body)
            seen[answer.status, answer.headers.get("x-shipway-revision", "")] += 1
        return seen
