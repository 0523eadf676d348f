"""Measures our server beside its peers: one machine, one load generator, one worker, one-row JSON, 16 connections.

Every server is started once and warmed up; then they take turns, round by round, so that whatever else the machine does
falls on all of them. Figures are medians over the rounds; microseconds are the processor's time that a server's
processes took for a request, which depends less on the machine's other load than the rate does.

    python tests/bench/serve.py [--rounds 5] [--seconds 4] [--only NAME ...] [--output FILE]

It wants what `make bench-serve` prepares: `.bench/package` (a package of the flights example), `.bench/kserve` (a venv
with KServe) and wrk.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BENCH = ROOT / ".bench"
PEERS = str(Path(__file__).with_name("peers.py"))
CONNECTIONS = 16
START_SECONDS = 120.0
SCRAPE_SECONDS = 5.0


@dataclass
class Measured:
    """What the rounds of one server gave."""

    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    microseconds: list[float] = field(default_factory=list)
    mebibytes: float = 0.0


@dataclass(frozen=True)
class Subject:
    """A server to measure."""

    name: str
    command: list[str]
    port: int
    path: str
    body: bytes
    scrape: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where a prediction is asked."""
        return f"http://127.0.0.1:{self.port}{self.path}"


@dataclass(frozen=True)
class Promise:
    """A ratio that the figures have to hold."""

    text: str
    ours: str
    theirs: str
    what: str
    bound: float


PLAIN, ALL, MLFLOW, KSERVE, QUIET_KSERVE, BARE, FASTAPI = (
    "shipway",
    "shipway, all on",
    "mlflow models serve",
    "kserve, onnx",
    "kserve, onnx, its logs off",
    "bare ASGI, onnx",
    "fastapi + orjson, onnx",
)
PROMISES = [
    Promise("requests/s: at least 30 times MLflow's", PLAIN, MLFLOW, "rates", 30.0),
    Promise("requests/s: at least twice KServe's", PLAIN, KSERVE, "rates", 2.0),
    Promise("P99: under a tenth of MLflow's", PLAIN, MLFLOW, "p99", 0.1),
    Promise("requests/s: at least half of bare ASGI's", PLAIN, BARE, "rates", 0.5),
    Promise("requests/s: all on at least 70 % of plain", ALL, PLAIN, "rates", 0.7),
]


def main() -> int:
    """Measures and prints the table; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--package", type=Path, default=BENCH / "package")
    parser.add_argument("--only", nargs="*", default=None, help="servers to measure, by name")
    parser.add_argument("--output", type=Path, default=None, help="file that gets all figures as JSON")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed: apt-get install wrk (as root), or another package of it", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="shipway-bench-") as scratch, contextlib.ExitStack() as stack:
        chosen = [
            one for one in subjects(options.package, Path(scratch)) if not options.only or one.name in options.only
        ]
        processes = {one.name: stack.enter_context(running(one, Path(scratch))) for one in chosen}
        for one in chosen:
            wait(one, processes[one.name], Path(scratch))
            load(one, 1, Path(scratch))
        results = {one.name: Measured() for one in chosen}
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for one in chosen:
                measure(one, processes[one.name].pid, options.seconds, Path(scratch), results[one.name])
    print(table(results, options))
    if options.output:
        options.output.write_text(json.dumps({name: vars(found) for name, found in results.items()}, indent=2) + "\n")
    return 0 if all(ratio >= 0 for ratio in verdicts(results)) else 1


def subjects(package: Path, scratch: Path) -> list[Subject]:
    """Returns every server, on ports of its own."""
    row = golden_row(package)
    rows = json.dumps({"instances": [row]}).encode()
    records = json.dumps({"dataframe_records": [row]}).encode()
    ports = free_ports(7)
    ours = "/v1/models/flights:predict"
    path = {"PYTHONPATH": str(ROOT / "components")}

    def peer(python: str, kind: str, port: int) -> list[str]:
        return [python, PEERS, kind, str(package), str(port)]

    mlflow = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--workers", "1"]
    return [
        Subject(PLAIN, server(package, ports[0], scratch, ["v1"]), ports[0], ours, rows),
        Subject(
            ALL,
            [*server(package, ports[1], scratch, ["v1", "v2"]), "--log-uri", str(scratch / "log")],
            ports[1],
            ours,
            rows,
            scrape=True,
        ),
        Subject(BARE, peer(sys.executable, "bare", ports[2]), ports[2], "/", rows, environment=path),
        Subject(FASTAPI, peer(sys.executable, "fastapi", ports[3]), ports[3], "/predict", rows, environment=path),
        *(
            Subject(
                name,
                peer(str(BENCH / "kserve/bin/python"), kind, port),
                port,
                ours,
                rows,
                environment=path,
            )
            for name, kind, port in ((KSERVE, "kserve", ports[4]), (QUIET_KSERVE, "kserve-quiet", ports[6]))
        ),
        Subject(
            MLFLOW,
            [*mlflow, "--model-uri", str(package), "--port", str(ports[5])],
            ports[5],
            "/invocations",
            records,
            # MLflow starts uvicorn by its name.
            environment={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        ),
    ]


def server(package: Path, port: int, scratch: Path, revisions: list[str]) -> list[str]:
    """Returns the command of our server with a package in so many slots, with equal shares."""
    from shipway.lineage.digests import digest_tree

    digest = digest_tree(package)
    blessing = {"decision": "blessed", "model_digest": digest, "evaluation_digest": "sha256:bench", "rules": []}
    content = {
        "revisions": [
            {
                "id": revision,
                "path": str(package),
                "version": revision.removeprefix("v"),
                "digest": digest,
                "blessing": blessing,
                "isolated": False,
                "edges": [],
            }
            for revision in revisions
        ],
        "shares": {revision: 100 // len(revisions) for revision in revisions},
        "mirror": None,
    }
    file = scratch / f"table-{port}.json"
    file.write_text(json.dumps(content))
    return [sys.executable, "-m", "shipway.serving", "--name", "flights", "--table", str(file), "--port", str(port)]


def golden_row(package: Path) -> dict[str, Any]:
    """Returns the first golden row with a value in every column."""
    import polars as pl

    row: dict[str, Any] = pl.read_parquet(package / "golden.parquet").drop_nulls().row(0, named=True)
    return row


def free_ports(count: int) -> list[int]:
    """Returns ports that nobody listens on."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@contextlib.contextmanager
def running(subject: Subject, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a server, and ends it with all its children."""
    log = scratch / f"{subject.port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            subject.command,
            stdout=output,
            stderr=output,
            env={**os.environ, **subject.environment},
            start_new_session=True,
            cwd=scratch,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait(subject: Subject, process: subprocess.Popen[bytes], scratch: Path) -> None:
    """Waits until a server answers a prediction."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError):
            request = urllib.request.Request(subject.url, subject.body, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=10) as answer:
                answer.read()
            return
        time.sleep(0.2)
    raise SystemExit(f"{subject.name} does not answer: {(scratch / f'{subject.port}.log').read_text()[-2000:]}")


def load(subject: Subject, seconds: int, scratch: Path) -> dict[str, float]:
    """Loads a server with wrk, and returns what that says of it."""
    body = scratch / f"{subject.port}.json"
    body.write_bytes(subject.body)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "-s", str(Path(__file__).with_name("post.lua"))]
    done = subprocess.run(
        [*command, subject.url], env={**os.environ, "BENCH_BODY": str(body)}, capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    if found["bad"]:
        raise SystemExit(f"{subject.name}: {found['bad']:.0f} of {found['requests']:.0f} requests failed")
    return found


def measure(subject: Subject, pid: int, seconds: int, scratch: Path, into: Measured) -> None:
    """Adds a round's figures."""
    with scraping(subject):
        before = processor_seconds(pid)
        found = load(subject, seconds, scratch)
        used = processor_seconds(pid) - before
    into.rates.append(found["requests"] / found["seconds"])
    into.p50.append(found["p50_ms"])
    into.p99.append(found["p99_ms"])
    into.microseconds.append(used / found["requests"] * 1e6)
    into.mebibytes = max(into.mebibytes, memory(pid))


@contextlib.contextmanager
def scraping(subject: Subject) -> Iterator[None]:
    """Reads a server's metrics meanwhile, as Prometheus would."""
    over = threading.Event()

    def scrape() -> None:
        while True:
            with urllib.request.urlopen(f"http://127.0.0.1:{subject.port}/metrics", timeout=10) as answer:
                answer.read()
            if over.wait(SCRAPE_SECONDS):
                return

    thread = threading.Thread(target=scrape)
    if subject.scrape:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if subject.scrape:
            thread.join()


def family(pid: int) -> list[int]:
    """Returns a process and all that it started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found.extend(child for child, parent in parents.items() if parent == one)
    return found


def processor_seconds(pid: int) -> float:
    """Returns the processor's time that a server has used."""
    ticks = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Returns the resident memory of a server, MiB."""
    kibibytes = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{one}/status").read_text()
            kibibytes += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return kibibytes / 1024


def verdicts(results: dict[str, Measured]) -> list[float]:
    """Returns by how much each promise is held; below zero where it is broken."""
    found = []
    for promise in PROMISES:
        if promise.ours in results and promise.theirs in results:
            ratio = quotient(results, promise)
            found.append(promise.bound - ratio if promise.what == "p99" else ratio - promise.bound)
    return found


def quotient(results: dict[str, Measured], promise: Promise) -> float:
    """Returns the median over the rounds of ours by theirs, each round's two measured right after one another."""
    ours, theirs = getattr(results[promise.ours], promise.what), getattr(results[promise.theirs], promise.what)
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def table(results: dict[str, Measured], options: argparse.Namespace) -> str:
    """Returns the table, and each promise with whether it is held."""
    middle = statistics.median
    lines = [
        f"{options.rounds} rounds of {options.seconds} s each in turns, medians; one worker, {CONNECTIONS} "
        f"connections, one-row JSON, the flights model; {os.cpu_count()} processors ({platform.machine()}), "
        f"load average {os.getloadavg()[0]:.1f}, Python {platform.python_version()}",
        "",
        "| server | requests/s | P50 ms | P99 ms | processor us/request | memory MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in results.items():
        lines.append(
            f"| {name} | {middle(found.rates):,.0f} | {middle(found.p50):.2f} | {middle(found.p99):.2f} "
            f"| {middle(found.microseconds):.0f} | {found.mebibytes:.0f} |"
        )
    lines.append("")
    asked = [one for one in PROMISES if one.ours in results and one.theirs in results]
    for promise, margin in zip(asked, verdicts(results), strict=True):
        sign = "<" if promise.what == "p99" else ">="
        held = "held" if margin >= 0 else "BROKEN"
        lines.append(f"{held:6}  {promise.text}: {quotient(results, promise):.3g} ({sign} {promise.bound:g})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
