"""People hear of a run that was rejected or failed, once, wherever it ran."""

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from shipway.lineage.files import write_json
from shipway.lineage.project import RUN_FOLDER_VARIABLE, RUN_VARIABLE, STATE_VARIABLE
from shipway.lineage.steps import StepRecord
from shipway.notify.alerts import Alert
from shipway.notify.send import tell
from shipway.report.run import report_run
from shipway.report.summary import RUN_FILE, RunInfo, StepState, write_steps
from shipway.spec import dump_section
from shipway.spec.watch import NotifySection

NOTIFY = dump_section(NotifySection())


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    monkeypatch.delenv("SHIPWAY_NOTIFY_URLS", raising=False)
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    monkeypatch.delenv(RUN_FOLDER_VARIABLE, raising=False)
    return tmp_path / "state"


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "m-1"
    folder.mkdir()
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, str(folder))
    monkeypatch.setenv(RUN_VARIABLE, "m-1")
    return folder


def step(name: str, status: str = "succeeded", kind: str = "", reason: Sequence[str] = ()) -> StepState:
    record = StepRecord(name=name, status=status, kind=kind, reason=list(reason), facts={"version": "4"})
    return StepState(name=name, status=status, record=record)


def report(folder: Path, *steps: StepState, pipeline: str = "training", notify: str = NOTIFY) -> None:
    info = RunInfo(
        run_id="m-1",
        name="m",
        pipeline=pipeline,
        spec="m.yaml",
        started=dt.datetime.now(dt.UTC).isoformat(),
        runner="subprocess",
        code_version="abc",
        spec_digest="sha256:s",
    )
    write_json(folder / RUN_FILE, info.model_dump())
    write_steps(folder, list(steps))
    report_run("m", "SUCCEEDED", "", str(folder / "page.html"), notify)


def told(state: Path) -> list[dict[str, object]]:
    path = state / "alerts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_a_rejected_run_is_told_with_every_reason(run_folder: Path, state: Path) -> None:
    gate = step("gate", "rejected", "rejected", ["roc_auc 0.71 < 0.84", "worse than the champion"])
    report(run_folder, step("ingest"), gate)
    (alert,) = told(state)
    assert (alert["kind"], alert["severity"], alert["key"]) == ("rejected", "warning", "run/m/m-1/rejected")
    assert alert["text"] == "m: training run m-1 rejected at gate: roc_auc 0.71 < 0.84; worse than the champion"
    assert alert["facts"] == {
        "run": "m-1",
        "pipeline": "training",
        "step": "gate",
        "reasons": ["roc_auc 0.71 < 0.84", "worse than the champion"],
    }


def test_a_failed_run_is_an_incident(run_folder: Path, state: Path) -> None:
    report(run_folder, step("ingest", "failed", "input", ["no such file"]))
    (alert,) = told(state)
    assert (alert["kind"], alert["severity"]) == ("failed", "incident")
    assert "m: training run m-1 failed at ingest: no such file" in str(alert["text"])


def test_a_run_that_did_what_it_is_for_is_not_told(run_folder: Path, state: Path) -> None:
    report(run_folder, step("smoke"))
    report(run_folder, step("gate", "rejected", "rejected", ["worse"]), notify="")
    assert told(state) == []


@pytest.mark.parametrize(("kind", "at"), [("rolled_back", "rollout"), ("approval", "approval")])
def test_what_a_step_has_told_is_not_repeated(kind: str, at: str, run_folder: Path, state: Path) -> None:
    tell(Alert("m", kind, "warning", "worse", 1.0, "k"))
    report(run_folder, step(at, "failed", "rejected", ["worse"]), pipeline="promotion")
    assert [alert["kind"] for alert in told(state)] == [kind]


def test_a_rollout_that_was_refused_before_it_began_is_told(run_folder: Path, state: Path) -> None:
    report(run_folder, step("rollout", "failed", "rejected", ["no blessing names it"]), pipeline="promotion")
    assert [alert["kind"] for alert in told(state)] == ["rejected"]


@pytest.mark.parametrize(
    ("state_word", "message", "kind"),
    [
        ("FAILED", "step train failed:\n  out of memory", "failed"),
        ("FAILED", "admit: the replica exited with a non-zero status of 3", "rejected"),
        ("FAILED", "", "failed"),
        ("SUCCEEDED", "", ""),
        ("CANCELLED", "somebody ended it", ""),
    ],
)
def test_elsewhere_the_platforms_word_decides(
    state_word: str, message: str, kind: str, tmp_path: Path, state: Path
) -> None:
    job = "projects/1/locations/x/pipelineJobs/m-training-abc"
    for _ in range(2):
        report_run("m", state_word, message, str(tmp_path / "page.html"), NOTIFY, job)
    assert [alert["kind"] for alert in told(state)] == ([kind] if kind else [])
    assert all("m: run m-training-abc " in str(alert["text"]) for alert in told(state))


def test_a_platform_that_names_no_run_is_believed_all_the_same(tmp_path: Path, state: Path) -> None:
    report_run("m", "FAILED", "out of memory", str(tmp_path / "page.html"), NOTIFY)
    assert [alert["text"] for alert in told(state)] == ["m: a run failed: out of memory"]
