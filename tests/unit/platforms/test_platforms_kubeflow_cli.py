"""`shipway submit` and `shipway schedule` for Kubeflow as a user calls them, also killed at every call they make."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubeflow_scenarios import PENGUINS, prepared
from kubeflow_stand_in import TOKEN, StandIn, serving

from shipway.platforms import kubeflow
from shipway.platforms.submission import Submission

pytestmark = pytest.mark.slow

SHIPWAY = str(Path(sys.executable).parent / "shipway")
SUBMIT = (SHIPWAY, "submit", str(PENGUINS), "--target", "kubeflow")
SCHEDULE = (SHIPWAY, "schedule", "create", str(PENGUINS), "--target", "kubeflow", "--cron")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with serving() as stand_in:
        monkeypatch.setenv("KFP_HOST", stand_in.url)
        yield stand_in


@pytest.fixture(scope="module")
def submission() -> Submission:
    return prepared("penguins")


def shipway(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SHIPWAY, *arguments], capture_output=True, text=True, timeout=120)


def kill_at(server: StandIn, call: int, after: bool, command: tuple[str, ...]) -> bool:
    """Kills a command while the server holds its n-th call; tells whether it came so far."""
    server.forget()
    server.stop_at = (call, after)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not server.stopped.wait(0.05):
            pass
        return server.stopped.is_set()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        server.released.set()
        server.stop_at = None


def test_submit_says_what_it_did_in_one_line(server: StandIn) -> None:
    first = shipway(*SUBMIT[1:])
    assert first.returncode == 0, first.stderr
    name = server.runs[0]["display_name"]
    assert first.stdout == f"run {name}  started  {server.url}/#/runs/details/{server.runs[0]['run_id']}\n"
    assert first.stderr.startswith("note: ")
    second = shipway(*SUBMIT[1:])
    assert second.stdout.startswith(f"run {name}  found: pending (another --key starts a new one)  {server.url}/#/")
    assert len(server.runs) == 1


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_call_and_submitted_again_is_one_run(
    server: StandIn, submission: Submission, after: bool
) -> None:
    calls = 0
    while True:
        calls += 1
        if not kill_at(server, calls, after, SUBMIT):
            break
        kubeflow.submit(submission)
        assert len(server.runs) == 1, server.calls
        assert (len(server.experiments), len(server.pipelines), len(server.versions)) == (1, 1, 1)
        for kept in (server.runs, server.experiments, server.pipelines, server.versions):
            kept.clear()
    # What a whole submission asks: with fewer calls this test would have stopped too early.
    assert calls > 11
    assert len(server.runs) == 1


def test_a_change_of_a_schedule_killed_at_any_call_leaves_one_active(server: StandIn) -> None:
    submission = prepared("penguins", scheduled=True)
    calls = 0
    while True:
        calls += 1
        server.recurring.clear()
        kubeflow.create_schedule(submission, name="penguins-training", cron="0 3 * * *")
        killed = kill_at(server, calls, True, (*SCHEDULE, "0 4 * * *"))
        kubeflow.create_schedule(submission, name="penguins-training", cron="0 4 * * *")
        assert [entry["trigger"]["cron_schedule"]["cron"] for entry in server.recurring] == ["0 0 4 * * *"]
        assert len(server.active) == 1
        assert server.most_active == 1
        if not killed:
            break
    assert calls > 10


def test_wait_follows_to_the_end(server: StandIn) -> None:
    def end(call: str) -> None:
        if call == "GET /runs/ID":
            times = {"start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T00:00:07Z", "state": "SUCCEEDED"}
            tasks = [{"display_name": name} | times for name in ("ingest", "gate", "register")]
            server.runs[0].update(state="SUCCEEDED", run_details={"task_details": tasks})

    server.before = end
    done = shipway(*SUBMIT[1:], "--wait")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1:4] == [["✓", name, "7.0", "s"] for name in ("ingest", "gate", "register")]
    assert "succeeded: the model is registered" in done.stdout


def test_an_interrupt_while_waiting_leaves_the_run_alone(server: StandIn) -> None:
    def interrupt(call: str) -> None:
        if call == "GET /runs/ID":
            os.kill(process.pid, signal.SIGINT)

    process = subprocess.Popen([*SUBMIT, "--wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    server.before = interrupt
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"no longer following; run {server.runs[0]['display_name']} goes on: {server.url}" in said
    assert server.live == server.runs


def test_schedule_lists_pauses_resumes_and_deletes(server: StandIn) -> None:
    made = shipway(
        *SCHEDULE[1:], "30 2 * * 1-5", "--max-concurrency", "2", "--catch-up", "--start", "2026-01-31T00:00Z"
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("schedule penguins-training  0 30 2 * * 1-5 UTC  on  next 20")
    for action, expected in [
        ("list", "UTC  on  next"),
        ("pause", "UTC  paused"),
        ("list", "UTC  paused"),
        ("resume", "UTC  on  next"),
        ("delete", "deleted"),
        ("list", "there is no schedule yet"),
    ]:
        done = shipway("schedule", action, str(PENGUINS), "--target", "kubeflow")
        assert expected in done.stdout, done.stderr
    missing = shipway("schedule", "pause", str(PENGUINS), "--target", "kubeflow")
    assert missing.returncode == 2
    assert "model penguins has no schedule 'penguins-training'; it has none" in missing.stderr
    assert server.recurring == []


def test_a_check_is_scheduled_as_the_spec_says(server: StandIn) -> None:
    where = (
        *SCHEDULE[1:4],
        "--target",
        "kubeflow",
        "--pipeline",
        "monitoring",
        "--set",
        "monitor.predictions=s3://b/c",
    )
    made = shipway(*where)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("schedule penguins-monitoring  0 0 */6 * * * UTC  on  next 20")
    assert server.recurring[0]["runtime_config"]["parameters"]["predictions"] == "s3://b/c"
    unsaid = shipway(*SCHEDULE[1:4], "--target", "kubeflow")
    assert unsaid.returncode == 2
    assert "--cron: when? The spec has no schedule of pipeline training" in unsaid.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("submit", str(PENGUINS), "--target", "airflow"), "--target: expected kubeflow or vertex, found 'airflow'"),
        ((*SUBMIT[1:], "--timeout", "5"), "--timeout: expected seconds above 0 together with --wait, found 5"),
        ((*SUBMIT[1:], "--key", "Not OK"), "--key: expected at most 40 lower-case letters"),
        ((*SCHEDULE[1:], "0 25 * * *"), "hour: found '25'"),
        ((*SCHEDULE[1:], "0 3 * * *", "--start", "soon"), "--start: expected a moment as"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(server: StandIn, arguments: tuple[str, ...], expected: str) -> None:
    done = shipway(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert server.runs == []


def test_a_refusal_is_one_line_without_the_token(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.token = TOKEN
    (tmp_path / "token").write_text("a-token-that-has-expired")
    monkeypatch.setenv("KFP_TOKEN_FILE", str(tmp_path / "token"))
    done = shipway(*SUBMIT[1:])
    assert done.returncode == 1
    assert "401 Unauthorized" in done.stderr
    assert "a-token-that-has-expired" not in done.stdout + done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("shipway: ")]) == 1
