"""Schedules on Kubeflow over a real wire: one a name, never two active, whatever goes wrong on the way."""

import contextlib
import datetime as dt
from collections.abc import Iterator

import pytest
from kubeflow_scenarios import prepared, schedules_are_made_changed_paused_and_deleted
from kubeflow_stand_in import Fault, StandIn, serving

from shipway.errors import InputError, ShipwayError
from shipway.platforms import kubeflow, kubeflow_calls
from shipway.platforms.submission import Submission


@pytest.fixture(scope="module")
def submission() -> Submission:
    return prepared("penguins", scheduled=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(kubeflow_calls, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("KFP_TIMEOUT", "0.3")
    with serving() as stand_in:
        monkeypatch.setenv("KFP_HOST", stand_in.url)
        yield stand_in


def nightly(submission: Submission, cron: str = "0 3 * * *") -> str:
    return kubeflow.create_schedule(submission, name="nightly", cron=cron).id


def test_a_schedule_is_made_changed_paused_and_deleted(server: StandIn, submission: Submission) -> None:
    schedules_are_made_changed_paused_and_deleted(submission)
    assert server.recurring == []
    assert server.most_active == 1


def test_settings_reach_the_server(server: StandIn, submission: Submission) -> None:
    kubeflow.create_schedule(
        submission,
        name="nightly",
        cron="0 3 * * *",
        max_concurrency=3,
        catch_up=True,
        start=dt.datetime(2026, 1, 31),
        end=dt.datetime(2099, 1, 31, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    )
    (made,) = server.recurring
    assert made["max_concurrency"] == "3"
    assert made["no_catchup"] is False
    assert made["mode"] == "ENABLE"
    assert made["trigger"]["cron_schedule"] == {
        "cron": "0 0 3 * * *",
        "start_time": "2026-01-31T00:00:00Z",
        "end_time": "2099-01-31T00:00:00Z",
    }
    parameters = made["runtime_config"]["parameters"]
    assert parameters["fingerprint"] == ""
    kubeflow.create_schedule(submission, name="weekly", cron="@weekly")
    assert server.recurring[1]["no_catchup"] is True
    assert [info.name for info in kubeflow.list_schedules(submission.spec)] == ["nightly", "weekly"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cron": "0 25 * * *"}, "hour: found '25'"),
        ({"timezone": "Asia/Tokyo"}, "expected UTC"),
        ({"max_concurrency": 0}, "max_concurrency: expected 1 to 10, found 0"),
        ({"max_concurrency": 11}, "found 11"),
        (
            {"start": dt.datetime(2026, 2, 1, tzinfo=dt.UTC), "end": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)},
            "it ends .* before it starts",
        ),
    ],
)
def test_wrong_settings_are_refused_before_any_call(
    server: StandIn, submission: Submission, change: dict[str, object], expected: str
) -> None:
    settings: dict[str, object] = {"name": "nightly", "cron": "0 3 * * *"}
    with pytest.raises(InputError, match=expected):
        kubeflow.create_schedule(submission, **(settings | change))  # type: ignore[arg-type]  # wrong on purpose
    assert server.calls == []


REPLACEMENT = [
    "GET /healthz",
    "GET /experiments",
    "GET /pipelines",
    "GET /pipelines/ID/versions",
    "GET /recurringruns",
    "POST /recurringruns",
    "POST /recurringruns/ID:disable",
    "POST /recurringruns/ID:enable",
    "DELETE /recurringruns/ID",
    "GET /recurringruns/ID",
]


@pytest.mark.parametrize("call", REPLACEMENT)
@pytest.mark.parametrize(
    ("kind", "after"), [(403, False), (500, False), (500, True), ("reset", True), ("malformed", True)]
)
def test_an_interrupted_change_is_finished_by_the_next(
    server: StandIn, submission: Submission, call: str, kind: int | str, after: bool
) -> None:
    old = nightly(submission)
    server.forget()
    # Every try fails, so that what comes after this call is left undone.
    server.faults = [Fault(call, kind, times=99, after=after)]
    with contextlib.suppress(ShipwayError):
        nightly(submission, "0 4 * * *")
    server.forget()
    new = nightly(submission, "0 4 * * *")
    assert new != old
    assert [entry["recurring_run_id"] for entry in server.active] == [new]
    assert len(server.recurring) == 1
    assert server.most_active == 1


def test_every_call_of_a_change_is_known(server: StandIn, submission: Submission) -> None:
    nightly(submission)
    server.forget()
    nightly(submission, "0 4 * * *")
    assert set(server.calls) == set(REPLACEMENT)


def test_a_refused_change_leaves_the_old_schedule_active(server: StandIn, submission: Submission) -> None:
    old = nightly(submission)
    server.faults = [Fault("POST /recurringruns", 403)]
    with pytest.raises(ShipwayError, match="making schedule nightly: 403"):
        nightly(submission, "0 4 * * *")
    assert [entry["recurring_run_id"] for entry in server.active] == [old]


def test_twins_of_a_race_become_one(server: StandIn, submission: Submission) -> None:
    first = nightly(submission)
    server.recurring.append(server.recurring[0] | {"recurring_run_id": "twin", "created_at": "2099-01-01T00:00:00Z"})
    assert nightly(submission) == first
    assert [entry["recurring_run_id"] for entry in server.recurring] == [first]


def test_schedules_made_by_hand_are_listed_as_they_are(server: StandIn, submission: Submission) -> None:
    nightly(submission)
    by_hand = server.recurring[0] | {"recurring_run_id": "x", "display_name": "by hand", "status": "ENABLED"}
    server.recurring.append(by_hand | {"trigger": {"cron_schedule": {"cron": "@every 1h30m"}}})
    server.recurring.append(by_hand | {"trigger": {"periodic_schedule": {"interval_second": "60"}}})
    found = kubeflow.list_schedules(submission.spec)
    assert [(info.name, info.cron, info.next_run) for info in found[:2]] == [
        ("by hand", "@every 1h30m", ""),
        ("by hand", "", ""),
    ]


def test_deleting_what_someone_else_deletes_is_done(server: StandIn, submission: Submission) -> None:
    nightly(submission)
    server.faults = [Fault("DELETE /recurringruns/ID", "reset", after=True)]
    kubeflow.delete_schedule(submission.spec, "nightly")
    assert server.recurring == []
    with pytest.raises(InputError, match="has no schedule 'nightly'"):
        kubeflow.resume_schedule(submission.spec, "nightly")
