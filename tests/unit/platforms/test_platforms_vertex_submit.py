"""Submitting to Vertex AI over a real wire: exactly one run, whatever goes wrong on the way."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from google.cloud import aiplatform_v1 as v1
from google.protobuf import json_format
from vertex_runs import kill_at_work, submission
from vertex_stand_in import LOCATION, PARENT, PROJECT, STORE, VertexStandIn

from shipway.endpoints import vertex_client
from shipway.endpoints.client import UnreachableError
from shipway.errors import InputError, ShipwayError
from shipway.platforms import vertex
from shipway.platforms.submission import Submission

Status = grpc.StatusCode
JOB = f"{PARENT}/pipelineJobs/penguins-training-k1"
TRIES = 3


@pytest.fixture(scope="module")
def penguins() -> Submission:
    return submission()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexStandIn]:
    monkeypatch.setattr(vertex_client, "PAUSES", (0.01,) * (TRIES - 1))
    monkeypatch.setattr(vertex_client, "DEADLINE", 5.0)
    monkeypatch.setattr(vertex, "CONTEXT_PAUSE", 0.01)
    with VertexStandIn() as stand_in:
        monkeypatch.setenv(vertex_client.ENDPOINT_VARIABLE, stand_in.endpoint)
        yield stand_in


def with_settings(settings: Sequence[str]) -> Submission:
    return submission(settings)


# The way it goes when nothing goes wrong.


def test_a_run_is_found_without_being_started(server: VertexStandIn, penguins: Submission) -> None:
    assert vertex.find(penguins) is None
    assert not server.jobs
    started = vertex.submit(penguins)
    found = vertex.find(penguins)
    assert found is not None
    assert (found.name, found.link, found.created) == (started.name, started.link, False)
    assert found.status().state == started.status().state


def test_a_submission_starts_the_first_document_under_the_keys_name(server: VertexStandIn) -> None:
    given = with_settings(
        [
            "vertex.service_account=runner@shipway-test.iam.gserviceaccount.com",
            "vertex.network=projects/12345/global/networks/private",
            f"vertex.encryption_key=projects/{PROJECT}/locations/{LOCATION}/keyRings/r/cryptoKeys/k",
            "vertex.labels={team: birds}",
            "kubeflow.ttl=7d",
        ]
    )
    run = vertex.submit(given)
    assert (run.name, run.created) == ("penguins-training-k1", True)
    assert run.link == (
        f"https://console.cloud.google.com/vertex-ai/locations/{LOCATION}/pipelines/runs/{run.name}?project={PROJECT}"
    )
    job = server.jobs[JOB]
    sent = json_format.MessageToDict(v1.PipelineJob.pb(job))
    assert sent["pipelineSpec"] == given.documents[0]
    assert sent["runtimeConfig"] == {
        "gcsOutputDirectory": "gs://bucket/root",
        "parameterValues": dict(given.arguments),
    }
    labels = dict(job.labels)
    assert labels.pop("shipway-attempt")
    assert labels == {
        "team": "birds",
        "shipway-model": "penguins",
        "shipway-key": "k1",
        "shipway-version": "version-of-it",
    }
    assert job.service_account == "runner@shipway-test.iam.gserviceaccount.com"
    assert job.network == "projects/12345/global/networks/private"
    assert job.encryption_spec.kms_key_name.endswith("cryptoKeys/k")


def test_the_run_belongs_to_the_models_experiment(penguins: Submission, server: VertexStandIn) -> None:
    vertex.submit(penguins)
    experiment = server.contexts[f"{STORE}/contexts/penguins"]
    assert experiment.schema_title == "system.Experiment"
    assert server.children == {experiment.name: [f"{STORE}/contexts/penguins-training-k1"]}
    assert server.stores == {STORE}


def test_a_second_submission_finds_the_first_run(penguins: Submission, server: VertexStandIn) -> None:
    first, second = vertex.submit(penguins), vertex.submit(penguins)
    assert (first.created, second.created) == (True, False)
    assert (second.name, second.link) == (first.name, first.link)
    assert list(server.jobs) == [JOB]
    # Nothing of its lineage is done twice either.
    assert [server.count(call) for call in ("CreateContext", "CreateMetadataStore", "AddContextChildren")] == [1, 1, 1]


def test_another_key_is_another_run(penguins: Submission, server: VertexStandIn) -> None:
    vertex.submit(penguins)
    assert vertex.submit(dataclasses.replace(penguins, key="k2")).created
    assert len(server.jobs) == 2


def test_a_job_of_that_id_with_another_key_is_refused(penguins: Submission, server: VertexStandIn) -> None:
    vertex.submit(penguins)
    server.jobs[JOB].labels["shipway-key"] = "someone-elses"
    with pytest.raises(ShipwayError, match="shipway-key=someone-elses, which this command did not start; expected k1"):
        vertex.submit(penguins)


def test_the_pipeline_root_given_wins(penguins: Submission, server: VertexStandIn) -> None:
    vertex.submit(penguins, pipeline_root="gs://elsewhere/x")
    assert server.jobs[JOB].runtime_config.gcs_output_directory == "gs://elsewhere/x"


def test_an_experiment_of_the_specs_own_name(server: VertexStandIn) -> None:
    vertex.submit(with_settings(["vertex.experiment=antarctica"]))
    assert f"{STORE}/contexts/antarctica" in server.children


def test_a_lineage_context_that_comes_late_is_waited_for(penguins: Submission, server: VertexStandIn) -> None:
    server.looks_until_context = 3
    vertex.submit(penguins)
    assert server.count("GetPipelineJob") == 4
    assert len(server.children) == 1


def test_a_lineage_context_later_than_that_is_joined_while_following(
    penguins: Submission, server: VertexStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vertex, "CONTEXT_LOOKS", 2)
    server.looks_until_context = 4
    run = vertex.submit(penguins)
    assert server.children == {}
    for _ in range(4):
        run.status()
    assert len(server.children) == 1
    assert server.count("AddContextChildren") == 1


def test_submissions_at_the_same_time_start_one_run(penguins: Submission, server: VertexStandIn) -> None:
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(vertex.submit, [penguins] * 6))
    assert [run.created for run in runs].count(True) == 1
    assert list(server.jobs) == [JOB]
    assert list(server.children.values()) == [[f"{STORE}/contexts/penguins-training-k1"]]


# What goes wrong on the way, with the create call itself.

LOST = [
    (Status.UNAVAILABLE, False),
    (Status.UNAVAILABLE, True),
    (Status.INTERNAL, False),
    (Status.INTERNAL, True),
    (Status.DEADLINE_EXCEEDED, True),
    (Status.ABORTED, False),
    ("reset", False),
    ("reset", True),
    ("garbage", True),
]


@pytest.mark.parametrize(("what", "after"), LOST)
def test_a_lost_answer_leaves_one_run(penguins: Submission, server: VertexStandIn, what: Any, after: bool) -> None:
    server.order("CreatePipelineJob", what, after=after)
    run = vertex.submit(penguins)
    assert run.created
    assert list(server.jobs) == [JOB]
    # An effect that was there already is found by asking, not by a second try (unless the connection is not up again).
    if what != "reset":
        assert server.count("CreatePipelineJob") == (1 if after else 2)
    assert len(server.children) == 1


@pytest.mark.parametrize("after", [False, True])
def test_a_hang_ends_at_the_deadline_and_leaves_one_run(
    penguins: Submission, server: VertexStandIn, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setattr(vertex_client, "DEADLINE", 0.5)
    server.order("CreatePipelineJob", "hang", after=after)
    assert vertex.submit(penguins).created
    assert list(server.jobs) == [JOB]


@pytest.mark.parametrize("what", [Status.UNAVAILABLE, Status.INTERNAL, "reset", "garbage"])
def test_a_fault_that_stays_ends_in_one_clear_error(penguins: Submission, server: VertexStandIn, what: Any) -> None:
    server.order("CreatePipelineJob", what, times=100)
    with pytest.raises(ShipwayError) as caught:
        vertex.submit(penguins)
    assert server.jobs == {}
    assert server.count("CreatePipelineJob") == TRIES
    assert str(caught.value).startswith(
        "starting run penguins-training-k1: no usable answer from Vertex AI at 127.0.0.1"
    )
    assert "the same command again finds it" in str(caught.value)


def test_an_answer_that_names_no_run_is_no_answer(penguins: Submission, server: VertexStandIn) -> None:
    server.order("CreatePipelineJob", "empty", after=True)
    with pytest.raises(ShipwayError, match="no usable answer from Vertex AI: expected a job of that id"):
        vertex.submit(penguins)
    assert not vertex.submit(penguins).created
    assert list(server.jobs) == [JOB]


def test_the_run_of_another_submission_in_between_is_not_called_ours(
    penguins: Submission, server: VertexStandIn
) -> None:
    vertex.submit(penguins)
    server.order("CreatePipelineJob", Status.UNAVAILABLE)
    assert not vertex.submit(penguins).created


REFUSED = [
    (Status.UNAUTHENTICATED, ShipwayError, "does not accept these credentials.*gcloud auth application-default login"),
    (
        Status.PERMISSION_DENIED,
        ShipwayError,
        f"forbids it .*{PROJECT}.*gcloud services enable aiplatform.googleapis.com",
    ),
    (Status.NOT_FOUND, InputError, "check vertex.project and vertex.location"),
    (Status.INVALID_ARGUMENT, InputError, "refuses it as invalid: as ordered"),
    (Status.FAILED_PRECONDITION, InputError, "refuses it as invalid: as ordered"),
]


# An experiment that is not there is no refusal: it is made.
@pytest.mark.parametrize(
    ("call", "code", "kind", "message"),
    [
        (call, *refused)
        for call in ("GetContext", "CreatePipelineJob")
        for refused in REFUSED
        if (call, refused[0]) != ("GetContext", Status.NOT_FOUND)
    ],
)
def test_a_refusal_is_told_once_and_not_tried_again(
    penguins: Submission, server: VertexStandIn, call: str, code: Any, kind: type[Exception], message: str
) -> None:
    server.order(call, code, times=100)
    with pytest.raises(kind, match=message):
        vertex.submit(penguins)
    assert server.count(call) == 1
    assert server.jobs == {}


def test_an_exhausted_quota_is_waited_for_and_then_named(penguins: Submission, server: VertexStandIn) -> None:
    server.order("CreatePipelineJob", Status.RESOURCE_EXHAUSTED, quota="custom_model_training_nvidia_t4_gpus")
    assert vertex.submit(penguins).created
    server.order(
        "CreatePipelineJob", Status.RESOURCE_EXHAUSTED, quota="custom_model_training_nvidia_t4_gpus", times=100
    )
    before = server.count("CreatePipelineJob")
    with pytest.raises(UnreachableError, match=r"exhausted \(custom_model_training_nvidia_t4_gpus\)") as caught:
        vertex.submit(dataclasses.replace(penguins, key="k2"))
    assert server.count("CreatePipelineJob") == before + TRIES
    assert "may have been started" not in str(caught.value)


def test_a_location_that_is_not_there(server: VertexStandIn) -> None:
    with pytest.raises(InputError, match=r"asia-east9\): Location .* check vertex.project and vertex.location"):
        vertex.submit(with_settings(["vertex.location=asia-east9"]))
    assert server.jobs == {}


# What goes wrong with the experiment.


@pytest.mark.parametrize("what", [Status.UNAVAILABLE, Status.INTERNAL, "reset", "garbage"])
@pytest.mark.parametrize("call", ["GetContext", "GetMetadataStore", "CreateMetadataStore", "CreateContext"])
def test_a_passing_fault_before_the_run_is_tried_again(
    penguins: Submission, server: VertexStandIn, call: str, what: Any
) -> None:
    server.order(call, what, after=call.startswith("Create"))
    assert vertex.submit(penguins).created
    assert len(server.jobs) == len(server.children) == 1


def test_an_experiment_that_cannot_be_made_starts_no_run(penguins: Submission, server: VertexStandIn) -> None:
    server.order("CreateContext", Status.PERMISSION_DENIED)
    with pytest.raises(ShipwayError, match="making experiment penguins: Vertex AI forbids it"):
        vertex.submit(penguins)
    assert server.jobs == {}


def test_a_run_whose_experiment_fails_is_told_of_and_mended_by_the_same_command(
    penguins: Submission, server: VertexStandIn
) -> None:
    server.order("AddContextChildren", Status.PERMISSION_DENIED)
    with pytest.raises(ShipwayError, match=r"run penguins-training-k1 goes on .* but without its experiment"):
        vertex.submit(penguins)
    assert not vertex.submit(penguins).created
    assert len(server.jobs) == len(server.children) == 1


def test_a_context_that_is_no_experiment_is_refused(penguins: Submission, server: VertexStandIn) -> None:
    server.contexts[f"{STORE}/contexts/penguins"] = v1.Context(schema_title="system.Pipeline")
    with pytest.raises(InputError, match=r"is a system.Pipeline, no experiment; name another in vertex.experiment"):
        vertex.submit(penguins)
    assert server.jobs == {}


# What is refused before anything is asked.

BAD = [
    (["vertex.location=evil.example.com/"], "expected a region"),
    (["vertex.project=a/b"], "expected a project's id"),
    (["vertex.labels={Team: x}"], "vertex.labels"),
    (["vertex.labels={shipway-key: x}"], "none that begins with shipway-"),
    (["vertex.network=default"], "vertex.network: expected projects/NUMBER"),
    (["vertex.encryption_key=k"], "vertex.encryption_key: expected"),
    (["vertex.experiment=Flights 2"], "vertex.experiment: expected"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_a_malformed_setting_is_refused(server: VertexStandIn, settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        vertex.submit(with_settings(settings))
    assert server.calls == []


@pytest.mark.parametrize(("root", "message"), [("", "vertex.pipeline_root: where"), ("s3://bucket/x", "found 's3://")])
def test_the_artifacts_must_go_to_cloud_storage(server: VertexStandIn, root: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        vertex.submit(with_settings(["vertex.pipeline_root=null"]), pipeline_root=root)
    assert server.calls == []


@pytest.mark.usefixtures("server")
def test_the_project_comes_from_the_environment_else_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given = with_settings(["vertex.project=null"])
    for name in vertex_client.PROJECT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"no project; set it in the spec, or \$GOOGLE_CLOUD_PROJECT"):
        vertex.submit(given)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", PROJECT)
    assert vertex.submit(given).created


def test_an_accelerator_that_vertex_does_not_know(server: VertexStandIn) -> None:
    given = with_settings(["resources.train.accelerator={type: T4, count: 1}"])
    assert vertex.submit(given).created
    wrong = dataclasses.replace(given, text=given.text.replace("NVIDIA_TESLA_T4", "nvidia.com/gpu"), key="k2")
    with pytest.raises(
        InputError, match=r"resources.train.accelerator: Vertex AI knows no accelerator 'nvidia.com/gpu'"
    ):
        vertex.submit(wrong)
    assert list(server.jobs) == [JOB]


def test_what_is_no_compiled_pipeline(penguins: Submission) -> None:
    with pytest.raises(InputError, match="expected a compiled pipeline"):
        vertex.submit(dataclasses.replace(penguins, text="platforms: {}\n"))


def test_without_googles_client(penguins: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.aiplatform_v1", None)
    with pytest.raises(InputError, match=r"install it with `pip install 'shipway\[vertex\]'`"):
        vertex.submit(penguins)


REGISTRY = "vertex.variables={MLFLOW_TRACKING_URI: https://mlflow.example.com}"
SECRET = "kubeflow.secrets=[{variable: TOKEN, secret: s, key: k}]"


def test_a_secret_that_a_step_needs_is_refused(server: VertexStandIn) -> None:
    with pytest.raises(InputError, match=r"kubeflow.secrets: variable TOKEN .* --set kubeflow.secrets=\[\]"):
        vertex.submit(with_settings([SECRET]))
    with pytest.raises(InputError, match=r"kubeflow.config_map: the variables of config map m"):
        vertex.submit(with_settings(["kubeflow.config_map=m"]))
    assert server.calls == []
    given = "vertex.variables={TOKEN: path, MLFLOW_TRACKING_URI: https://mlflow.example.com}"
    assert vertex.submit(with_settings([SECRET, "kubeflow.config_map=m", given])).created


def test_what_is_dropped_is_told_a_line_each() -> None:
    usual = with_settings([REGISTRY])
    assert [line.partition(":")[0] for line in vertex.warnings(usual.spec)] == ["endpoint.kind"]
    assert vertex.warnings(with_settings([REGISTRY, "endpoint.kind=vertex"]).spec) == []
    given = with_settings(
        [
            "resources.default={timeout: 2h}",
            "resources.train={node_selector: {pool: gpu}, tolerations: [{key: gpu}], shared_memory: 2Gi, spot: true, "
            "timeout: 9h}",
            "kubeflow={service_account: s, volume: {claim: c}, image_pull_secrets: [p], ttl: 7d, deadline: 1d, "
            "security_context: {run_as_user: 1000}, config_map: m, secrets: [{variable: T, secret: s, key: k}]}",
        ]
    )
    lines = vertex.warnings(given.spec)
    assert [line.partition(":")[0] for line in lines] == [
        "resources.train.node_selector",
        "resources.train.tolerations",
        "resources.train.shared_memory",
        "resources.train.spot",
        "resources.default.timeout, resources.train.timeout",
        "kubeflow.service_account",
        "kubeflow.volume",
        "kubeflow.image_pull_secrets",
        "kubeflow.security_context",
        "kubeflow.deadline",
        "kubeflow.ttl",
        "kubeflow.config_map",
        "kubeflow.secrets",
        "vertex.variables",
        "endpoint.kind",
    ]
    assert all("\n" not in line for line in lines)


# Where and as whom.


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://aiplatform.example.com", "credentials do not go over plain http"),
        ("http://127.0.0.1.example.com:80", "credentials do not go over plain http"),
        ("ftp://127.0.0.1", "expected a host"),
        ("https://user@host/", "expected a host"),
        ("https://host/path", "expected a host"),
    ],
)
def test_a_plain_or_malformed_endpoint_is_refused(
    penguins: Submission, monkeypatch: pytest.MonkeyPatch, endpoint: str, message: str
) -> None:
    monkeypatch.setenv(vertex_client.ENDPOINT_VARIABLE, endpoint)
    with pytest.raises(InputError, match=message):
        vertex.submit(penguins)


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nobody has logged in."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", vertex_client.ENDPOINT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    return tmp_path


@pytest.mark.usefixtures("nobody")
def test_no_credentials(penguins: Submission) -> None:
    with pytest.raises(
        ShipwayError, match=r"no Google credentials were found for Vertex AI.*application-default login"
    ):
        vertex.submit(penguins)


def test_credentials_that_give_no_token(penguins: Submission, nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    class NoToken(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(400)
            self.end_headers()
            self.wfile.write(json.dumps({"error": "invalid_grant", "error_description": "key revoked"}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), NoToken) as tokens:
        Thread(target=tokens.serve_forever, daemon=True).start()
        account = {
            "type": "service_account",
            "client_email": "x@y.iam.gserviceaccount.com",
            "private_key": key.decode(),
            "token_uri": f"http://127.0.0.1:{tokens.server_port}/token",
        }
        file = nobody / "key.json"
        file.write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        with pytest.raises(ShipwayError, match=r"gave no token for Vertex AI.*key revoked") as caught:
            vertex.submit(penguins)
        tokens.shutdown()
    assert "PRIVATE KEY" not in str(caught.value)


# Killed at any point, and run again.

CALLS = [
    "GetContext",
    "GetMetadataStore",
    "CreateMetadataStore",
    "CreateContext",
    "CreatePipelineJob",
    "GetPipelineJob",
    "AddContextChildren",
]


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS)
def test_killed_at_any_call_and_run_again_leaves_one_run(
    penguins: Submission, server: VertexStandIn, call: str, after: bool
) -> None:
    server.order(call, "kill", after=after)
    kill_at_work(server, penguins)
    started = bool(server.jobs)
    assert started == (CALLS.index(call) + after > CALLS.index("CreatePipelineJob"))
    run = vertex.submit(penguins)
    assert run.created != started
    assert list(server.jobs) == [JOB]
    assert list(server.children.values()) == [[f"{STORE}/contexts/penguins-training-k1"]]
    assert set(server.contexts) == {f"{STORE}/contexts/penguins", f"{STORE}/contexts/penguins-training-k1"}
