"""The trigger service of the drift demonstration: a process that can be killed and started again on the same state."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

EVENTS_VARIABLE = "SHIPWAY_EVENTS_TOKEN"
READ_VARIABLE = "SHIPWAY_READ_TOKEN"
_START_SECONDS = 60.0
_ASK_SECONDS = 10.0
_PAUSE = 0.01


def free_port() -> int:
    """Returns a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class TriggerService:
    """`shipway trigger serve`, one process at a time.

    Args:
        routes: The routes file.
        state: The state folder, of the runs too.
        log: Where it says what it does.
    """

    def __init__(self, routes: Path, state: Path, log: Path) -> None:
        self._command = [sys.executable, "-m", "shipway.cli", "trigger", "serve", str(routes), "--state", str(state)]
        self._log = log
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts it, and waits until it answers.

        Raises:
            RuntimeError: It does not come up.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self._command, "--port", str(self._port)], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while self.get("/readyz") is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the trigger service does not come up; its log: {self._log}")
            time.sleep(_PAUSE)

    def kill(self) -> None:
        """Kills it as a crash or the kernel would: nothing is tidied up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it as a person would."""
        self._end(signal.SIGTERM)

    def get(self, path: str) -> Any:
        """Returns what it answers a reader, None when it does not."""
        headers = {"authorization": f"Bearer {os.environ[READ_VARIABLE]}"}
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310 - http, above
        try:
            with urllib.request.urlopen(request, timeout=_ASK_SECONDS) as answer:  # noqa: S310 - as above
                return json.load(answer)
        except OSError:
            return None

    def send(self, event: dict[str, Any]) -> dict[str, Any]:
        """Delivers an event, as Shipway does, and returns the acknowledgement.

        Raises:
            urllib.error.URLError: It was not taken.
        """
        headers = {
            "authorization": f"Bearer {os.environ[EVENTS_VARIABLE]}",
            "content-type": "application/cloudevents+json",
        }
        request = urllib.request.Request(f"{self.url}/hooks/shipway", json.dumps(event).encode(), headers)  # noqa: S310 - as above
        with urllib.request.urlopen(request, timeout=_ASK_SECONDS) as answer:  # noqa: S310 - as above
            found: dict[str, Any] = json.load(answer)
        return found

    def _end(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait()
