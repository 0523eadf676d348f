"""What a decision does: runs by key, rollbacks, halts and messages, each of them once however often it is asked for."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubeflow_stand_in import StandIn, serving
from promotion_registry import register
from serving_real import real_release
from serving_releases import end_all
from trigger_parts import PENGUINS

from shipway.endpoints.local import LocalEndpoint
from shipway.errors import InputError
from shipway.platforms import kubeflow, kubeflow_calls
from shipway.platforms.start import RunStatus, StartRequest, find, start, status
from shipway.rollout.memory import Memory, read_memory, side
from shipway.triggers.actions import Outcome, _alone, perform

pytestmark = pytest.mark.slow

SPEC = """\
name: flights
task: binary
data: {uri: rows.csv, format: csv, label: y}
schema: {pandera: schema.yaml}
split: {by: hash, columns: [x]}
train: {trainer: sklearn, estimator: logistic_regression}
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "SHIPWAY_PROJECT", "SHIPWAY_NOTIFY_URLS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("SHIPWAY_STATE", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    (tmp_path / "shipway.yaml").write_text(SPEC)
    (tmp_path / "schema.yaml").write_text(
        "schema_type: dataframe\ncolumns:\n  x: {dtype: float64}\n  y: {dtype: int64}\n"
    )
    return tmp_path / "state"


def asked(state: Path, do: str, key: str = "t0000000000000001", **given: Any) -> dict[str, Any]:
    """Returns a request as the engine makes them."""
    action: dict[str, Any] = {"do": do, "spec": "flights", "title": "errors above 1 %", "severity": "", "version": ""}
    action |= {"pipeline": "training", "settings": [], "parameters": {}, "source": "", "unchanged": "start"}
    folder = state.parent
    return {
        "do": do,
        "key": key,
        "route": "back",
        "spec": str(given.pop("spec", folder / "shipway.yaml")),
        "target": given.pop("target", "local"),
        "runs": str(folder / "runs"),
        "state": str(state),
        "images": {},
        "last_data": given.pop("last_data", ""),
        "action": action | given,
    }


@pytest.fixture
def served(state: Path) -> Iterator[LocalEndpoint]:
    """Production that serves version 2, which took the place of version 1."""
    from shipway.model.promotion import RegistryLedger, any_release

    endpoint = LocalEndpoint("flights", state, environment="production")
    try:
        before = ""
        for version in ("1", "2"):
            package = Path(real_release(state.parent / f"package-{version}", version).package_uri)
            register(package)
            release = any_release("flights", version)
            found = endpoint.stage(release)
            endpoint.shift({next(one.id for one in found.revisions if one.version == version): 100})
            RegistryLedger().live(release, before)
            before = version
        yield endpoint
    finally:
        end_all(state)


def live(endpoint: LocalEndpoint) -> str:
    found = endpoint.status().live
    return found.version if found else ""


def told(state: Path) -> list[dict[str, Any]]:
    path = state / "alerts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_rollback_and_halt(state: Path, served: LocalEndpoint) -> None:
    late = perform(asked(state, "rollback", key="t9", version="1"))
    assert late == Outcome("skipped", "the alert is about version 1, and production serves version 2")
    assert perform(asked(state, "halt")) == Outcome("skipped", "flights: no rollout is under way")

    done = perform(asked(state, "rollback", version="2"))
    assert done.result == "done", done.reason
    assert live(served) == "1"
    assert "errors above 1 % (trigger route back, t0000000000000001)" in done.reason
    assert Path(done.run_link).is_file()
    assert [one["kind"] for one in told(state)] == ["rolled_back"]

    # The same decision again, after a crash say, has been done; another alert about the same finds nothing to do.
    again = perform(asked(state, "rollback", version="2"))
    assert again.result == "done"
    other = perform(asked(state, "rollback", key="t0000000000000002"))
    assert other.result == "skipped"
    assert other.reason.startswith("version 2 was rolled back before: ")
    assert live(served) == "1"
    assert len(told(state)) == 1

    under_way(served)
    assert perform(asked(state, "halt", version="7")).result == "skipped"
    halted = perform(asked(state, "halt", version="2"))
    assert halted == Outcome("done", "the rollout of version 2 was told to end")
    memory = read_memory(served.status().record, "flights")
    assert memory is not None
    assert memory.command is not None
    assert (memory.command.kind, memory.command.who) == ("abort", "trigger route back, t0000000000000001")
    assert perform(asked(state, "halt")).reason == "the rollout of version 2 is going back already"


def under_way(endpoint: LocalEndpoint) -> None:
    """Leaves a rollout of version 2 under way, whose controller is gone."""
    found = endpoint.status()
    memory = read_memory(found.record, "flights")
    assert memory is not None
    fresh = Memory(
        candidate=side(memory.candidate.release, memory.candidate.revision), stable=memory.stable, strategy="canary",
        stage="watch", timings=memory.timings,
    )  # fmt: skip
    endpoint.write_record(fresh.text(), expect=found.generation)


def test_an_alert_is_told_once(state: Path) -> None:
    for _ in range(2):
        assert perform(asked(state, "alert", severity="critical")) == Outcome("done", "told: errors above 1 %")
    (line,) = told(state)
    assert (line["severity"], line["key"], line["facts"]["route"]) == ("incident", "trigger/t0000000000000001", "back")


def test_what_is_no_use_to_repeat_fails_and_the_rest_is_tried_again(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state.parent / "shipway.yaml").write_text(SPEC.replace("binary", "bynary"))
    found = perform(asked(state, "start"))
    assert found.result == "failed"
    assert "did you mean 'binary'" in found.reason
    (state.parent / "shipway.yaml").write_text(SPEC)
    monkeypatch.setenv("KFP_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("KFP_TIMEOUT", "0.1")
    monkeypatch.setattr(kubeflow_calls, "FIRST_PAUSE_SECONDS", 0.01)
    unreachable = perform(asked(state, "look", target="kubeflow", spec=PENGUINS))
    assert unreachable.result == "error"
    assert "127.0.0.1:9" in unreachable.reason


def test_a_run_of_this_machine(state: Path) -> None:
    """The rows are missing, which is told at once; then a run that fails by itself."""
    refused = perform(asked(state, "start"))
    assert refused.result == "failed"
    assert "rows.csv" in refused.reason

    request = StartRequest(
        "local", state.parent / "shipway.yaml", "rollback", "t1", parameters={"reason": "a 'test'"},
        runs=state.parent / "runs", state=state,
    )  # fmt: skip
    assert find(request) is None
    assert status(request).state == "lost"
    first = start(request)
    assert (first.name, first.created) == ("flights-rollback-t1", True)
    assert not start(request).created
    while status(request).state == "running":
        time.sleep(0.1)
    ended = status(request)
    assert ended.state == "failed"
    assert "nothing is served" in ended.reason
    assert find(request) is not None
    assert not start(request).created
    with pytest.raises(InputError, match="--parameter nosuch=1: expected NAME=VALUE of pipeline rollback"):
        start(StartRequest("local", request.spec, "rollback", "t2", parameters={"nosuch": "1"}, runs=request.runs))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(kubeflow, "SETTLE_SECONDS", 0.0)
    with serving() as stand_in:
        monkeypatch.setenv("KFP_HOST", stand_in.url)
        yield stand_in


def test_a_run_on_kubeflow(state: Path, server: StandIn) -> None:
    request = StartRequest("kubeflow", PENGUINS, "training", "t1")
    # It starts whatever the rows are; what they are is kept all the same, for the events that compare.
    first = perform(asked(state, "start", "t1", target="kubeflow", spec=PENGUINS, unchanged="start"))
    assert first.data_version
    assert (first.result, first.run_name) == ("started", "penguins-training-t1")
    # The rows are the same: another event starts nothing, and this one finds its own run.
    same = {"target": "kubeflow", "spec": PENGUINS, "unchanged": "skip", "last_data": first.data_version}
    other = perform(asked(state, "start", "t2", **same))
    assert other.result == "skipped"
    assert other.reason.startswith("the rows are unchanged since the last run was started")
    assert perform(asked(state, "start", "t1", **same)).run_name == first.run_name
    assert len(server.runs) == 1
    assert status(request) == RunStatus("running")
    server.runs.clear()
    assert status(request) == RunStatus("failed", "the run is no longer there: someone deleted it")


def test_one_process_of_a_key_acts_at_a_time_though_the_lock_file_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "trigger" / "t1.lock"
    inside, leave, seen = threading.Event(), threading.Event(), []

    def second() -> None:
        with _alone(tmp_path, "t1"):
            seen.append(path.exists())
            inside.set()
            leave.wait(20)

    waiter = threading.Thread(target=second)
    with _alone(tmp_path, "t1"):
        inode = path.stat().st_ino
        waiter.start()
        until = time.monotonic() + 20
        while time.monotonic() < until and not any(
            "->" in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines()
        ):
            time.sleep(0.01)
    # The one inside has taken the file away; whoever comes now has to find the second one's.
    assert inside.wait(20)
    leave.set()
    waiter.join(20)
    assert seen == [True]
    assert not path.exists()


def test_the_process_that_acts_says_nothing_else(state: Path) -> None:

    request = json.dumps(asked(state, "alert"))
    found = subprocess.run(
        [sys.executable, "-m", "shipway.triggers.actions"],
        input=request,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert json.loads(found.stdout)["result"] == "done"
    assert not list((state / "trigger").iterdir())
