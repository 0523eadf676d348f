"""Mirroring on Vertex AI with real servers: the live one reads the control document and asks the shadow endpoint."""

import time
from pathlib import Path

import pytest
from endpoint_vertex import VertexSubject, subject

from shipway.endpoints.protocol import revision_id

pytestmark = pytest.mark.slow


def put(subject: VertexSubject, version: str) -> str:
    release = subject.release(version)
    subject.endpoint.stage(release)
    return revision_id(version, release.digest)


def test_the_live_server_mirrors_to_the_shadow_endpoint(tmp_path: Path) -> None:
    with subject(tmp_path) as opened:
        since = time.time() - 1
        old = put(opened, "1")
        opened.endpoint.shift({old: 100})
        new = put(opened, "2")
        opened.endpoint.mirror(new, 100)
        deadline = time.monotonic() + 60
        while not (found := opened.endpoint.windows(since, time.time() + 1))[new].mirror.sent:
            assert time.monotonic() < deadline, "nothing was mirrored in time"
            opened.traffic(old, 5)
            time.sleep(0.2)
        assert found[new].mirror.failed == found[new].errors == 0
        assert found[old].requests >= found[new].requests
        # A candidate that is gone costs the callers nothing.
        opened.break_revision(new)
        for (place, _), replica in opened.stand_in.replicas.items():
            if place.endswith("shadow"):
                replica.stop()
        opened.traffic(old, 20)
