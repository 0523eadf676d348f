"""A run's summary and page, from the records that its steps left."""

import datetime as dt
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shipway.errors import InputError
from shipway.lineage.files import write_json
from shipway.lineage.project import RUN_FOLDER_VARIABLE
from shipway.lineage.steps import LIFELINE_FILE, StepRecord, read_record, step
from shipway.platforms.display import Display
from shipway.report.run import report_run, write_report
from shipway.report.summary import RUN_FILE, RunInfo, StepState, Summary, write_steps


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    started = dt.datetime.now(dt.UTC).isoformat()
    info = RunInfo(
        run_id="m-1",
        name="m",
        spec="m.yaml",
        started=started,
        runner="subprocess",
        code_version="abc",
        spec_digest="sha256:s",
    )
    write_json(tmp_path / RUN_FILE, info.model_dump())
    return tmp_path


def state(name: str, status: str = "succeeded", **record: object) -> StepState:
    made = StepRecord.model_validate({"name": name, "status": status, **record})
    return StepState(name=name, status=status, seconds=1.25, record=made)


def report(run_folder: Path, *states: StepState) -> Summary:
    write_steps(run_folder, list(states))
    summary = write_report(run_folder)
    assert json.loads((run_folder / "summary.json").read_text())["outcome"] == summary.outcome
    return summary


def test_a_shipped_run(run_folder: Path) -> None:
    (run_folder / "elsewhere.html").write_text("<html>findings</html>")
    rule = {"rule": "auc >= 0.8", "metric": "auc", "value": 0.9, "bound": 0.8, "passed": True}
    summary = report(
        run_folder,
        state("ingest", facts={"data_version": "sha256:d"}),
        state("validate", reports={"Validation": str(run_folder / "elsewhere.html")}),
        state("train", facts={"model_digest": "sha256:m"}),
        state("evaluate", facts={"metrics": {"auc": 0.9}}),
        state("gate", facts={"gates": [rule], "decision": "blessed"}),
        state("register", facts={"version": "3", "created": True}),
        state("deploy", facts={"endpoint": "http://127.0.0.1:1", "example": "curl 'http://x' -d '<b>'"}),
        state("smoke"),
    )
    assert (summary.outcome, summary.exit_code, summary.failed_step) == ("shipped", 0, None)
    assert (summary.model.version, summary.model.digest, summary.model.new_version) == ("3", "sha256:m", True)
    assert (summary.data_version, summary.metrics) == ("sha256:d", {"auc": 0.9})
    page = (run_folder / "index.html").read_text()
    assert 'href="reports/validate.html"' in page
    assert (run_folder / "reports" / "validate.html").read_text() == "<html>findings</html>"
    assert "&lt;b&gt;" in page
    screen = io.StringIO()
    Display(screen).summary(summary, "runs/m-1")
    for words in (
        "shipped in",
        "m version 3 (new), sha256:m",
        "passed  auc >= 0.8: 0.9000",
        "runs/m-1/index.html",
        "curl",
    ):
        assert words in screen.getvalue()


def test_a_check_has_its_decision_and_both_its_pages(run_folder: Path) -> None:
    info = json.loads((run_folder / RUN_FILE).read_text())
    write_json(run_folder / RUN_FILE, info | {"pipeline": "monitoring"})
    pages = {title: str(run_folder / f"{title}.html") for title in ("Check", "Drift")}
    for title, path in pages.items():
        Path(path).write_text(title)
    summary = report(
        run_folder,
        state("resolve", facts={"version": "3", "model_digest": "sha256:m"}),
        state("observe"),
        state("monitor", facts={"decision": "retrain"}, reports=pages),
        state("notify"),
    )
    assert (summary.outcome, summary.exit_code, summary.decision) == ("checked", 0, "retrain")
    assert (summary.model.version, summary.model.digest) == ("3", "sha256:m")
    assert {title: (run_folder / path).read_text() for title, path in summary.reports.items()} == {
        "Check": "Check",
        "Drift": "Drift",
    }
    page = (run_folder / "index.html").read_text()
    assert "Monitoring of m" in page
    assert "retrain" in page
    screen = io.StringIO()
    Display(screen).summary(summary, "runs/m-1")
    assert "decision   retrain" in screen.getvalue()


@pytest.mark.parametrize(
    ("kind", "outcome", "code"), [("rejected", "rejected", 3), ("input", "failed", 2), ("error", "failed", 1)]
)
def test_the_kind_of_failure_decides_the_exit_code(run_folder: Path, kind: str, outcome: str, code: int) -> None:
    summary = report(run_folder, state("ingest"), state("split", "failed", kind=kind, reason=["why it failed"]))
    assert (summary.outcome, summary.exit_code, summary.failed_step) == (outcome, code, "split")
    assert summary.reason == ["why it failed"]
    assert "why it failed" in (run_folder / "index.html").read_text()


def test_a_rejected_batch_is_the_validations_doing(run_folder: Path) -> None:
    summary = report(
        run_folder,
        state("validate", "rejected", kind="rejected", reason=["x: nulls"]),
        state("admit", "failed", kind="rejected", reason=["1 breach", "x: nulls"]),
        StepState(name="train", status="skipped"),
    )
    assert (summary.failed_step, summary.exit_code) == ("validate", 3)
    assert [step.status for step in summary.steps] == ["rejected", "failed", "skipped"]


def test_a_step_that_died_without_a_word_shows_its_log(run_folder: Path) -> None:
    (run_folder / "logs").mkdir()
    (run_folder / "logs" / "train.log").write_text("epoch 1\nKilled\n")
    summary = report(run_folder, StepState(name="train", status="failed", log="logs/train.log"))
    assert (summary.exit_code, summary.failed_step) == (1, "train")
    assert "killed, or out of memory?" in summary.reason[0]
    assert summary.reason[-1] == "Killed"


def test_elsewhere_the_page_says_what_the_platform_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUN_FOLDER_VARIABLE, raising=False)
    report_run("m", "FAILED", "task train <failed>", str(tmp_path / "page"))
    page = (tmp_path / "page").read_text()
    assert "FAILED" in page
    assert "task train &lt;failed&gt;" in page


def test_a_step_leaves_its_record_however_it_ends(tmp_path: Path) -> None:
    for name in ("good", "refused", "bad"):
        (tmp_path / name).mkdir()
    with step("good", str(tmp_path / "good" / "out")) as record:
        record.show(rows=3, nothing=None, broken=float("nan"))
    with pytest.raises(SystemExit) as ended, step("refused", str(tmp_path / "refused" / "out")):
        raise InputError("a.csv: no label\nb.csv: no label")
    assert ended.value.code == 2
    with pytest.raises(ZeroDivisionError), step("bad", str(tmp_path / "bad" / "out")):
        _ = 1 / 0
    good, refused, bad = (read_record(tmp_path / name) for name in ("good", "refused", "bad"))
    assert good is not None
    assert refused is not None
    assert bad is not None
    assert (good.status, good.facts) == ("succeeded", {"rows": 3})
    assert (refused.status, refused.kind, refused.reason) == ("failed", "input", ["a.csv: no label", "b.csv: no label"])
    assert (bad.status, bad.reason) == ("failed", ["ZeroDivisionError: division by zero"])
    assert read_record(tmp_path) is None


def test_a_step_dies_with_its_run(tmp_path: Path) -> None:
    """The run's process holds a lock; the step's ends when that lock falls."""
    (tmp_path / "out").mkdir()
    code = (
        "import sys, threading; from shipway.lineage.steps import step\n"
        f"with step('s', {str(tmp_path / 'out' / 'x')!r}):\n"
        "    print('working', flush=True); threading.Event().wait(60)\n"
    )
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / LIFELINE_FILE)], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert run.stdout is not None
    run.stdout.readline()
    worker = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, RUN_FOLDER_VARIABLE: str(tmp_path)}, stdout=subprocess.PIPE
    )
    assert worker.stdout is not None
    worker.stdout.readline()
    assert worker.poll() is None
    run.kill()
    assert worker.wait(30) == 1
    run.communicate()
    worker.communicate()


def of_promotion(run_folder: Path, pipeline: str = "promotion") -> None:
    info = json.loads((run_folder / RUN_FILE).read_text())
    write_json(run_folder / RUN_FILE, {**info, "pipeline": pipeline})


CANDIDATE = {"version": "4", "model_digest": "sha256:m", "stable": "3"}


def shown(summary: Summary) -> str:
    screen = io.StringIO()
    Display(screen).summary(summary, "runs/m-1")
    return screen.getvalue()


def test_a_promotion_that_ended_live(run_folder: Path) -> None:
    of_promotion(run_folder)
    (run_folder / "elsewhere.html").write_text("<html>steps</html>")
    summary = report(
        run_folder,
        state("candidate", facts=CANDIDATE),
        state("approval", facts={"approved_by": "ada"}),
        state(
            "rollout",
            facts={"outcome": "live", "version": "4", "endpoint": "http://127.0.0.1:1"},
            reports={"Rollout": str(run_folder / "elsewhere.html")},
        ),
    )
    assert (summary.outcome, summary.exit_code, summary.reason) == ("promoted", 0, [])
    assert (summary.model.version, summary.model.digest, summary.endpoint) == ("4", "sha256:m", "http://127.0.0.1:1")
    page = (run_folder / "index.html").read_text()
    assert "Promotion of m" in page
    assert 'href="reports/rollout.html"' in page
    assert "promoted in" in shown(summary)
    assert "m version 4, sha256:m" in shown(summary)


def test_a_promotion_that_came_back_says_why(run_folder: Path) -> None:
    of_promotion(run_folder)
    reason = "m version 4 was rolled back: error_rate 0.2 is above 0.01"
    summary = report(
        run_folder,
        state("candidate", facts=CANDIDATE),
        state("approval"),
        state("rollout", "failed", kind="rejected", reason=[reason]),
    )
    assert (summary.outcome, summary.exit_code, summary.failed_step) == ("rejected", 3, "rollout")
    assert summary.reason == [reason]
    assert reason in (run_folder / "index.html").read_text()
    assert f"reason     {reason}" in shown(summary)
    assert "model " not in shown(summary)


def test_a_rollback_names_what_is_served(run_folder: Path) -> None:
    of_promotion(run_folder, "rollback")
    summary = report(
        run_folder, state("rollback", facts={"outcome": "rolled_back", "version": "3", "model_digest": "d"})
    )
    assert (summary.outcome, summary.exit_code, summary.model.version) == ("rolled_back", 0, "3")
    assert "Rollback of m" in (run_folder / "index.html").read_text()
    assert "rolled back in" in shown(summary)


def test_a_promotion_whose_rollout_never_ran_has_failed(run_folder: Path) -> None:
    of_promotion(run_folder)
    summary = report(run_folder, state("candidate", facts=CANDIDATE), state("rollout", "skipped"))
    assert (summary.outcome, summary.exit_code) == ("failed", 1)
    assert summary.reason == ["the promotion pipeline ended before its step rollout"]
