"""Starts real server processes for tests, and ends them whatever happens."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from shipway.endpoints.claim import claimant
from shipway.endpoints.client import Answer, UnreachableError, call, json_bytes

STAND_IN = [sys.executable, "-P", str(Path(__file__).with_name("serving_stand_in.py"))]
REAL = [sys.executable, "-P", "-m", "shipway.serving"]
SECONDS = 30.0


def until(what: Callable[[], object], seconds: float = SECONDS) -> object:
    """Returns the first true value of `what`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


class Server:
    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def get(self, path: str) -> Answer:
        return call("GET", self.url + path)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        content = body if isinstance(body, bytes) else json_bytes(body)
        return call("POST", self.url + path, content, headers, seconds=SECONDS)

    def ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended: {self.log.read_text()}")
        with contextlib.suppress(UnreachableError):
            return self.get("/v2/health/ready").status == 200
        return False


@contextlib.contextmanager
def serve(
    folder: Path,
    *options: str,
    command: list[str] = STAND_IN,
    environment: Mapping[str, str] | None = None,
    wait: bool = True,
    unblessed: bool = True,
) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    claim, log = folder / "claim", folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options, "--state-file", str(claim), *(["--allow-unblessed"] if unblessed else [])],
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    try:

        def found() -> object:
            assert process.poll() is None, log.read_text()
            return claimant(claim)

        holder = until(found)
        server = Server(process, f"http://127.0.0.1:{holder.port}", log)
        if wait:
            until(server.ready)
        yield server
    finally:
        process.kill()
        process.wait()
