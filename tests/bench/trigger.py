"""Sends alerts to the trigger service at a fixed rate, and checks that each acknowledged one is in its store once.

The service is a real process (`shipway trigger serve`) with SQLite on the disk; its engine decides about every alert
meanwhile. Requests leave at their time whether or not earlier ones have been answered, and their latency counts from
that time, so that a service which stalls is charged for all that had to wait. One alert in ten is one that was sent
before.

    python tests/bench/trigger.py [--rate 1000] [--seconds 30] [--connections 64]

Exits 1 where a promise is broken: every request acknowledged, every acknowledged alert stored, none twice, P99 under
100 ms, memory flat from the middle to the end.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "pipelines" / "examples" / "penguins" / "shipway.yaml"
TOKEN = "BENCH_TRIGGER_TOKEN"
SOURCE = "alertmanager"
REPEATED = 0.1
P99_SECONDS = 0.1
# What the service may grow by from the middle to the end.
GROWTH = 1.1
START_SECONDS = 60.0
DECIDE_SECONDS = 120.0
ROUTES = f"""
sources:
  {SOURCE}: {{kind: alertmanager, auth: {{bearer: {TOKEN}}}}}
limits: {{rate: 100000/s}}
specs:
  example: {{spec: {SPEC}}}
routes:
  - name: tell
    on: {{source: [{SOURCE}], labels: {{alertname: NeverFires}}}}
    do: alert
    spec: example
"""


@dataclass
class Load:
    """What the load generator saw.

    Attributes:
        seconds: From when a request was due to its answer, one each.
        statuses: Answers by status.
        acknowledged: Names of the alerts that were acknowledged.
        folded: Of the acknowledgements, those of alerts that were known already.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    folded: int = 0


Due = tuple[float, str]


def main() -> int:
    """Measures, prints, and returns 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1000, help="alerts a second")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="shipway-bench-trigger-") as scratch:
        database = Path(scratch) / "trigger.db"
        with service(Path(scratch), database, token) as (pid, port):
            load, memory = Load(), [resident(pid)]
            uvloop.run(send_all(port, token, options, load, pid, memory))
            memory.append(resident(pid))
            busy = processor_seconds(pid)
            left = undecided(database)
            drained = wait_until_decided(database)
        print(f"processor              {busy / options.seconds:.0%} of a core")
        return report(options, load, memory, left, drained, stored(database))


@contextmanager
def service(folder: Path, database: Path, token: str) -> Iterator[tuple[int, int]]:
    """Runs the service until the end of the block; yields its process id and port."""
    routes = folder / "routes.yaml"
    routes.write_text(ROUTES)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    command = [
        *(sys.executable, "-m", "shipway.cli", "trigger", "serve", str(routes), "--port", str(port)),
        *("--database", f"sqlite:///{database}", "--state", str(folder / "state")),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, TOKEN: token}, stdout=log, stderr=log)
    try:
        wait_until_ready(process, port, folder / "log")
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Waits until the service says that it is ready."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"the service did not get ready:\n{log.read_text()}")


async def send_all(
    port: int, token: str, options: argparse.Namespace, load: Load, pid: int, memory: list[float]
) -> None:
    """Sends alerts, each at its time; notes the service's memory at half of the time."""
    total, drawn = options.rate * options.seconds, random.Random(7)  # noqa: S311 - which alerts are repeated, the same at each run
    queue: asyncio.Queue[Due | None] = asyncio.Queue()
    senders = [asyncio.create_task(send_queued(port, token, queue, load)) for _ in range(options.connections)]
    begun = time.perf_counter() + 0.2
    for number in range(total):
        due = begun + number / options.rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        again = number > options.rate and drawn.random() < REPEATED
        queue.put_nowait((due, f"bench-{drawn.randrange(number - options.rate) if again else number}"))
        if number == total // 2:
            memory.append(resident(pid))
    for _ in senders:
        queue.put_nowait(None)
    await asyncio.gather(*senders)


async def send_queued(port: int, token: str, queue: "asyncio.Queue[Due | None]", load: Load) -> None:
    """Sends what is due over one connection, one request after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (item := await queue.get()) is not None:
        due, name = item
        writer.write(request(name, token))
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
        load.seconds.append(time.perf_counter() - due)
        status = int(head[9:12])
        load.statuses[status] += 1
        if status == 202:
            load.acknowledged.add(name)
            load.folded += json.loads(body)["alerts"][0]["folded"]
    writer.close()
    await writer.wait_closed()


def request(name: str, token: str) -> bytes:
    """Returns a notification of one alert, as Alertmanager sends it."""
    alert = {
        "status": "firing",
        "labels": {"alertname": "FlightsErrorRate", "instance": name, "model": "flights", "severity": "warning"},
        "annotations": {"summary": "1.4 % of the requests have failed for 5 minutes", "runbook_url": "https://runbook"},
        "startsAt": "2026-01-31T12:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": name,
    }
    shared = {"alertname": "FlightsErrorRate", "model": "flights"}
    body = json.dumps(
        {
            "version": "4",
            "groupKey": '{}:{alertname="FlightsErrorRate"}',
            "truncatedAlerts": 0,
            "status": "firing",
            "receiver": "shipway",
            "groupLabels": {"alertname": "FlightsErrorRate"},
            "commonLabels": shared,
            "commonAnnotations": {},
            "externalURL": "http://alertmanager",
            "alerts": [alert],
        }
    ).encode()
    head = (
        f"POST /hooks/{SOURCE} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def resident(pid: int) -> float:
    """Returns the MiB of memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def processor_seconds(pid: int) -> float:
    """Returns the processor time that a process has taken since it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def query(database: Path, text: str) -> list[tuple[int | str, ...]]:
    """Returns the rows of a query."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        return connection.execute(text).fetchall()


def undecided(database: Path) -> int:
    """Returns how many alerts nobody has looked at yet."""
    return int(query(database, "SELECT count(*) FROM alerts WHERE state = 'new'")[0][0])


def wait_until_decided(database: Path) -> float:
    """Waits until all alerts are decided; returns how many seconds that took."""
    begun = time.monotonic()
    while undecided(database) and time.monotonic() - begun < DECIDE_SECONDS:
        time.sleep(0.1)
    return time.monotonic() - begun


def stored(database: Path) -> Counter[str]:
    """Returns how many rows each alert has in the store."""
    rows = query(database, "SELECT json_extract(labels, '$.instance') FROM alerts")
    return Counter(str(row[0]) for row in rows)


def report(
    options: argparse.Namespace, load: Load, memory: list[float], left: int, drained: float, rows: Counter[str]
) -> int:
    """Prints the figures; returns 1 where a promise is broken."""
    ordered = sorted(load.seconds)
    p50, p99, most = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99, 1.0))
    lost = [name for name in load.acknowledged if name not in rows]
    twice = [name for name, count in rows.items() if count > 1]
    total = options.rate * options.seconds
    print(f"{total} requests at {options.rate}/s for {options.seconds} s over {options.connections} connections")
    print(
        f"answers                {', '.join(f'{count} x {status}' for status, count in sorted(load.statuses.items()))}"
    )
    print(f"latency from due time  P50 {p50 * 1e3:.1f} ms, P99 {p99 * 1e3:.1f} ms, greatest {most * 1e3:.1f} ms")
    print(f"alerts                 {len(load.acknowledged)} acknowledged, {load.folded} times as known already")
    print(f"store                  {len(rows)} rows, {len(lost)} lost, {len(twice)} twice")
    print(f"engine                 {left} undecided at the end of the load, none {drained:.1f} s later")
    print(f"memory                 {' -> '.join(f'{mebibytes:.0f}' for mebibytes in memory)} MiB (start, middle, end)")
    promises = {
        "every request is acknowledged": load.statuses[202] == total,
        "every acknowledged alert is in the store": not lost,
        "none is there twice": not twice and total - load.folded == len(rows),
        f"P99 under {P99_SECONDS * 1e3:.0f} ms": p99 < P99_SECONDS,
        f"memory grows by less than {GROWTH - 1:.0%} from the middle to the end": memory[2] < memory[1] * GROWTH,
    }
    for text, kept in promises.items():
        print(f"{'kept  ' if kept else 'BROKEN'}  {text}")
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
