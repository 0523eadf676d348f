"""The Vertex AI endpoint over a real wire: what it asks Google for, and what becomes of it when things break."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_vertex import IMAGE, blessed_release, settings, surroundings
from vertex_endpoints_stand_in import EndpointsStandIn
from vertex_stand_in import PARENT, PROJECT, Status, expect

from shipway.endpoints import vertex_client, vertex_resource
from shipway.endpoints.client import UnreachableError
from shipway.endpoints.control import Control, read_control, write_control
from shipway.endpoints.protocol import ConflictError, NotReadyError, UnsupportedError, revision_id
from shipway.endpoints.vertex import VertexEndpoint
from shipway.endpoints.vertex_state import bounded, endpoint_id, facts_of
from shipway.errors import InputError, ShipwayError
from shipway.lineage import storage
from shipway.lineage.documents import Release
from shipway.spec.rollout import EndpointSettings

CONTROL = "gs://models/control/flights-production.json"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EndpointsStandIn]:
    stand_in = EndpointsStandIn()
    with surroundings(stand_in, tmp_path):
        yield stand_in


@pytest.fixture
def endpoint(server: EndpointsStandIn) -> VertexEndpoint:
    assert server.endpoint
    return opened()


@pytest.fixture
def first(tmp_path: Path) -> Release:
    return blessed_release(tmp_path, "1")


@pytest.fixture
def second(tmp_path: Path) -> Release:
    return blessed_release(tmp_path, "2")


def opened(given: EndpointSettings | None = None) -> VertexEndpoint:
    return VertexEndpoint("flights", given or settings(), "production")


def serve(endpoint: VertexEndpoint, release: Release) -> str:
    endpoint.stage(release)
    name = revision_id(release.version, release.digest)
    endpoint.shift({name: 100})
    return name


def put(endpoint: VertexEndpoint, release: Release) -> str:
    endpoint.stage(release)
    return revision_id(release.version, release.digest)


# What Google is asked for.


def test_a_release_becomes_a_version_of_one_model(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release, second: Release
) -> None:
    old, new = serve(endpoint, first), put(endpoint, second)
    assert list(server.models) == [f"{PARENT}/models/shipway-flights"]
    versions = server.models[f"{PARENT}/models/shipway-flights"]
    assert [list(one.version_aliases) for one in versions] == [[old], [new]]
    labels = dict(versions[1].labels)
    assert labels.pop("shipway-content")
    assert labels == {
        "shipway-model": "flights",
        "shipway-version": "2",
        "shipway-digest": second.digest.removeprefix("sha256:")[:63],
    }
    spec = server.specs[f"{PARENT}/models/shipway-flights", "2"]
    assert spec.container_spec.image_uri == IMAGE
    assert list(spec.container_spec.args) == [
        *("--name", "flights", "--version", "2", "--digest", second.digest, "--revision", new)
    ]
    variables = {one.name: one.value for one in spec.container_spec.env}
    assert json.loads(variables["SHIPWAY_BLESSING"])["model_digest"] == second.digest
    assert variables["SHIPWAY_CONTROL"] == CONTROL
    assert spec.artifact_uri == f"gs://models/shipway/packages/{second.digest.removeprefix('sha256:')}"
    assert "package.json" in storage.names(spec.artifact_uri)


def test_the_same_again_uploads_and_deploys_nothing(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release
) -> None:
    put(endpoint, first)
    before = dict.fromkeys(("UploadModel", "DeployModel", "UpdateEndpoint", "CreateEndpoint"), 0)
    before = {call: server.count(call) for call in before}
    opened().stage(first)
    assert {call: server.count(call) for call in before} == before


def test_a_package_in_google_cloud_storage_is_used_where_it_lies(server: EndpointsStandIn, first: Release) -> None:
    storage.upload(Path(first.package_uri), "gs://models/mlflow/flights/1")
    release = first.model_copy(update={"package_uri": "gs://models/mlflow/flights/1"})
    put(opened(settings(vertex={"machine_type": "n1-standard-4"})), release)
    (spec,) = server.specs.values()
    assert spec.artifact_uri == "gs://models/mlflow/flights/1"
    (deployed,) = server.primary().deployed_models
    assert deployed.dedicated_resources.machine_spec.machine_type == "n1-standard-4"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (settings(vertex={"machine_type": "n1-standard-2"}), "set endpoint.vertex.artifacts to a folder"),
        (settings().model_copy(update={"image": ""}), "set endpoint.vertex.image to one in Artifact Registry"),
    ],
    ids=["artifacts", "image"],
)
def test_what_is_not_set_is_told_before_anything_is_asked(
    server: EndpointsStandIn, first: Release, given: EndpointSettings, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        opened(given).stage(first)
    assert (server.models, server.endpoints) == ({}, {})


def test_ids_and_labels_are_such_as_vertex_takes() -> None:
    assert endpoint_id("flights", "production") == "shipway-flights-production"
    long = endpoint_id("f" * 50, "production", "v12-1a2b3c4d-baseline")
    assert len(long) <= 63
    assert long != endpoint_id("f" * 50, "production", "v13-1a2b3c4d-baseline")
    assert bounded("1.2") != bounded("1-2")


def test_an_endpoint_of_somebody_else_is_left_alone(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release
) -> None:
    put(endpoint, first)
    server.primary().labels["shipway-model"] = "trains"
    with pytest.raises(ShipwayError, match="shipway-model=trains, expected flights"):
        endpoint.status()


def test_a_description_of_somebody_else_is_told_of(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release
) -> None:
    put(endpoint, first)
    server.primary().description = "our endpoint for flights"
    with pytest.raises(ShipwayError, match="its description is not Shipway's any more"):
        endpoint.status()


# Mirroring, and asking one revision.


def test_a_candidate_gets_a_shadow_that_the_servers_are_told_of(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release, second: Release
) -> None:
    old, new = serve(endpoint, first), put(endpoint, second)
    shadow = f"{PARENT}/endpoints/shipway-flights-production-{new}-shadow"
    assert set(server.endpoints) == {server.primary().name, shadow}
    (deployed,) = server.endpoints[shadow].deployed_models
    assert dict(server.endpoints[shadow].traffic_split) == {deployed.id: 100}
    endpoint.mirror(new, 40)
    told = read_control(CONTROL).mirror
    assert told is not None
    assert (told.revision, told.percent, told.auth) == (new, 40, "none")
    assert told.url == f"{server.endpoint}/v1/{shadow}:rawPredict"
    endpoint.shift({old: 90, new: 10})
    assert read_control(CONTROL).mirror is None
    endpoint.shift({new: 100})
    endpoint.retire(old)
    assert set(server.endpoints) == {server.primary().name}


def test_servers_that_were_not_told_are_told_by_the_next(
    endpoint: VertexEndpoint, first: Release, second: Release
) -> None:
    serve(endpoint, first)
    new = put(endpoint, second)
    endpoint.mirror(new, 100)
    # As if the controller had been killed between the two.
    write_control(CONTROL, Control())
    found = opened().status().revision(new)
    assert found is not None
    assert found.mirror == 0
    again = opened().mirror(new, 100).revision(new)
    assert again is not None
    assert again.mirror == 100


def test_without_a_control_folder_the_endpoint_says_what_to_set(
    server: EndpointsStandIn, first: Release, second: Release
) -> None:
    endpoint = opened(settings(control=None))
    serve(endpoint, first)
    new = put(endpoint, second)
    assert len(server.endpoints) == 1
    with pytest.raises(UnsupportedError, match=r"set endpoint\.control to a folder in Google Cloud Storage"):
        endpoint.mirror(new, 10)
    with pytest.raises(UnsupportedError, match=r"set endpoint\.control to a folder in Google Cloud Storage"):
        endpoint.predict(new, [{}])


def test_a_control_document_that_cannot_be_read_does_not_hide_the_endpoint(
    endpoint: VertexEndpoint, first: Release
) -> None:
    old = serve(endpoint, first)
    storage.write_bytes(CONTROL, b"no document")
    live = opened().status().live
    assert live is not None
    assert live.id == old


@pytest.mark.parametrize("call", ["CreateEndpoint", "DeployModel"])
def test_a_shadow_that_fails_is_told_of_and_tried_again(
    server: EndpointsStandIn,
    endpoint: VertexEndpoint,
    first: Release,
    second: Release,
    call: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = serve(endpoint, first)
    real = getattr(server, call)

    def refuse(request: Any) -> Any:
        named = request.endpoint if call == "DeployModel" else request.endpoint_id
        expect(not named.endswith("-shadow"), "no more of these")
        return real(request)

    with monkeypatch.context() as patched:
        patched.setattr(server, call, refuse)
        with pytest.raises(InputError, match="no more of these"):
            endpoint.stage(second)
    new = revision_id("2", second.digest)
    assert {one.id: (one.share, one.ready) for one in endpoint.status().revisions} == {old: (100, True), new: (0, True)}
    endpoint.stage(second)
    assert read_control(CONTROL).mirror is None
    assert sorted(len(one.deployed_models) for one in server.endpoints.values()) == [1, 2]


def test_traffic_comes_back_though_the_control_folder_is_out_of_reach(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release, second: Release
) -> None:
    old, new = serve(endpoint, first), put(endpoint, second)
    endpoint.shift({old: 50, new: 50})
    storage.write_bytes(CONTROL, b"no document")
    assert endpoint.shift({old: 100}).revisions[0].share == 100
    assert dict(server.primary().traffic_split) == {server.deployed(old).id: 100}


# Faults.


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (9, "Model server never became ready", "Model server never became ready"),
        (8, "CustomModelServingCPUsPerProjectPerRegion", "quota of project .* is exhausted: CustomModelServing"),
        (1, "", "somebody cancelled it"),
        (13, "INTERNAL", "INTERNAL"),
    ],
)
def test_a_deployment_that_fails_leaves_what_was_there(
    server: EndpointsStandIn,
    endpoint: VertexEndpoint,
    first: Release,
    second: Release,
    code: int,
    said: str,
    expected: str,
) -> None:
    old = serve(endpoint, first)
    before = [(one.id, one.share, one.ready) for one in endpoint.status().revisions]
    server.refuse_code, server.refuse_deploy = code, said or "x"
    with pytest.raises(NotReadyError, match=f"(?s)flights version 2.*{expected}"):
        endpoint.stage(second)
    assert [(one.id, one.share, one.ready) for one in endpoint.status().revisions] == before == [(old, 100, True)]
    server.refuse_deploy = ""
    endpoint.stage(second)
    assert len(server.primary().deployed_models) == 2
    assert len(server.models[f"{PARENT}/models/shipway-flights"]) == 2


def test_a_deployment_that_takes_too_long_is_waited_for_by_the_next(
    server: EndpointsStandIn, first: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = opened(settings(vertex={"artifacts": "gs://models/shipway", "ready_timeout": "1s", "machine_type": "m"}))
    real = server.DeployModel

    def endless(request: Any) -> Any:
        server.looks = 10**9
        try:
            return real(request)
        finally:
            server.looks = 1

    monkeypatch.setattr(server, "DeployModel", endless)
    with pytest.raises(NotReadyError, match=r"has not ended it in time .* the same again waits for it"):
        slow.stage(first)
    (waiting,) = slow.status().revisions
    assert not waiting.ready
    for work in server.works.values():
        work.looks = 1
    slow.stage(first)
    assert [one.ready for one in slow.status().revisions] == [True]
    assert len(server.primary().deployed_models) == 1


@pytest.mark.parametrize("call", ["UploadModel", "CreateEndpoint", "UpdateEndpoint", "DeployModel", "GetOperation"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("what", ["reset", Status.UNAVAILABLE])
def test_a_connection_that_breaks_off_is_made_up_for(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release, call: str, after: bool, what: Any
) -> None:
    server.order(call, what, after=after)
    name = serve(endpoint, first)
    assert len(server.primary().deployed_models) == 1
    assert len(server.models[f"{PARENT}/models/shipway-flights"]) == 1
    live = endpoint.status().live
    assert live is not None
    assert (live.id, live.share) == (name, 100)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_shift_whose_answer_is_lost_is_no_conflict(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release, second: Release, after: bool
) -> None:
    old, new = serve(endpoint, first), put(endpoint, second)
    seen = endpoint.status().generation
    server.order("UpdateEndpoint", "reset", after=after)
    status = endpoint.shift({old: 50, new: 50}, expect=seen)
    assert {one.id: one.share for one in status.revisions} == {old: 50, new: 50}


def test_an_undeployment_whose_answer_is_lost_is_made_up_for(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release, second: Release
) -> None:
    old, new = serve(endpoint, first), put(endpoint, second)
    server.order("UndeployModel", "reset", after=True)
    assert [one.id for one in endpoint.retire(new).revisions] == [old]
    assert [one.display_name for one in server.primary().deployed_models] == [old]


def test_another_etag_alone_is_no_conflict_and_a_change_in_the_console_is(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release, second: Release
) -> None:
    old, new = serve(endpoint, first), put(endpoint, second)
    seen = endpoint.status().generation
    server.touch(server.primary())
    seen = endpoint.shift({old: 80, new: 20}, expect=seen).generation
    server.primary().traffic_split = {server.deployed(old).id: 100}
    server.touch(server.primary())
    with pytest.raises(ConflictError, match="somebody else has changed the endpoint meanwhile"):
        endpoint.shift({old: 50, new: 50}, expect=seen)


def test_a_write_that_was_overtaken_is_decided_again(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(endpoint, first)
    real, times = server.UpdateEndpoint, iter([True, True])

    def overtaken(request: Any) -> Any:
        if next(times, False):
            server.touch(server.primary())
        return real(request)

    monkeypatch.setattr(server, "UpdateEndpoint", overtaken)
    assert endpoint.shift({name: 100}).revisions[0].share == 100
    assert server.count("UpdateEndpoint") >= 3


REFUSALS: list[tuple[Any, dict[str, str], type[ShipwayError], str]] = [
    (
        Status.PERMISSION_DENIED,
        {"reason": "SERVICE_DISABLED"},
        ShipwayError,
        rf"gcloud services enable aiplatform.googleapis.com --project {PROJECT}`$",
    ),
    (
        Status.PERMISSION_DENIED,
        {"reason": "IAM_PERMISSION_DENIED"},
        ShipwayError,
        r"; get the role that docs/vertex.md names$",
    ),
    (Status.UNAUTHENTICATED, {}, ShipwayError, "does not accept these credentials"),
    (Status.INVALID_ARGUMENT, {}, InputError, "refuses it as invalid: as ordered"),
]


@pytest.mark.parametrize(("what", "more", "kind", "said"), REFUSALS)
def test_a_refusal_is_one_clear_line(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release, what: Any, more: Any, kind: Any, said: str
) -> None:
    server.order("DeployModel", what, **more)
    with pytest.raises(kind, match=said) as caught:
        endpoint.stage(first)
    assert "\n" not in str(caught.value)
    assert "staging flights version 1" in str(caught.value)
    assert endpoint.status().revisions == ()


def test_an_exhausted_quota_names_it(server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release) -> None:
    server.order("DeployModel", Status.RESOURCE_EXHAUSTED, times=9, quota="custom_model_serving_cpus")
    with pytest.raises(UnreachableError, match=r"a quota of .* is exhausted \(custom_model_serving_cpus\)"):
        endpoint.stage(first)


@pytest.mark.usefixtures("server")
def test_another_region_is_told() -> None:
    given = settings()
    elsewhere = given.model_copy(update={"vertex": given.vertex.model_copy(update={"location": "asia-east1"})})
    with pytest.raises(InputError, match=r"asia-east1\): .* check vertex.project and vertex.location"):
        opened(elsewhere).status()


def test_without_a_project_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in vertex_client.PROJECT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    given = settings()
    nowhere = given.model_copy(update={"vertex": given.vertex.model_copy(update={"project": None})})
    with pytest.raises(InputError, match="no project"):
        opened(nowhere)


# Killed at work.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "after"),
    [
        ("UploadModel", True),
        ("CreateEndpoint", True),
        ("UpdateEndpoint", True),
        ("DeployModel", False),
        ("DeployModel", True),
    ],
)
def test_whoever_comes_after_a_kill_goes_on(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release, call: str, after: bool
) -> None:
    server.order(call, "kill", after=after)
    kill_at_work(server, first)
    name = serve(endpoint, first)
    assert [one.display_name for one in server.primary().deployed_models] == [name]
    assert len(server.models[f"{PARENT}/models/shipway-flights"]) == 1
    assert list(facts_of(server.primary()).revisions) == [name]
    assert endpoint.status().live is not None


@pytest.mark.slow
def test_a_retirement_that_was_killed_is_ended_by_the_next(
    server: EndpointsStandIn, endpoint: VertexEndpoint, first: Release
) -> None:
    name = put(endpoint, first)
    server.order("UndeployModel", "kill")
    kill_at_work(server, first, name)
    (found,) = endpoint.status().revisions
    assert (found.ready, found.reason) == (False, "it is being taken away")
    assert endpoint.retire(name).revisions == ()
    assert not server.primary().deployed_models


def kill_at_work(server: EndpointsStandIn, release: Release, retired: str = "") -> None:
    """Lets a process of its own stage, or retire, until the stand-in, as ordered, kills it."""
    processes = multiprocessing.get_context("spawn")
    process = processes.Process(target=_work, args=(dict(os.environ), release, retired))
    process.start()
    assert process.pid
    server.victim = process.pid
    process.join(120)
    try:
        assert process.exitcode == -signal.SIGKILL
    finally:
        process.kill()


def _work(environment: dict[str, str], release: Release, retired: str) -> None:
    os.environ.update(environment)
    vertex_resource.POLL_SECONDS = 0.02
    endpoint = opened()
    if retired:
        endpoint.retire(retired)
    else:
        endpoint.stage(release)
    time.sleep(120)
