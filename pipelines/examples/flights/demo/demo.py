"""`make demo-rollout`: a good version goes to production step by step under load; three bad ones come back.

Everything is real: models that are trained, judged and registered here, a server with a process for each candidate,
callers that ask for predictions all the while, and the rollout that `shipway promote` runs too. Only the thresholds are
those of a demonstration, in shipway.yaml beside this file: bakes of seconds instead of minutes.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import polars as pl

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
NAME = "flights-demo"
MONTH = 1
REQUESTS_PER_SECOND = 500
CONNECTIONS = 32
MOST_SECONDS_BACK = 10.0
BAD = ("slow", "erroring", "shifted")


class Load:
    """The callers' process."""

    def __init__(self, url: str, rows: Path) -> None:
        command = [sys.executable, str(HERE / "load.py"), f"{url}/v1/models/{NAME}:predict", str(rows)]
        command += [str(REQUESTS_PER_SECOND), str(CONNECTIONS)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def report(self) -> dict[str, Any]:
        """Returns what the callers got since the last report."""
        requests, answers = self._pipes()
        requests.write("report\n")
        requests.flush()
        found: dict[str, Any] = json.loads(answers.readline())
        return found

    def close(self) -> None:
        """Ends the callers."""
        self._pipes()[0].close()
        self._process.wait()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the callers have no pipes")
        return self._process.stdin, self._process.stdout


def main() -> int:
    """Runs the demonstration and returns the exit code: 0 when everything went as it should."""
    root = Path.cwd() / "build" / "demo-rollout"
    os.environ["SHIPWAY_PROJECT"] = str(PROJECT)
    os.environ["SHIPWAY_STATE"] = str(root / "state")
    sys.path[:0] = [str(PROJECT)]
    with _fresh(root):
        return _show(root)


@contextlib.contextmanager
def _fresh(root: Path) -> Iterator[None]:
    """Begins with an empty folder, and ends without a server."""
    from shipway.endpoints.local import stop_all

    stop_all(root / "state")
    shutil.rmtree(root, ignore_errors=True)
    (root / "reports").mkdir(parents=True)
    try:
        yield
    finally:
        stop_all(root / "state")


def _show(root: Path) -> int:
    import loader
    import models

    from shipway.endpoints.open import open_endpoint
    from shipway.spec import EndpointSection, EndpointSettings, load_spec

    began = time.monotonic()
    spec = load_spec(HERE / "shipway.yaml")
    rows = loader.load().filter(pl.col("scheduled_departure").dt.month() == MONTH)
    print(f"training, judging and registering {len(models.VARIANTS)} versions on {rows.height:,} flights")
    releases = {}
    for name, variant in models.VARIANTS.items():
        releases[name] = release = models.build(spec, rows, variant)
        auc = next(rule.value for rule in release.blessing.rules if rule.metric == "roc_auc")
        print(f"  version {release.version}  {name:9} {variant.about:48} ROC AUC {auc:.3f}, blessed")
    inputs = [column for column in rows.columns if column not in ("flight_id", "scheduled_departure", "late")]
    asked = rows.sample(2000, seed=0).select(inputs).to_dicts()
    (root / "rows.json").write_text(json.dumps(asked))
    endpoint = open_endpoint(NAME, EndpointSettings(endpoint=EndpointSection(kind="local")), "production")
    stage = _Stage(endpoint, root)
    print("\nversion 1 is the first: it gets all the traffic at once")
    faults = stage.roll(releases["champion"], None, spec.rollout, "live")
    load = Load(endpoint.status().url, root / "rows.json")
    try:
        print(f"\n{CONNECTIONS} callers begin to ask, {REQUESTS_PER_SECOND} requests a second")
        time.sleep(2)
        load.report()
        faults += stage.roll(releases["good"], releases["champion"], spec.rollout, "live", load)
        # The bad ones skip the shadow, which would find them before any caller meets them.
        risky = spec.rollout.model_copy(update={"shadow": None})
        for name in BAD:
            faults += stage.roll(releases[name], releases["good"], risky, "rolled_back", load)
    finally:
        load.close()
    print(f"\n{time.monotonic() - began:.0f} s in all; a page for each rollout: {root / 'reports'}")
    for fault in faults:
        print(f"NOT AS IT SHOULD BE: {fault}")
    return 1 if faults else 0


class _Stage:
    """Rolls versions out, tells how it went, and says what did not go as it should."""

    def __init__(self, endpoint: Any, root: Path) -> None:
        from shipway.model.promotion import RegistryLedger

        self._endpoint, self._root, self._ledger = endpoint, root, RegistryLedger()

    def roll(self, release: Any, stable: Any, section: Any, outcome: str, load: Load | None = None) -> list[str]:
        from shipway.endpoints.packages import golden_rows, local_package
        from shipway.errors import RejectedError
        from shipway.rollout.rollout import roll_out

        version = release.version
        page = self._root / "reports" / f"version-{version}.html"
        with contextlib.suppress(RejectedError):
            roll_out(
                release,
                stable,
                section,
                self._endpoint,
                self._ledger,
                alert=lambda alert: print(f"  {alert.severity}: {alert.text}"),
                golden=golden_rows(local_package(release)),
                report_path=page,
            )
        report = json.loads(page.with_suffix(".json").read_text())
        faults = [] if report["outcome"] == outcome else [f"version {version} ended {report['outcome']}, not {outcome}"]
        self._tell_steps(report)
        heard = load.report() if load is not None else None
        if heard is not None:
            faults += self._tell_callers(heard)
            if report["outcome"] != "live":
                faults += self._tell_return(report, heard)
        return faults

    def _tell_steps(self, report: dict[str, Any]) -> None:
        for step in report["steps"]:
            seconds = (step.get("until") or step["since"]) - step["since"]
            requests, ended = step.get("requests", 0), step.get("ended", "")
            print(f"  {step['label']:>7}  {seconds:5.1f} s  {requests:6,} requests  {ended}")
        print(f"  version {report['version']} is {report['outcome'].replace('_', ' ')}: {report['reason']}")

    def _tell_callers(self, heard: dict[str, Any]) -> list[str]:
        shares = ", ".join(f"{found['answers']:,.0f} by version {name}" for name, found in heard["versions"].items())
        print(f"  callers: {heard['requests']:,} requests, {heard['failed']} failed, answered {shares}")
        return [f"{heard['failed']} requests failed, as {heard['faults']}"] if heard["failed"] else []

    def _tell_return(self, report: dict[str, Any], heard: dict[str, Any]) -> list[str]:
        found = heard["versions"].get(report["version"])
        times = report["timings"]
        met = found["first"] if found else times["traffic"]
        seconds = max(times["back"], found["last"] if found else 0.0) - met
        old, new = report["stable_version"], report["version"]
        print(f"  from the first answer of version {new} to all traffic on version {old}: ", end="")
        print(f"{seconds:.1f} s; from the first bad one, by the evidence: {report['seconds_to_roll_back']:.1f} s")
        late = f"the way back took {seconds:.1f} s, expected {MOST_SECONDS_BACK:g} s at most"
        return [] if seconds <= MOST_SECONDS_BACK else [late]


if __name__ == "__main__":
    sys.exit(main())
