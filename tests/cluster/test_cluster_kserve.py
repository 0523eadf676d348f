"""The endpoint on a real KServe: a first version, a canary, its promotion without a restart, and the way back.

Set SHIPWAY_TEST_KSERVE to a namespace with `manifests/` in it (your kubeconfig's cluster), and
SHIPWAY_TEST_KSERVE_ARTIFACTS to a folder of an object store that this machine may write and the servers may read.
SHIPWAY_TEST_KSERVE_MODE is raw (default) or serverless.
"""

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shipway.endpoints.kserve import KServeEndpoint
from shipway.endpoints.packages import golden_rows, local_package
from shipway.endpoints.protocol import ConflictError, revision_id
from shipway.errors import InputError
from shipway.lineage.documents import Release
from shipway.lineage.storage import join, remove, upload
from shipway.spec.rollout import EndpointSection, EndpointSettings, KServeSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "serving"))

NAMESPACE = os.environ.get("SHIPWAY_TEST_KSERVE", "")
ARTIFACTS = os.environ.get("SHIPWAY_TEST_KSERVE_ARTIFACTS", "")
MODE: Any = os.environ.get("SHIPWAY_TEST_KSERVE_MODE", "raw")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (NAMESPACE and ARTIFACTS),
        reason="no cluster: set SHIPWAY_TEST_KSERVE and SHIPWAY_TEST_KSERVE_ARTIFACTS",
    ),
]


@pytest.fixture
def endpoint() -> Iterator[KServeEndpoint]:
    section = EndpointSection(kind="kserve", kserve=KServeSettings(namespace=NAMESPACE, mode=MODE))
    name = f"test-{uuid.uuid4().hex[:6]}"
    opened = KServeEndpoint(name, EndpointSettings(endpoint=section), "production")
    try:
        yield opened
    finally:
        opened.stop()


@pytest.fixture
def releases(tmp_path: Path, endpoint: KServeEndpoint) -> Iterator[list[Release]]:
    from serving_real import real_release

    folder = join(ARTIFACTS, endpoint.name)
    found = []
    for version in ("1", "2"):
        release = real_release(tmp_path, version)
        upload(Path(release.package_uri), join(folder, version))
        found.append(release.model_copy(update={"package_uri": join(folder, version), "name": endpoint.name}))
    try:
        yield found
    finally:
        remove(folder)


def test_a_version_is_rolled_out_and_back(endpoint: KServeEndpoint, releases: list[Release]) -> None:
    old, new = (revision_id(release.version, release.digest) for release in releases)
    (first,) = endpoint.stage(releases[0]).revisions
    assert (first.id, first.ready) == (old, True)
    endpoint.shift({old: 100})
    seen = endpoint.stage(releases[1]).generation
    assert endpoint.predict(new, golden_rows(local_package(releases[1]))[:1]).status == 200
    endpoint.shift({old: 90, new: 10}, expect=seen)
    with pytest.raises(ConflictError):
        endpoint.shift({new: 100}, expect=seen)
    with pytest.raises(InputError):
        endpoint.retire(new)
    for shares in ({new: 100}, {old: 100}, {old: 50, new: 50}, {new: 100}):
        status = endpoint.shift(shares)
        assert {found.id: found.share for found in status.revisions if found.share} == shares
    assert endpoint.write_record("mine").record == "mine"
    assert [found.id for found in endpoint.retire(old).revisions] == [new]
