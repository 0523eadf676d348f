"""`make demo-drift`: December comes, monitoring sees it, and one retraining run follows, whatever is killed on the way.

Everything is real: the flights model trained on January to August, its server, every flight of December sent to it over
HTTP, the labels that come later, the monitoring pipeline, its event over HTTP to the trigger service, and the run that
this starts. The event is then delivered ten times more, and the service is killed (kill -9) at five points on the way.
"""

import concurrent.futures
import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import yaml
from trigger import EVENTS_VARIABLE, READ_VARIABLE, TriggerService

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
SPEC = PROJECT / "shipway.yaml"
NAME = "flights"
NEW_MONTHS_UNTIL = "2014-01-01"
ROWS_PER_REQUEST = 500
DELIVERIES = 10
MOST_SECONDS = 600.0
TOLD = ("roc_auc", "log_loss", "calibration_error")
# The first version gets all the traffic at once; there is nothing to compare it with.
ROLLOUT = "rollout={bake: 1s, min_requests: 1, patience: 20s, hold: 5s, keep_warm: 1s, steps: [100], rules: []}"


class Demonstration:
    """The demonstration's folder, its commands, and what went wrong.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.runs = root / "runs"
        self._root, self._state = root, root / "state"
        self._labels = root / "labels.parquet"
        self.service = TriggerService(self._write_routes(), self._state, root / "trigger.log")
        self.faults: list[str] = []

    @property
    def settings(self) -> list[str]:
        """What the demonstration sets of the spec: where labels are, whom to tell, and which header is a row's key."""
        return [
            "endpoint.sticky=header:x-batch",
            f"monitor.labels={{uri: '{self._labels}', key: [batch, row]}}",
            f"notify.events={{url: '{self.service.url}/hooks/shipway', token: {EVENTS_VARIABLE}}}",
        ]

    def shipway(self, pipeline: str, *arguments: str) -> dict[str, Any]:
        """Runs a pipeline and returns its summary.

        Raises:
            RuntimeError: It did not end well.
        """
        command = [sys.executable, "-m", "shipway.cli", "run", str(SPEC), "--pipeline", pipeline, "--key", "demo"]
        command += ["--runs", str(self.runs), "--state", str(self._state), *arguments]
        for setting in self.settings:
            command += ["--set", setting]
        done = subprocess.run(command, cwd=self._root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{pipeline} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
        return self.summary(f"{NAME}-{pipeline}-demo") or {}

    def summary(self, run_id: str) -> dict[str, Any] | None:
        """Returns how a run ended; None while it has not."""
        path = self.runs / run_id / "summary.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def retrainings(self) -> list[Path]:
        """Returns the folders of the runs that the trigger service has started."""
        return sorted(self.runs.glob(f"{NAME}-training-t*"))

    def check(self, right: bool, otherwise: str) -> None:
        """Notes what is not as it should be."""
        if not right:
            self.faults.append(otherwise)

    def send(self, url: str, rows: pl.DataFrame) -> None:
        """Asks for a prediction of each row, and writes what became of each to the labels file.

        Raises:
            RuntimeError: A request failed.
        """
        inputs = rows.drop("flight_id", "scheduled_departure", "late")
        batches = [inputs[first : first + ROWS_PER_REQUEST] for first in range(0, rows.height, ROWS_PER_REQUEST)]
        number = pl.int_range(pl.len())
        rows.select(
            batch=(number // ROWS_PER_REQUEST).cast(pl.String), row=number % ROWS_PER_REQUEST, late="late"
        ).write_parquet(self._labels)
        with concurrent.futures.ThreadPoolExecutor(2) as callers:
            list(callers.map(lambda pair: _ask(url, *pair), enumerate(batches)))

    def await_log(self, rows: int) -> None:
        """Waits until the server has written its prediction log."""
        parts = self._state / "predictions" / NAME
        wait(lambda: sum(pl.read_parquet(part).height for part in parts.rglob("*.parquet")) >= rows, "the log")

    def end(self) -> None:
        """Ends what still runs: the service, a run that it has started, the model's servers."""
        from shipway.endpoints.local import stop_all
        from shipway.platforms.local_keys import find_run

        self.service.stop()
        for folder in self.retrainings():
            if find_run(self.runs, folder.name).state == "running":
                with contextlib.suppress(ProcessLookupError, ValueError):
                    os.kill(int((self.runs / f".{folder.name}.lock").read_text()), signal.SIGTERM)
        stop_all(self._state)

    def _write_routes(self) -> Path:
        route = {
            "name": "retrain-on-drift",
            "on": {"source": ["shipway"], "labels": {"kind": "drift", "decision": "retrain", "model": NAME}},
            "start": {"spec": NAME, "pipeline": "training", "set": {"split.until": f"'{NEW_MONTHS_UNTIL}'"}},
            "debounce": "2s",
            "concurrent": 1,
        }
        routes = {
            "sources": {"shipway": {"kind": "cloudevents", "auth": {"bearer": EVENTS_VARIABLE}}},
            "readers": {"bearer": READ_VARIABLE},
            "specs": {NAME: {"spec": str(SPEC), "target": "local", "runs": str(self.runs)}},
            "routes": [route],
        }
        path = self._root / "routes.yaml"
        path.write_text(yaml.safe_dump(routes, sort_keys=False))
        return path


class Event:
    """The event of the check, as the trigger service knows it.

    Args:
        demonstration: The demonstration.

    Attributes:
        again: How often it was delivered again.
    """

    def __init__(self, demonstration: Demonstration) -> None:
        self._demonstration, self._service = demonstration, demonstration.service
        self._payload: dict[str, Any] = {}
        self.again = 0

    def alert(self) -> dict[str, Any] | None:
        """Returns the alert; None while the service does not know it."""
        alerts = (self._service.get("/alerts") or {}).get("alerts", [])
        return next((alert for alert in alerts if alert["labels"].get("kind") == "drift"), None)

    def decision(self) -> dict[str, Any] | None:
        """Returns what the route made of it; None while nothing is decided."""
        return next(iter((self.alert() or {}).get("decisions", [])), None)

    def is_at_least(self, *states: str) -> bool:
        """Tells whether the decision is in one of some states, or its run has ended."""
        return (self.decision() or {}).get("state") in (*states, "succeeded", "failed")

    def performance(self) -> list[str]:
        """Returns how each metric stands on the rows whose label has come, beside the test part."""
        gauges = self._payload["data"]["facts"]["gauges"]
        tested = gauges["performance_baseline"]
        return [
            f"{name} {value:.3f} ({tested[name]:.3f} when it was tested)"
            for name, value in gauges["performance"].items()
            if name in TOLD
        ]

    def deliver(self, times: int) -> None:
        """Delivers it again, as a sender would that never saw the acknowledgement."""
        if not self._payload:
            self._payload = self._service.get(f"/alerts/{(self.alert() or {})['id']}")["payload"]
        for _ in range(times):
            (stored,) = self._service.send(self._payload)["alerts"]
            self._demonstration.check(stored["folded"], "a repeated event was taken for a new one")
            self.again += 1


def _is_under_way(folders: list[Path]) -> bool:
    return any(
        "succeeded" in (folder / "steps.json").read_text() for folder in folders if (folder / "steps.json").is_file()
    )


def main() -> int:
    """Runs the demonstration and returns the exit code: 0 when everything went as it should."""
    root = Path.cwd() / "build" / "demo-drift"
    os.environ["SHIPWAY_PROJECT"] = str(PROJECT)
    os.environ[EVENTS_VARIABLE], os.environ[READ_VARIABLE] = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    sys.path[:0] = [str(PROJECT)]
    with _fresh(root) as demonstration:
        return _show(demonstration)


@contextlib.contextmanager
def _fresh(root: Path) -> Iterator[Demonstration]:
    """Begins with an empty folder, and ends without a process."""
    from shipway.endpoints.local import stop_all

    stop_all(root / "state")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    demonstration = Demonstration(root)
    try:
        yield demonstration
    finally:
        demonstration.end()


def _show(demonstration: Demonstration) -> int:
    import loader

    began = time.monotonic()
    service = demonstration.service
    print("training on January to August, validating on September, testing on October")
    first = demonstration.shipway("training")
    _tell_model(first)
    served = demonstration.shipway("promotion", "--set", ROLLOUT)
    print(f"version {served['model']['version']} is live at {served['endpoint']}")

    rows = loader.load()
    month = pl.col("scheduled_departure").dt.month()
    december = rows.filter(month == 12)
    tested, now = (found["late"].mean() for found in (rows.filter(month == 10), december))
    print(f"\nDecember: {december.height:,} flights are asked about over HTTP; {now:.0%} will be late")
    print(f"({tested:.0%} were in October, on which version 1 was tested)")
    service.start()
    print(f"the trigger service listens at {service.url}")
    demonstration.send(served["endpoint"], december)
    demonstration.await_log(december.height)

    event = Event(demonstration)
    checks = concurrent.futures.ThreadPoolExecutor(1)
    check = checks.submit(_check, demonstration)
    points: list[tuple[str, Callable[[], bool]]] = [
        ("the event was acknowledged", lambda: event.alert() is not None),
        ("a route has decided about it", lambda: event.decision() is not None),
        ("the run is to be started", lambda: event.is_at_least("starting", "started")),
        ("the run's folder is there", lambda: bool(demonstration.retrainings())),
        ("the run is under way", lambda: _is_under_way(demonstration.retrainings())),
    ]
    for number, (point, reached) in enumerate(points, 1):
        wait(lambda: reached() or (check.done() and check.exception() is not None), point)  # noqa: B023 - waited for here
        if check.done():
            check.result()
        service.kill()
        service.start()
        event.deliver(DELIVERIES // len(points))
        print(f"  kill {number}: as soon as {point}; started again, event delivered {event.again} times more so far")
    check.result()
    wait(event.is_at_least, "the end of the run")
    _tell_end(demonstration, event)
    print(f"\n{time.monotonic() - began:.0f} s in all; everything is in {Path('build') / 'demo-drift'}")
    for fault in demonstration.faults:
        print(f"NOT AS IT SHOULD BE: {fault}")
    return 1 if demonstration.faults else 0


def _check(demonstration: Demonstration) -> None:
    """Runs the monitoring pipeline, as a schedule would."""
    check = demonstration.shipway("monitoring")
    facts = check["facts"]["monitor"]
    print(f"monitoring looked at {facts['rows']:,} predictions and decides: {check['decision']}")
    for reason in facts["reasons"]:
        print(f"  {reason}")
    demonstration.check(check["decision"] == "retrain", f"monitoring decided {check['decision']}, not retrain")


def _tell_model(summary: dict[str, Any]) -> None:
    model, auc = summary["model"], summary["metrics"]["roc_auc"]
    print(f"  version {model['version']}, ROC AUC {auc:.3f}, {summary['outcome']} in {summary['seconds']:.0f} s")


def _tell_end(demonstration: Demonstration, event: Event) -> None:
    alert, decision, folders = event.alert() or {}, event.decision() or {}, demonstration.retrainings()
    print(f"\nthe event was delivered {alert['count']} times, and is one alert")
    print(f"  route {decision['route']}: {decision['state']}, run {decision['run_name']}: {decision['reason']}")
    print(f"  version 1 by the labels of December: {', '.join(event.performance())}")
    for folder in folders:
        if (summary := demonstration.summary(folder.name)) is not None:
            _tell_model(summary)
            demonstration.check(
                summary["outcome"] == "shipped", f"the run ended {summary['outcome']}: {summary['reason']}"
            )
    print(f"  runs that it has started: {len(folders)}")
    runs = demonstration.service.get("/runs")["runs"]
    demonstration.check(len(folders) == 1, f"there are {len(folders)} runs, expected one")
    demonstration.check(len(runs) == 1, f"the service has started {len(runs)} runs, expected one")
    demonstration.check(alert["count"] > DELIVERIES, f"the event was delivered {alert['count']} times only")
    demonstration.check(
        decision["state"] == "succeeded", f"the decision ended {decision['state']}: {decision['reason']}"
    )


def _ask(url: str, number: int, rows: pl.DataFrame) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    body = json.dumps({"instances": rows.to_dicts()})
    headers = {"content-type": "application/json", "x-batch": str(number)}
    with contextlib.closing(connection):
        connection.request("POST", f"/v1/models/{NAME}:predict", body, headers)
        answer = connection.getresponse()
        text = answer.read()
    if answer.status != http.client.OK:
        raise RuntimeError(f"the server answered {answer.status}: {text[:300]!r}")


def wait(condition: Callable[[], bool], what: str) -> None:
    """Waits until something has happened.

    Raises:
        RuntimeError: It has not after a long time.
    """
    deadline = time.monotonic() + MOST_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not after {MOST_SECONDS:g} s")
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
