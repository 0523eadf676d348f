"""Schedules on Vertex AI over a real wire: one of a name, changed in place, never made twice."""

import dataclasses
import datetime as dt
import functools
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.cloud import aiplatform_v1 as v1
from google.protobuf import json_format
from vertex_runs import kill_at_work, submission
from vertex_stand_in import LOCATION, PARENT, PROJECT, VertexStandIn

from shipway.endpoints import vertex_client
from shipway.errors import InputError, ShipwayError
from shipway.platforms import vertex
from shipway.platforms.submission import Submission

Status = grpc.StatusCode
NIGHTLY: dict[str, Any] = {"name": "nightly", "cron": "0 3 * * *", "timezone": "Europe/Paris"}
END = dt.datetime(2031, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def penguins() -> Submission:
    return submission()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexStandIn]:
    monkeypatch.setattr(vertex_client, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(vertex_client, "DEADLINE", 5.0)
    with VertexStandIn() as stand_in:
        monkeypatch.setenv(vertex_client.ENDPOINT_VARIABLE, stand_in.endpoint)
        yield stand_in


def only(server: VertexStandIn) -> Any:
    (schedule,) = server.schedules.values()
    return schedule


def test_a_schedule_carries_the_run_that_it_starts(penguins: Submission, server: VertexStandIn) -> None:
    made = vertex.create_schedule(penguins, **NIGHTLY, max_concurrency=2, end=END)
    assert (made.name, made.cron, made.timezone, made.enabled) == ("nightly", "0 3 * * *", "Europe/Paris", True)
    assert made.next_run == "2030-01-01T03:00:00+00:00"
    assert made.link == (
        f"https://console.cloud.google.com/vertex-ai/locations/{LOCATION}/pipelines/schedules/{made.id}"
        f"?project={PROJECT}"
    )
    kept = only(server)
    assert kept.name == f"{PARENT}/schedules/{made.id}"
    assert kept.cron == "TZ=Europe/Paris 0 3 * * *"
    assert (kept.max_concurrent_run_count, kept.max_concurrent_active_run_count) == (2, 2)
    assert kept.end_time == END
    sent = json_format.MessageToDict(v1.Schedule.pb(kept))["createPipelineJobRequest"]["pipelineJob"]
    assert sent["pipelineSpec"] == penguins.documents[0]
    assert sent["runtimeConfig"]["parameterValues"] == dict(penguins.arguments)
    assert sent["labels"]["shipway-model"] == "penguins"
    assert server.jobs == {}


def test_the_same_again_changes_nothing(penguins: Submission, server: VertexStandIn) -> None:
    first, second = (vertex.create_schedule(penguins, **NIGHTLY) for _ in range(2))
    assert first == second
    assert (server.count("CreateSchedule"), server.count("UpdateSchedule")) == (1, 0)


@pytest.mark.parametrize(
    "change", [{"cron": "0 4 * * *"}, {"timezone": "UTC"}, {"max_concurrency": 3}, {"catch_up": True}, {"end": END}]
)
def test_a_change_is_made_in_place(penguins: Submission, server: VertexStandIn, change: dict[str, Any]) -> None:
    first = vertex.create_schedule(penguins, **NIGHTLY)
    second = vertex.create_schedule(penguins, **{**NIGHTLY, **change})
    assert (second.id, server.count("CreateSchedule"), server.count("UpdateSchedule")) == (first.id, 1, 1)
    assert vertex.create_schedule(penguins, **{**NIGHTLY, **change}) == second
    assert server.count("UpdateSchedule") == 1
    kept = only(server)
    assert kept.cron == f"TZ={change.get('timezone', 'Europe/Paris')} {change.get('cron', '0 3 * * *')}"
    assert kept.max_concurrent_run_count == change.get("max_concurrency", 1)


def test_a_new_pipeline_is_a_change(penguins: Submission, server: VertexStandIn) -> None:
    vertex.create_schedule(penguins, **NIGHTLY)
    later = dataclasses.replace(penguins, text=penguins.text.replace("0.1.0", "0.2.0"), version="another")
    vertex.create_schedule(later, **NIGHTLY)
    sent = json_format.MessageToDict(v1.Schedule.pb(only(server)))["createPipelineJobRequest"]["pipelineJob"]
    assert sent["pipelineSpec"] == later.documents[0]


def test_what_someone_changed_in_the_console_is_put_right(penguins: Submission, server: VertexStandIn) -> None:
    vertex.create_schedule(penguins, **NIGHTLY)
    only(server).cron = "TZ=UTC 5 5 * * *"
    assert vertex.create_schedule(penguins, **NIGHTLY).cron == "0 3 * * *"
    assert server.count("UpdateSchedule") == 1


def test_a_change_that_vertex_cannot_make_is_refused(penguins: Submission, server: VertexStandIn) -> None:
    vertex.create_schedule(penguins, **NIGHTLY, end=END)
    with pytest.raises(InputError, match=r"cannot take away its end, 2031-01-01.*delete it"):
        vertex.create_schedule(penguins, **NIGHTLY)
    server.order("UpdateSchedule", Status.INVALID_ARGUMENT, message="create_pipeline_job_request is immutable")
    with pytest.raises(InputError, match=r"is immutable; delete it \(`shipway schedule delete`\) and create it anew"):
        vertex.create_schedule(penguins, **{**NIGHTLY, "cron": "0 4 * * *"}, end=END)
    only(server).state = v1.Schedule.State.COMPLETED
    with pytest.raises(InputError, match="has come to its end and cannot be changed"):
        vertex.create_schedule(penguins, **{**NIGHTLY, "cron": "0 4 * * *"}, end=END)
    with pytest.raises(ShipwayError, match="has come to its end"):
        vertex.resume_schedule(penguins.spec, "nightly")


def test_pause_and_resume(penguins: Submission, server: VertexStandIn) -> None:
    vertex.create_schedule(penguins, **NIGHTLY)
    for _ in range(2):
        paused = vertex.pause_schedule(penguins.spec, "nightly")
        assert (paused.enabled, paused.next_run) == (False, "")
    assert server.count("PauseSchedule") == 1
    assert vertex.resume_schedule(penguins.spec, "nightly").enabled
    assert not only(server).catch_up


def test_a_schedule_that_catches_up_does_so_when_resumed(penguins: Submission, server: VertexStandIn) -> None:
    vertex.create_schedule(penguins, **NIGHTLY, catch_up=True)
    vertex.pause_schedule(penguins.spec, "nightly")
    vertex.resume_schedule(penguins.spec, "nightly")
    assert only(server).catch_up


def test_every_page_of_the_models_own_schedules_is_listed(penguins: Submission, server: VertexStandIn) -> None:
    for name in ("d", "b", "a", "c", "e"):
        vertex.create_schedule(penguins, **{**NIGHTLY, "name": name})
    flights = dataclasses.replace(penguins, spec=penguins.spec.model_copy(update={"name": "flights"}))
    vertex.create_schedule(flights, **{**NIGHTLY, "name": "a"})
    assert [info.name for info in vertex.list_schedules(penguins.spec)] == ["a", "b", "c", "d", "e"]
    assert len(server.schedules) == 6


def test_delete(penguins: Submission, server: VertexStandIn) -> None:
    vertex.create_schedule(penguins, **NIGHTLY)
    vertex.create_schedule(penguins, **{**NIGHTLY, "name": "weekly"})
    vertex.delete_schedule(penguins.spec, "nightly")
    assert only(server).display_name == "weekly"
    for act in (vertex.delete_schedule, vertex.pause_schedule, vertex.resume_schedule):
        with pytest.raises(InputError, match=r"model penguins has none of that name .*; there is weekly"):
            act(penguins.spec, "nightly")


def test_two_of_one_name_are_told_of_and_deleted_together(penguins: Submission, server: VertexStandIn) -> None:
    vertex.create_schedule(penguins, **NIGHTLY)
    twin = v1.Schedule.deserialize(v1.Schedule.serialize(only(server)))
    twin.name = f"{PARENT}/schedules/77"
    server.schedules[twin.name] = twin
    with pytest.raises(ShipwayError, match=r"has 2 of that name for model penguins \(1000, 77\)"):
        vertex.create_schedule(penguins, **NIGHTLY)
    vertex.delete_schedule(penguins.spec, "nightly")
    assert server.schedules == {}


@pytest.mark.parametrize("what", [Status.UNAVAILABLE, Status.INTERNAL, "reset", "garbage"])
def test_a_lost_answer_leaves_one_schedule(penguins: Submission, server: VertexStandIn, what: Any) -> None:
    server.order("CreateSchedule", what, after=True)
    made = vertex.create_schedule(penguins, **NIGHTLY)
    assert made.id == only(server).name.rpartition("/")[2]
    assert server.count("CreateSchedule") == 1


def test_a_schedule_that_was_not_made_is_not_asked_for_again_blindly(
    penguins: Submission, server: VertexStandIn
) -> None:
    server.order("CreateSchedule", Status.UNAVAILABLE)
    with pytest.raises(ShipwayError, match=r"making schedule nightly: .*the same command again makes it, or finds it"):
        vertex.create_schedule(penguins, **NIGHTLY)
    assert server.count("CreateSchedule") == 1
    assert vertex.create_schedule(penguins, **NIGHTLY).id == "1000"


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_while_making_it_and_run_again_leaves_one_schedule(
    penguins: Submission, server: VertexStandIn, after: bool
) -> None:
    server.order("CreateSchedule", "kill", after=after)
    kill_at_work(server, penguins, functools.partial(vertex.create_schedule, **NIGHTLY))
    assert len(server.schedules) == after
    vertex.create_schedule(penguins, **NIGHTLY)
    assert only(server).display_name == "nightly"


@pytest.mark.parametrize("what", [Status.UNAVAILABLE, Status.INTERNAL, "reset"])
@pytest.mark.parametrize("after", [False, True])
def test_calls_that_may_be_made_twice_are(penguins: Submission, server: VertexStandIn, what: Any, after: bool) -> None:
    vertex.create_schedule(penguins, **NIGHTLY)
    for call in ("ListSchedules", "UpdateSchedule", "PauseSchedule", "ResumeSchedule", "DeleteSchedule"):
        server.order(call, what, after=after)
    assert vertex.create_schedule(penguins, **{**NIGHTLY, "cron": "0 4 * * *"}).cron == "0 4 * * *"
    assert not vertex.pause_schedule(penguins.spec, "nightly").enabled
    assert vertex.resume_schedule(penguins.spec, "nightly").enabled
    vertex.delete_schedule(penguins.spec, "nightly")
    assert server.schedules == {}


@pytest.mark.parametrize("call", ["ListSchedules", "CreateSchedule"])
def test_a_refusal_makes_no_schedule(penguins: Submission, server: VertexStandIn, call: str) -> None:
    server.order(call, Status.PERMISSION_DENIED, times=100)
    with pytest.raises(ShipwayError, match="Vertex AI forbids it"):
        vertex.create_schedule(penguins, **NIGHTLY)
    assert (server.count(call), server.schedules) == (1, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cron": "0 0 3 * * *"}, None),
        ({"cron": "30 0 3 * * *"}, "Vertex AI knows no seconds"),
        ({"cron": "61 3 * * *"}, "minute"),
        ({"cron": "daily"}, "expected five fields"),
        ({"timezone": "Mars/Olympus"}, "no such zone"),
        ({"timezone": "../etc/passwd"}, "no such zone"),
        ({"name": 'x" OR "y'}, "schedule name"),
        ({"max_concurrency": 0}, "expected 1 or more"),
        ({"start": END, "end": END}, "its end after its start"),
    ],
)
def test_malformed_settings_are_refused_before_anything_is_asked(
    penguins: Submission, server: VertexStandIn, change: dict[str, Any], message: str | None
) -> None:
    if message is None:
        assert vertex.create_schedule(penguins, **{**NIGHTLY, **change}).cron == "0 3 * * *"
        return
    with pytest.raises(InputError, match=message):
        vertex.create_schedule(penguins, **{**NIGHTLY, **change})
    assert server.calls == []


def test_what_a_run_would_go_wrong_with_is_refused_in_a_schedule_too(server: VertexStandIn) -> None:
    with pytest.raises(InputError, match=r"kubeflow\.config_map"):
        vertex.create_schedule(submission(["kubeflow.config_map=m"]), **NIGHTLY)
    assert server.calls == []
