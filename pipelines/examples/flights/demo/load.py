"""Callers of a model: a process of its own that asks for predictions at a steady rate and remembers every answer.

    python load.py URL ROWS.json REQUESTS_PER_SECOND CONNECTIONS

It reads commands on standard input, whose end ends it. `report` is answered by a line of JSON about the time since the
last report: `requests`, `failed` (no answer, or another status than 200), `faults` (the first few reasons), `versions`
(model version -> how many answers, when the first and the last came, seconds since the epoch), `p99_ms`.
"""

import http.client
import itertools
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_SECONDS = 10.0
_TOLD = 3


class Callers:
    """Threads that ask, a connection each.

    Args:
        url: Where predictions are asked for.
        bodies: Request bodies, taken in turn.
        rate: Requests a second, over all connections.
        connections: How many ask at once.
    """

    def __init__(self, url: str, bodies: list[bytes], rate: float, connections: int) -> None:
        self._address, self._path = urlsplit(url).netloc, urlsplit(url).path
        self._bodies = itertools.cycle(bodies)
        self._pause = connections / rate
        self._lock = threading.Lock()
        self._answers: list[tuple[int, str, float, float]] = []
        self._faults: list[str] = []
        for number in range(connections):
            threading.Thread(target=self._ask, args=(number / rate,), daemon=True).start()

    def report(self) -> dict[str, Any]:
        """Returns what came since the last report."""
        with self._lock:
            answers, self._answers = self._answers, []
            faults, self._faults = self._faults, []
        versions: dict[str, dict[str, float]] = {}
        for status, version, _, moment in sorted(answers, key=lambda answer: answer[3]):
            if status == http.client.OK:
                found = versions.setdefault(version, {"answers": 0, "first": moment})
                found["answers"] += 1
                found["last"] = moment
        times = sorted(answer[2] for answer in answers)
        return {
            "requests": len(answers),
            "failed": sum(answer[0] != http.client.OK for answer in answers),
            "faults": faults[:_TOLD],
            "versions": versions,
            "p99_ms": times[int(len(times) * 0.99)] if times else 0.0,
        }

    def _ask(self, delay: float) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=_SECONDS)
        due = time.monotonic() + delay
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self._pause, time.monotonic() - 1.0)
            with self._lock:
                body = next(self._bodies)
            began = time.monotonic()
            try:
                connection.request("POST", self._path, body, {"content-type": "application/json"})
                response = connection.getresponse()
                text = response.read()
                status, version = response.status, response.headers.get("x-model-version", "")
                fault = "" if status == http.client.OK else f"HTTP {status}: {text[:200]!r}"
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                status, version, fault = 0, "", f"{type(error).__name__}: {error}"
            with self._lock:
                self._answers.append((status, version, (time.monotonic() - began) * 1000, time.time()))
                if fault:
                    self._faults.append(fault)


def main() -> None:
    """Asks until standard input ends."""
    url, rows, rate, connections = sys.argv[1:]
    bodies = [json.dumps({"instances": [row]}).encode() for row in json.loads(Path(rows).read_text())]
    callers = Callers(url, bodies, float(rate), int(connections))
    for command in sys.stdin:
        if command.strip() == "report":
            print(json.dumps(callers.report()), flush=True)


if __name__ == "__main__":
    main()
