"""The endpoint on KServe beyond the contract: what KServe makes of our objects, reasons, fences, and broken wires."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_kserve import KServeSubject, Mode
from kserve_stand_in import Fault, StandIn, cluster, kubeconfig
from serving_process import until

from shipway.endpoints import kserve_objects
from shipway.endpoints.kserve import KServeEndpoint
from shipway.endpoints.protocol import ConflictError, NotReadyError, UnsupportedError, revision_id
from shipway.errors import InputError, ShipwayError
from shipway.lineage.documents import Release

pytestmark = pytest.mark.slow


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode = "raw") -> Iterator[KServeSubject]:
    with cluster(folder / "cluster") as state:
        monkeypatch.setenv("KUBECONFIG", str(folder / "cluster" / "kubeconfig"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setenv("SHIPWAY_STATE", str(folder / "state"))
        yield KServeSubject(folder, state, f"{state.url}/no-prometheus", mode)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KServeSubject]:
    yield from opened(tmp_path, monkeypatch)


@pytest.fixture
def serverless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KServeSubject]:
    yield from opened(tmp_path, monkeypatch, "serverless")


def serve(subject: KServeSubject, version: str = "1") -> str:
    release = subject.release(version)
    subject.endpoint.stage(release)
    revision = revision_id(version, release.digest)
    subject.endpoint.shift({revision: 100})
    return revision


def put(subject: KServeSubject, version: str) -> str:
    release = subject.release(version)
    subject.endpoint.stage(release)
    return revision_id(version, release.digest)


def service(state: StandIn) -> dict[str, Any]:
    return state.services["flights"]


def test_no_pod_restarts_from_the_first_step_to_the_promotion_and_back(raw: KServeSubject) -> None:
    old, new = serve(raw, "1"), put(raw, "2")
    before = raw.cluster.uids()
    assert before.keys() == {f"flights-{old}-predictor", f"flights-{new}-predictor"}
    for shares in ({old: 99, new: 1}, {old: 50, new: 50}, {new: 100}, {old: 100}):
        raw.endpoint.shift(shares)
        raw.endpoint.write_record(json.dumps(shares))
        routed = {name: percent for name, percent in shares.items() if percent}
        assert raw.cluster.weights("flights") == {
            f"flights-{name}-predictor": percent for name, percent in routed.items()
        }
        assert raw.cluster.uids() == before


def test_staging_says_under_which_name_it_is_served(raw: KServeSubject) -> None:
    staging = KServeEndpoint("flights", raw.settings(), "staging", poll_seconds=0.05)
    assert (staging.status().name, staging.status().served_as) == ("flights", "flights-staging")
    assert raw.endpoint.status().served_as == "flights"


def test_the_stable_revision_keeps_its_replicas_beside_a_canary(raw: KServeSubject) -> None:
    old, new = serve(raw, "1"), put(raw, "2")
    raw.endpoint.shift({old: 95, new: 5})
    raw.cluster.weights("flights")
    assert raw.cluster.workloads.replicas == {f"flights-{old}-predictor": 1, f"flights-{new}-predictor": 1}
    spec = service(raw.cluster)["spec"]
    assert (spec["predictor"]["minReplicas"], spec["predictor"]["maxReplicas"]) == (2, 3)
    assert spec["canary"][0]["predictor"].keys().isdisjoint({"maxReplicas", "scaleMetric", "scaleTarget"})


def test_what_changes_is_not_on_the_inference_service(raw: KServeSubject) -> None:
    serve(raw, "1")
    before = json.dumps(service(raw.cluster)["metadata"]["annotations"])
    generation = service(raw.cluster)["metadata"]["generation"]
    raw.endpoint.write_record("mine")
    after = service(raw.cluster)["metadata"]
    assert (json.dumps(after["annotations"]), after["generation"]) == (before, generation)
    assert "blessed" in json.dumps(service(raw.cluster)["spec"])


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("unschedulable", "finds no node: 0/3 nodes are available: 3 Insufficient memory"),
        ("image", 'ImagePullBackOff: Back-off pulling image "shipway/server:0"'),
        ("initializer", "init container storage-initializer .* code 1 .* it said: .*403.*Forbidden"),
        ("killed", "code 137 .OOMKilled., CrashLoopBackOff"),
    ],
)
def test_a_revision_that_never_becomes_ready_is_told_why_and_taken_away(
    raw: KServeSubject, trouble: str, said: str
) -> None:
    old = serve(raw, "1")
    release = raw.release("2")
    raw.cluster.workloads.troubles[revision_id("2", release.digest)] = trouble
    endpoint = KServeEndpoint("flights", raw.settings(ready_timeout="1s"), "production", poll_seconds=0.05)
    with pytest.raises(NotReadyError, match=f"flights version 2.*{said}"):
        endpoint.stage(release)
    assert [revision.id for revision in endpoint.status().revisions] == [old]
    assert raw.cluster.weights("flights") == {f"flights-{old}-predictor": 100}
    raw.cluster.workloads.troubles.clear()
    assert len(raw.endpoint.stage(release).revisions) == 2


def test_hopeless_pods_are_not_waited_for(raw: KServeSubject) -> None:
    release = raw.release("1")
    raw.cluster.workloads.troubles["flights"] = "killed"
    begun = time.monotonic()
    with pytest.raises(NotReadyError, match="OOMKilled"):
        KServeEndpoint("flights", raw.settings(ready_timeout="10m"), "production", poll_seconds=0.05).stage(release)
    assert time.monotonic() - begun < 300
    assert raw.cluster.services == {}


def test_kserves_own_writing_does_not_look_like_another_controller(raw: KServeSubject) -> None:
    old, new = serve(raw, "1"), put(raw, "2")
    seen = raw.endpoint.status().generation

    def write() -> None:
        status = service(raw.cluster).setdefault("status", {})
        status["annotations"] = {"somebody": str(time.monotonic_ns())}
        service(raw.cluster)["metadata"]["resourceVersion"] = raw.cluster.next_version()

    raw.cluster.before += [("^PUT .*inferenceservices/flights$", write)] * 3
    after = raw.endpoint.shift({old: 90, new: 10}, expect=seen)
    assert raw.cluster.before == []
    assert {revision.id: revision.share for revision in after.revisions} == {old: 90, new: 10}


def test_who_was_overtaken_between_its_two_writes_changes_nothing(
    raw: KServeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = serve(raw, "1"), put(raw, "2")
    slow, quick = raw.endpoint, raw.endpoint
    seen = slow.status().generation
    # The slow one has replaced the Lease, and falls asleep; the other takes over by a mere record.
    asleep, awake = threading.Event(), threading.Event()
    replace = slow._store._replace

    def sleep(*arguments: Any) -> None:
        asleep.set()
        assert awake.wait(30)
        replace(*arguments)

    monkeypatch.setattr(slow._store, "_replace", sleep)
    failed: list[ShipwayError] = []

    def shift() -> None:
        try:
            slow.shift({old: 50, new: 50}, expect=seen)
        except ConflictError as error:
            failed.append(error)

    thread = threading.Thread(target=shift)
    thread.start()
    assert asleep.wait(30)
    quick.write_record("the other's")
    awake.set()
    thread.join(30)
    assert len(failed) == 1
    assert raw.cluster.weights("flights") == {f"flights-{old}-predictor": 100}
    assert raw.endpoint.status().record == "the other's"


def test_a_change_by_hand_is_noticed(raw: KServeSubject) -> None:
    old, new = serve(raw, "1"), put(raw, "2")
    seen = raw.endpoint.status().generation
    service(raw.cluster)["spec"]["canary"][0]["trafficPercent"] = 30
    service(raw.cluster)["metadata"]["generation"] += 1
    service(raw.cluster)["metadata"]["resourceVersion"] = raw.cluster.next_version()
    with pytest.raises(ConflictError):
        raw.endpoint.shift({old: 90, new: 10}, expect=seen)
    found = raw.endpoint.status().revision(new)
    assert found is not None
    assert found.share == 30


@pytest.mark.parametrize("kind", ["reset", 503, "after"])
def test_a_wire_that_breaks_is_tried_again_and_nothing_happens_twice(raw: KServeSubject, kind: int | str) -> None:
    old, new = serve(raw, "1"), put(raw, "2")
    raw.cluster.faults += [
        Fault("^GET .*inferenceservices/flights$", kind if kind != "after" else "reset"),
        Fault("^PUT .*leases/", kind),
        Fault("^PUT .*inferenceservices/flights$", kind),
    ]
    seen = raw.endpoint.status().generation
    after = raw.endpoint.shift({old: 90, new: 10}, expect=seen)
    assert [fault.times for fault in raw.cluster.faults] == [0, 0, 0]
    assert after.revision(new) is not None
    assert raw.cluster.weights("flights") == {f"flights-{old}-predictor": 90, f"flights-{new}-predictor": 10}


def test_without_a_cluster_one_line_says_so(
    raw: KServeSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nobody").write_text(json.dumps(kubeconfig("http://127.0.0.1:9")))
    (tmp_path / "wrong").write_text(json.dumps(kubeconfig(raw.cluster.url, "another token")))
    for name, kind, said in (
        ("missing", InputError, "set KUBECONFIG"),
        ("nobody", ShipwayError, r"no answer from Kubernetes at http://127.0.0.1:9 .*refused"),
        ("wrong", InputError, "refuses the credentials"),
    ):
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / name))
        with pytest.raises(kind, match=said) as caught:
            raw.endpoint.status()
        assert "\n" not in str(caught.value)
        assert "token" not in str(caught.value).replace("mount a token", "")


def test_missing_rights_are_named(raw: KServeSubject) -> None:
    raw.cluster.rights.remove("leases")
    with pytest.raises(InputError, match=r"cannot get resource .leases..*shipway-deployer"):
        raw.endpoint.status()


def test_a_cluster_without_kserve_or_with_an_old_one_is_refused(raw: KServeSubject) -> None:
    raw.cluster.knows_kserve = False
    with pytest.raises(UnsupportedError, match="install KServe"):
        raw.endpoint.status()
    raw.cluster.knows_kserve, raw.cluster.knows_canary = True, False
    old = serve(raw, "1")
    with pytest.raises(UnsupportedError, match=r"spec\.canary, which it knows since 0\.20"):
        raw.endpoint.stage(raw.release("2"))
    assert [revision.id for revision in raw.endpoint.status().revisions] == [old]


def test_an_inference_service_of_somebody_else_is_left_alone(raw: KServeSubject) -> None:
    body = {"metadata": {"name": "flights", "generation": 1, "resourceVersion": "1", "uid": "u"}, "spec": {}}
    raw.cluster.controller.stopped = True
    raw.cluster.services["flights"] = body
    with pytest.raises(InputError, match="was not made by Shipway"):
        raw.endpoint.stage(raw.release("1"))


def test_a_controller_that_is_away_is_told(raw: KServeSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = serve(raw, "1"), put(raw, "2")
    monkeypatch.setattr("shipway.endpoints.kserve._SHIFT_SECONDS", 0.2)
    raw.cluster.controller.stopped = True
    with pytest.raises(ShipwayError, match="KServe has not taken them up"):
        raw.endpoint.shift({old: 90, new: 10})
    raw.cluster.controller.stopped = False
    raw.endpoint.shift({old: 90, new: 10})
    until(lambda: raw.cluster.weights("flights").get(f"flights-{new}-predictor") == 10)


def test_the_control_document_tells_whom_to_mirror_to(raw: KServeSubject) -> None:
    serve(raw, "1")
    new = put(raw, "2")
    raw.endpoint.mirror(new, 40)
    document = raw.folder / "control" / "shipway" / "flights.json"
    url = f"http://flights-{new}-predictor.shipway.svc:80/v1/models/flights:predict"
    order = {"revision": new, "url": url, "percent": 40, "auth": "none", "version": ""}
    assert json.loads(document.read_text()) == {"mirror": order}
    assert any(f"--control={document}" in pod.template["args"] for pod in raw.cluster.workloads.all())
    raw.endpoint.mirror(new, 0)
    assert json.loads(document.read_text()) == {"mirror": None}


def test_a_mirror_that_was_not_told_is_told_by_the_next_change(
    raw: KServeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(raw, "1")
    new = put(raw, "2")
    endpoint = raw.endpoint

    def die(order: object) -> None:
        raise KeyboardInterrupt(order)

    monkeypatch.setattr(endpoint, "_write_control", die)
    with pytest.raises(KeyboardInterrupt):
        endpoint.mirror(new, 40)
    assert [revision.mirror for revision in raw.endpoint.status().revisions] == [0, 0]
    found = raw.endpoint.mirror(new, 40).revision(new)
    assert found is not None
    assert found.mirror == 40
    assert json.loads((raw.folder / "control" / "shipway" / "flights.json").read_text())["mirror"]["percent"] == 40


def test_knative_serves_two_revisions_and_says_what_to_do_about_a_third(serverless: KServeSubject) -> None:
    old, new = serve(serverless, "1"), put(serverless, "2")
    serverless.endpoint.shift({old: 90, new: 10})
    release = serverless.release("1")
    with pytest.raises(UnsupportedError, match=r"rollout\.baseline to live, or endpoint\.kserve\.mode to raw"):
        serverless.endpoint.stage(release, revision_id("1", release.digest, "baseline"))
    assert len(serverless.endpoint.status().revisions) == 2
    with pytest.raises(UnsupportedError, match=r"set endpoint\.control"):
        serverless.endpoint.mirror(new, 10)


def test_knative_goes_back_after_a_full_switch_and_takes_the_next_candidate(serverless: KServeSubject) -> None:
    old, new = serve(serverless, "1"), put(serverless, "2")
    serverless.endpoint.shift({new: 100})
    assert serverless.cluster.weights("flights") == {"flights-predictor-00002": 100}
    serverless.endpoint.shift({old: 100})
    assert serverless.cluster.weights("flights") == {"flights-predictor-00001": 100}
    serverless.endpoint.retire(new)
    third = put(serverless, "3")
    status = serverless.endpoint.shift({old: 75, third: 25})
    assert {revision.id: revision.share for revision in status.revisions} == {old: 75, third: 25}
    assert serverless.cluster.weights("flights") == {"flights-predictor-00001": 75, "flights-predictor-00003": 25}


@pytest.mark.parametrize(
    ("uri", "artifacts", "expected"),
    [
        ("mlflow-artifacts:/1/models/m-1/artifacts", "s3://b/mlflow/", "s3://b/mlflow/1/models/m-1/artifacts"),
        ("mlflow-artifacts://mlflow:5000/1/models/m-1", "gs://b", "gs://b/1/models/m-1"),
        ("s3://b/x", None, "s3://b/x"),
        ("minio://b/x", None, "s3://b/x"),
    ],
)
def test_packages_are_found_where_the_cluster_can_read_them(
    raw: KServeSubject, uri: str, artifacts: str | None, expected: str
) -> None:
    release = raw.release("1").model_copy(update={"package_uri": uri})
    assert kserve_objects.storage_uri(release, artifacts) == expected


def test_packages_and_names_that_a_cluster_cannot_take_are_refused(raw: KServeSubject) -> None:
    release: Release = raw.release("1")
    for uri, said in (("mlflow-artifacts:/1/m", r"set endpoint\.kserve\.artifacts"), ("/tmp/x", "cannot read")):
        with pytest.raises(InputError, match=said):
            kserve_objects.storage_uri(release.model_copy(update={"package_uri": uri}), None)
    with pytest.raises(InputError, match="lower-case letters, digits and dashes"):
        kserve_objects.service_name("my_model", "production")
    with pytest.raises(InputError, match="Kubernetes takes 63"):
        kserve_objects.workload("a" * 50, "v1-12345678")
    assert kserve_objects.service_name("flights", "staging") == "flights-staging"
