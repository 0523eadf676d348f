"""The Vertex AI endpoint on the real Vertex AI: two revisions, a canary, a rollback, metrics, and nothing left behind.

Needs credentials with the roles that docs/vertex.md names and

    SHIPWAY_VERTEX_TEST_PROJECT, SHIPWAY_VERTEX_TEST_ROOT    a project, and a gs:// folder in it
    SHIPWAY_VERTEX_TEST_IMAGE                                the server image in Artifact Registry
    SHIPWAY_VERTEX_TEST_PACKAGES                             two blessed packages (folders), with a comma between
    SHIPWAY_VERTEX_TEST_LOCATION                             another region than us-central1
    SHIPWAY_VERTEX_TEST_ACCOUNT                              the containers' service account

It takes about an hour and costs what four n1-standard-2 nodes cost in that time.
"""

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipway.endpoints.packages import golden_rows
from shipway.endpoints.protocol import ConflictError, revision_id
from shipway.endpoints.vertex import VertexEndpoint
from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import Blessing, Release
from shipway.spec.rollout import EndpointSettings

PROJECT = os.environ.get("SHIPWAY_VERTEX_TEST_PROJECT", "")
ROOT = os.environ.get("SHIPWAY_VERTEX_TEST_ROOT", "")
IMAGE = os.environ.get("SHIPWAY_VERTEX_TEST_IMAGE", "")
PACKAGES = [Path(name) for name in os.environ.get("SHIPWAY_VERTEX_TEST_PACKAGES", "").split(",") if name]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PROJECT and ROOT and IMAGE and len(PACKAGES) == 2),
        reason="SHIPWAY_VERTEX_TEST_PROJECT, _ROOT, _IMAGE and _PACKAGES are not all set",
    ),
]


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VertexEndpoint]:
    monkeypatch.setenv("SHIPWAY_STATE", str(tmp_path))
    given = {
        "endpoint": {
            "kind": "vertex",
            "control": f"{ROOT}/control",
            "vertex": {"artifacts": f"{ROOT}/models", "machine_type": "n1-standard-2", "max_replicas": 1},
        },
        "vertex": {
            "project": PROJECT,
            "location": os.environ.get("SHIPWAY_VERTEX_TEST_LOCATION", "us-central1"),
            "service_account": os.environ.get("SHIPWAY_VERTEX_TEST_ACCOUNT") or None,
        },
        "image": IMAGE,
    }
    opened = VertexEndpoint(f"t{uuid.uuid4().hex[:8]}", EndpointSettings.model_validate(given), "production")
    try:
        yield opened
    finally:
        opened.stop()


def release(endpoint: VertexEndpoint, version: str) -> Release:
    package = PACKAGES[int(version) - 1]
    digest = digest_tree(package)
    return Release(
        name=endpoint.name,
        version=version,
        digest=digest,
        package_uri=str(package),
        tracking_uri="",
        created=False,
        blessing=Blessing(decision="blessed", model_digest=digest, evaluation_digest="sha256:0"),
    )


def test_a_canary_comes_and_goes(endpoint: VertexEndpoint) -> None:
    first, second = release(endpoint, "1"), release(endpoint, "2")
    old, new = revision_id("1", first.digest), revision_id("2", second.digest)
    since = time.time()
    endpoint.stage(first)
    endpoint.shift({old: 100})
    rows = golden_rows(PACKAGES[0])[:1]
    assert endpoint.predict(old, rows).status == 200
    seen = endpoint.stage(second).generation
    assert endpoint.predict(new, rows).status == 200
    mirrored = endpoint.mirror(new, 100, expect=seen).revision(new)
    assert mirrored is not None
    assert mirrored.mirror == 100
    with pytest.raises(ConflictError):
        endpoint.shift({old: 50, new: 50}, expect=seen)
    endpoint.write_record("x" * 32 * 1024)
    assert {one.id: one.share for one in endpoint.shift({old: 75, new: 25}).revisions} == {old: 75, new: 25}
    assert {one.id: one.share for one in endpoint.shift({old: 100}).revisions} == {old: 100, new: 0}
    for _ in range(20):
        assert endpoint.predict(old, rows).status == 200
    deadline = time.time() + endpoint.lag_seconds + 300
    while endpoint.windows(since, time.time())[old].requests < 21:
        assert time.time() < deadline, "Cloud Monitoring has not counted the requests in time"
        time.sleep(15)
    assert [one.id for one in endpoint.retire(new).revisions] == [old]
