"""Submitting to Kubeflow over a real wire: one submission is one run, whatever goes wrong on the way."""

import threading
from collections.abc import Iterator

import pytest
import yaml
from kubeflow_scenarios import (
    a_changed_pipeline_becomes_a_version,
    another_key_starts_another_run,
    prepared,
    the_same_submission_finds_the_first_run,
)
from kubeflow_stand_in import TOKEN, Fault, StandIn, serving

from shipway.endpoints.client import UnreachableError
from shipway.errors import InputError, ShipwayError
from shipway.platforms import kubeflow, kubeflow_calls
from shipway.platforms.follow import RemoteStep, VanishedError
from shipway.platforms.submission import Submission

GETS = ["/healthz", "/experiments", "/runs", "/pipelines", "/pipelines/ID/versions"]
POSTS = ["/experiments", "/pipelines", "/pipelines/upload_version", "/runs"]
CALLS = [f"GET {path}" for path in GETS] + [f"POST {path}" for path in POSTS]

FAULTS = (401, 403, 404, 409, 429, 500, "hang", "reset", "malformed", "wrong", "login")


@pytest.fixture(scope="module")
def submission() -> Submission:
    return prepared("penguins")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(kubeflow_calls, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(kubeflow, "SETTLE_SECONDS", 0.0)
    monkeypatch.setenv("KFP_TIMEOUT", "0.3")
    with serving() as stand_in:
        monkeypatch.setenv("KFP_HOST", stand_in.url)
        yield stand_in


def is_whole(server: StandIn) -> None:
    kept = (len(server.experiments), len(server.pipelines), len(server.versions), len(server.runs))
    assert kept == (1, 1, 1, 1), server.calls


def test_the_same_submission_finds_the_first_run(server: StandIn, submission: Submission) -> None:
    the_same_submission_finds_the_first_run(submission)
    is_whole(server)
    (run,), (version,) = server.runs, server.versions
    assert run["runtime_config"] == {"parameters": dict(submission.arguments)}
    assert run["display_name"] == submission.run_name
    assert version["text"] == submission.text
    assert version["display_name"] == submission.version
    assert server.experiments[0]["display_name"] == "penguins"


def test_a_found_run_costs_three_calls(server: StandIn, submission: Submission) -> None:
    kubeflow.submit(submission)
    server.forget()
    kubeflow.submit(submission)
    assert server.calls == ["GET /healthz", "GET /experiments", "GET /runs"]


def test_nothing_is_printed(server: StandIn, submission: Submission, capfd: pytest.CaptureFixture[str]) -> None:
    assert server.url
    kubeflow.submit(submission)
    assert capfd.readouterr() == ("", "")


def test_another_key_starts_another_run(server: StandIn, submission: Submission) -> None:
    another_key_starts_another_run(submission)
    assert len(server.versions) == 1


def test_a_changed_pipeline_becomes_a_version(server: StandIn, submission: Submission) -> None:
    a_changed_pipeline_becomes_a_version(submission)
    assert (len(server.pipelines), len(server.versions)) == (1, 2)
    used = [run["pipeline_version_reference"]["pipeline_version_id"] for run in server.runs]
    assert used == [version["pipeline_version_id"] for version in server.versions]


def test_both_documents_are_uploaded_as_they_are(server: StandIn, submission: Submission) -> None:
    platform = yaml.safe_dump({"platforms": {"kubernetes": {"deploymentSpec": {"executors": {}}}}})
    text = f"{submission.text}---\n{platform}"
    kubeflow.submit(Submission(submission.spec, submission.kind, text, "two", submission.arguments, "two"))
    assert server.versions[0]["text"] == text


def test_settings_of_the_spec_reach_the_server(server: StandIn, submission: Submission) -> None:
    server.multi_user = True
    section = submission.spec.kubeflow.model_copy(
        update={"namespace": "team-a", "service_account": "trainer", "experiment": "nightly"}
    )
    spec = submission.spec.model_copy(update={"kubeflow": section})
    changed = Submission(spec, submission.kind, submission.text, "v", submission.arguments, "k")
    kubeflow.submit(changed, pipeline_root="s3://bucket/root")
    assert server.experiments[0] | {"display_name": "nightly", "namespace": "team-a"} == server.experiments[0]
    assert server.pipelines[0]["namespace"] == "team-a"
    assert server.runs[0]["service_account"] == "trainer"
    assert server.runs[0]["runtime_config"]["pipeline_root"] == "s3://bucket/root"
    assert not kubeflow.submit(changed).created


def test_many_users_need_a_namespace(server: StandIn, submission: Submission) -> None:
    server.multi_user = True
    with pytest.raises(InputError, match=r"names no namespace; expected kubeflow\.namespace or KFP_NAMESPACE"):
        kubeflow.submit(submission)
    assert not server.runs


def test_a_name_in_another_case_is_another(server: StandIn, submission: Submission) -> None:
    kubeflow.submit(submission)
    server.runs[0]["display_name"] = server.runs[0]["display_name"].upper()
    assert kubeflow.submit(submission).created


def test_every_page_is_read(server: StandIn, submission: Submission) -> None:
    kubeflow.submit(submission)
    others = [server.runs[0] | {"run_id": str(n), "display_name": submission.run_name.upper()} for n in range(5)]
    server.runs[:0] = others
    assert not kubeflow.submit(submission).created
    assert len(server.runs) == 6


@pytest.mark.parametrize(
    ("call", "kind", "after"),
    [
        *((call, kind, False) for call in CALLS for kind in FAULTS),
        *((call, kind, True) for call in CALLS if "POST" in call for kind in (500, "hang", "reset", "malformed")),
    ],
)
def test_a_fault_at_any_call_ends_in_one_run_or_one_line(
    server: StandIn, submission: Submission, call: str, kind: int | str, after: bool
) -> None:
    server.faults = [Fault(call, kind, after=after, headers={"Retry-After": "0"} if kind == 429 else {})]
    reads = call.startswith("GET")
    passes = kind in (429, 500, 503, 504, "reset") or (kind == "hang" if reads else after or kind == 409)
    if passes or (call, kind) == ("GET /healthz", "wrong"):
        assert kubeflow.submit(submission).created
        is_whole(server)
    else:
        with pytest.raises(ShipwayError) as raised:
            kubeflow.submit(submission)
        message = str(raised.value)
        assert message.startswith(f"{server.url}: ")
        assert "\n" not in message
        assert len(server.runs) <= 1
    server.forget()
    kubeflow.submit(submission)
    is_whole(server)


@pytest.mark.parametrize("call", ["GET /runs", "POST /runs"])
@pytest.mark.parametrize("kind", [503, 500, "reset"])
@pytest.mark.parametrize("after", [False, True])
def test_retries_are_bounded(server: StandIn, submission: Submission, call: str, kind: int | str, after: bool) -> None:
    server.faults = [Fault(call, kind, times=99, after=after)]
    if call == "POST /runs" and after:
        # The answer is lost each time, the run is not.
        assert kubeflow.submit(submission).created
        assert server.seen(call) == 1
    else:
        with pytest.raises(UnreachableError):
            kubeflow.submit(submission)
        assert server.seen(call) == kubeflow_calls.ATTEMPTS
    assert len(server.runs) == (call == "POST /runs" and after)


@pytest.mark.parametrize(
    ("call", "kind", "expected"),
    [
        (
            "GET /experiments",
            401,
            r"looking for experiment penguins: 401 .*; sent was no credentials; check that the cr",
        ),
        ("POST /runs", 403, r"starting run penguins-training-\w+: 403 .*kubeflow\.namespace in the spec, RBAC"),
        ("GET /healthz", 404, r"asking for its health: 404 .*; check the host, and that KFP's API lies under it at"),
        ("GET /pipelines", "login", r"looking for pipeline penguins-training: a web page instead .*login page; log in"),
        (
            "GET /pipelines",
            "redirect",
            r"302, a redirect to /dex/auth/local/login, most likely a login page; log in: no cr",
        ),
        ("GET /runs", "malformed", r"looking for run .*: an answer that is not JSON; check that the host is KFP's API"),
        ("GET /runs", "wrong", r"a list whose entries have no name; check that the host is KFP's API"),
        ("POST /runs", "hang", r"no answer within 0\.3 s; whether it was made is not known; do the same again, which"),
        ("POST /runs", 500, r"500 .*\(made to fail\); whether it was made is not known"),
    ],
)
def test_messages_say_what_was_asked_what_came_and_what_to_do(
    server: StandIn, submission: Submission, call: str, kind: int | str, expected: str
) -> None:
    server.faults = [Fault(call, kind, times=99)]
    with pytest.raises(ShipwayError, match=expected):
        kubeflow.submit(submission)


def test_a_long_retry_after_is_not_waited_for(server: StandIn, submission: Submission) -> None:
    server.faults = [Fault("GET /runs", 429, times=9, headers={"Retry-After": "3600"})]
    with pytest.raises(ShipwayError, match=r"429 .*it asked to wait 3600 s"):
        kubeflow.submit(submission)
    assert server.seen("GET /runs") == 1


def test_no_server_is_one_line(monkeypatch: pytest.MonkeyPatch, submission: Submission) -> None:
    monkeypatch.setattr(kubeflow_calls, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("KFP_HOST", "http://ann:secret-of-ann@127.0.0.1:9/pipeline")
    with pytest.raises(UnreachableError) as raised:
        kubeflow.submit(submission)
    assert str(raised.value).startswith(
        "http://127.0.0.1:9/pipeline: asking for its health: no connection; check the host"
    )


def test_two_at_once_leave_the_earlier_run(
    server: StandIn, submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubeflow, "SETTLE_SECONDS", 1.1)
    monkeypatch.setenv("KFP_TIMEOUT", "30")
    both = threading.Barrier(2)

    def meet(call: str) -> None:
        if call == "POST /runs":
            both.wait(30)

    server.before = meet
    found: list[kubeflow.KubeflowRun] = []
    threads = [threading.Thread(target=lambda: found.append(kubeflow.submit(submission))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(server.runs) == 2
    assert len(server.live) == 1
    assert {run.id for run in found} == {server.live[0]["run_id"]}
    assert sorted(run.created for run in found) == [False, True]
    assert (len(server.pipelines), len(server.versions), len(server.experiments)) == (1, 1, 1)
    server.before = None
    assert kubeflow.submit(submission).id == server.live[0]["run_id"]
    assert len(server.runs) == 2


def test_what_a_race_left_is_cleaned_by_the_next(server: StandIn, submission: Submission) -> None:
    first = kubeflow.submit(submission)
    server.runs.append(server.runs[0] | {"run_id": "later", "created_at": "2099-01-01T00:00:00Z"})
    assert kubeflow.submit(submission).id == first.id
    assert [run["run_id"] for run in server.live] == [first.id]


def test_a_status_shows_the_steps_alone(server: StandIn, submission: Submission) -> None:
    run = kubeflow.submit(submission)

    def task(name: str, state: str, **more: object) -> dict[str, object]:
        node = f"w-{len(server.runs[0]['run_details']['task_details'])}"
        times = {"start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T00:00:07Z"}
        return {"display_name": name, "state": state, "pod_name": node} | times | more

    server.runs[0].update(state="RUNNING", run_details={"task_details": []})
    details = server.runs[0]["run_details"]["task_details"]
    for entry in [
        ("penguins-training-abc", "RUNNING", {}),
        ("root-driver", "SUCCEEDED", {}),
        ("exit-handler-1", "RUNNING", {}),
        ("ingest-driver", "SUCCEEDED", {}),
        ("ingest", "SUCCEEDED", {"child_tasks": [{"pod_name": "w-5"}]}),
        ("executor", "SKIPPED", {"pod_name": "w-system-container-impl-5"}),
        ("validate", "SUCCEEDED", {"child_tasks": [{"pod_name": "w-7"}]}),
        ("executor", "SUCCEEDED", {}),
        ("split", "FAILED", {"error": {"code": 9, "message": "out of\nmemory"}}),
        ("train-driver", "FAILED", {}),
        ("featurize", "SKIPPED", {}),
        ("evaluate", "CACHED", {}),
        ("gate-driver", "SUCCEEDED", {}),
        ("champion", "RUNNING", {"end_time": "0001-01-01T00:00:00Z"}),
    ]:
        details.append(task(entry[0], entry[1], **entry[2]))
    status = run.status()
    assert status.state == "running"
    steps = {step.name: step for step in status.steps}
    assert steps.keys() == {"ingest", "validate", "split", "train", "featurize", "evaluate", "champion"}
    assert steps["ingest"] == RemoteStep("ingest", "succeeded", 7.0, cached=True)
    assert steps["validate"] == RemoteStep("validate", "succeeded", 7.0, cached=False)
    assert steps["split"] == RemoteStep("split", "failed", 7.0, message="out of memory")
    assert steps["train"].state == "failed"
    assert steps["featurize"].state == "skipped"
    assert steps["evaluate"].cached
    assert steps["champion"].seconds > 7
    server.runs[0].update(state="FAILED", error={"code": 2, "message": "the workflow failed"})
    assert (run.status().state, run.status().message) == ("failed", "the workflow failed")


def test_a_step_of_a_loop_is_there_once_for_each_time_around(server: StandIn, submission: Submission) -> None:
    run = kubeflow.submit(submission)
    times = {"start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-01T00:00:07Z"}
    found = [("loop", "a", ["b", "c"]), ("around", "b", ["d"]), ("around", "c", ["e", "f"])]
    found += [("train", "d", []), ("train", "e", []), ("train", "f", [])]
    states = {"d": "SUCCEEDED", "e": "FAILED", "f": "RUNNING"}
    details = [
        {
            "display_name": name,
            "pod_name": f"w-{node}",
            "state": states.get(node, "RUNNING"),
            "child_tasks": [{"pod_name": f"w-{child}"} for child in children],
            **(times | {"start_time": "2026-01-01T00:00:03Z"} if node == "f" else times),
        }
        for name, node, children in found
    ]
    server.runs[0].update(state="RUNNING", run_details={"task_details": details})
    # The second time around was tried again, and the last try counts.
    assert [(step.name, step.state) for step in run.status().steps] == [("train", "succeeded"), ("train", "running")]


def test_a_deleted_run_is_said_to_be_gone(server: StandIn, submission: Submission) -> None:
    run = kubeflow.submit(submission)
    server.runs.clear()
    with pytest.raises(VanishedError, match="no longer there: someone deleted it"):
        run.status()


def test_no_secret_is_in_a_message(
    server: StandIn, submission: Submission, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server.token = TOKEN
    file = tmp_path_factory.mktemp("secrets") / "token"
    file.write_text("another-token-than-that")
    monkeypatch.setenv("KFP_TOKEN_FILE", str(file))
    with pytest.raises(ShipwayError) as raised:
        kubeflow.submit(submission)
    # The stand-in repeats what it was sent, as careless servers do.
    assert "another-token-than-that" not in str(raised.value)
    assert "***" in str(raised.value)
    assert f"sent was the token of {file}" in str(raised.value)
