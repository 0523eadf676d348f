"""Following a run on Vertex AI: its states and its steps' become those of a local run, and its end an exit code."""

import datetime as dt
import io
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.cloud import aiplatform_v1 as v1
from google.rpc import status_pb2
from vertex_runs import submission
from vertex_stand_in import PARENT, VertexStandIn

from shipway.endpoints import vertex_client
from shipway.endpoints.client import UnreachableError
from shipway.errors import ShipwayError
from shipway.platforms import vertex
from shipway.platforms.display import Display
from shipway.platforms.follow import RemoteStep, VanishedError, follow
from shipway.platforms.local import step_names

Status = grpc.StatusCode
State = v1.PipelineState
Task = v1.PipelineTaskDetail
JOB = f"{PARENT}/pipelineJobs/penguins-training-k1"
BEGIN = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
NAMES = ["ingest", "validate", "admit", "train", "gate", "register", "report"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexStandIn]:
    monkeypatch.setattr(vertex_client, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(vertex, "CONTEXT_PAUSE", 0.01)
    with VertexStandIn() as stand_in:
        monkeypatch.setenv(vertex_client.ENDPOINT_VARIABLE, stand_in.endpoint)
        yield stand_in


@pytest.fixture
def run(server: VertexStandIn) -> vertex.VertexRun:
    assert server.jobs == {}
    return vertex.submit(submission())


def tell(server: VertexStandIn, state: str, message: str = "", **tasks: str) -> None:
    """Sets what Vertex says of the run, with its own root and loops among the steps, as the real one does."""
    job = server.jobs[JOB]
    job.state = State[f"PIPELINE_STATE_{state}"]
    job.error = status_pb2.Status(message=message)
    job.job_detail.task_details = [
        Task(task_id=1, task_name="penguins-training-k1", state=Task.State.RUNNING, start_time=BEGIN),
        Task(task_id=2, task_name="exit-handler-1", state=Task.State.RUNNING, start_time=BEGIN),
        *(task(10 + number, name, told) for number, (name, told) in enumerate(tasks.items())),
    ]


def task(number: int, name: str, told: str) -> Any:
    state, _, message = told.partition(":")
    detail = Task(task_id=number, task_name=name, state=Task.State[state], error=status_pb2.Status(message=message))
    if state not in ("PENDING", "NOT_TRIGGERED"):
        detail.start_time = BEGIN
        detail.end_time = BEGIN + dt.timedelta(seconds=90)
    return detail


def test_the_steps_are_those_that_run_a_container() -> None:
    names = set(step_names(submission().documents[0]))
    assert {"ingest", "train", "register", "report"} <= names
    assert not any(name.startswith(("exit-handler", "condition")) for name in names)


def test_steps_and_their_states(server: VertexStandIn, run: vertex.VertexRun) -> None:
    tell(
        server,
        "RUNNING",
        ingest="SKIPPED",
        validate="SUCCEEDED",
        train="RUNNING",
        gate="PENDING",
        register="NOT_TRIGGERED",
        admit="FAILED:the data\n were rejected",
    )
    status = run.status()
    assert status.state == "running"
    assert status.steps == [
        RemoteStep("ingest", "succeeded", 90.0, cached=True),
        RemoteStep("validate", "succeeded", 90.0),
        RemoteStep("train", "running", 90.0),
        RemoteStep("gate", "pending"),
        RemoteStep("register", "skipped"),
        RemoteStep("admit", "failed", 90.0, message="the data were rejected"),
    ]


def test_a_step_of_a_loop_is_there_once_for_each_time_around(server: VertexStandIn, run: vertex.VertexRun) -> None:
    tell(server, "RUNNING")
    passes = [task(31, "register", "SUCCEEDED"), task(32, "register", "FAILED:lost"), task(33, "register", "RUNNING")]
    for found, parent in zip(passes, (20, 21, 21), strict=True):
        found.parent_task_id = parent
    server.jobs[JOB].job_detail.task_details.extend(passes)
    assert [step.state for step in run.status().steps] == ["succeeded", "running"]


def test_of_a_step_that_was_tried_again_the_last_try_counts(server: VertexStandIn, run: vertex.VertexRun) -> None:
    tell(server, "RUNNING")
    tries = [task(31, "register", "SUCCEEDED"), task(30, "register", "FAILED:lost")]
    server.jobs[JOB].job_detail.task_details.extend(tries)
    assert run.status().steps == [RemoteStep("register", "succeeded", 90.0)]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("UNSPECIFIED", "pending"),
        ("QUEUED", "pending"),
        ("PENDING", "pending"),
        ("RUNNING", "running"),
        ("CANCELLING", "running"),
        ("SUCCEEDED", "succeeded"),
        ("FAILED", "failed"),
        ("CANCELLED", "cancelled"),
        ("PAUSED", "cancelled"),
    ],
)
def test_run_states(server: VertexStandIn, run: vertex.VertexRun, state: str, expected: str) -> None:
    tell(server, state, "as told" if state == "FAILED" else "")
    status = run.status()
    assert status.state == expected
    assert status.message == {
        "FAILED": "as told",
        "PAUSED": "it is paused, and goes on only when someone resumes it",
    }.get(state, "")


def test_every_state_of_vertex_has_a_meaning_here() -> None:
    runs = {state.name for state in State} - set(vertex._RUN_STATES)
    assert runs == {f"PIPELINE_STATE_{name}" for name in ("UNSPECIFIED", "QUEUED", "PENDING")}
    assert {state.name for state in Task.State} - set(vertex._STEP_STATES) == {"STATE_UNSPECIFIED", "PENDING"}


@pytest.mark.parametrize(
    ("state", "tasks", "code", "said"),
    [
        (
            "SUCCEEDED",
            {"ingest": "SKIPPED", "gate": "SUCCEEDED", "register": "SUCCEEDED"},
            0,
            "the model is registered",
        ),
        ("SUCCEEDED", {"gate": "SUCCEEDED", "register": "NOT_TRIGGERED"}, 3, "the gates did not bless the model"),
        ("FAILED", {"admit": "FAILED:rejected", "report": "SUCCEEDED"}, 3, "the data were rejected"),
        ("FAILED", {"train": "FAILED:out of memory"}, 1, "step train failed: out of memory"),
        ("CANCELLED", {"train": "CANCELLED"}, 1, "cancelled"),
    ],
)
def test_following_ends_in_the_exit_code(
    server: VertexStandIn, run: vertex.VertexRun, state: str, tasks: dict[str, str], code: int, said: str
) -> None:
    after = iter([{"ingest": "RUNNING"}, tasks])
    tell(server, "PENDING")

    def next_look(_: float) -> None:
        told = next(after)
        tell(server, state if told is tasks else "RUNNING", **told)

    stream = io.StringIO()
    with Display(stream) as display:
        assert follow(run, NAMES, display, sleep=next_look) == code
    assert said in stream.getvalue()
    assert "exit-handler" not in stream.getvalue()


def test_asking_is_tried_again(server: VertexStandIn, run: vertex.VertexRun) -> None:
    server.order("GetPipelineJob", Status.UNAVAILABLE)
    server.order("GetPipelineJob", "reset")
    assert run.status().state == "pending"
    server.order("GetPipelineJob", Status.UNAVAILABLE, times=100)
    with pytest.raises(UnreachableError, match="reading run penguins-training-k1: no usable answer from Vertex AI"):
        run.status()


def test_a_run_that_someone_deleted(server: VertexStandIn, run: vertex.VertexRun) -> None:
    server.jobs.clear()
    with pytest.raises(VanishedError, match="reading run penguins-training-k1: it is gone"):
        run.status()


def test_a_right_that_was_taken_away(server: VertexStandIn, run: vertex.VertexRun) -> None:
    server.order("GetPipelineJob", Status.PERMISSION_DENIED)
    with pytest.raises(ShipwayError, match="forbids it"):
        run.status()
