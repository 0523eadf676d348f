"""Windows of the Vertex AI endpoint: what Cloud Monitoring and the prediction log have, as counts that add up."""

import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from endpoint_vertex import blessed_release, settings, surroundings
from google.api import distribution_pb2
from hypothesis import given
from hypothesis import strategies as st
from vertex_endpoints_stand_in import EndpointsStandIn, distribution
from vertex_stand_in import Status

from shipway.endpoints.log_parts import METADATA, part_name
from shipway.endpoints.protocol import revision_id
from shipway.endpoints.vertex import VertexEndpoint
from shipway.endpoints.vertex_metrics import LAG_SECONDS, _add_distribution, rebucketed
from shipway.endpoints.window import LATENCY_EDGES_MS, latency_quantile_ms
from shipway.errors import ShipwayError
from shipway.lineage import storage

LOG = "gs://models/log"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EndpointsStandIn]:
    stand_in = EndpointsStandIn()
    with surroundings(stand_in, tmp_path):
        yield stand_in


@pytest.fixture
def endpoint(server: EndpointsStandIn) -> VertexEndpoint:
    assert server.endpoint
    return VertexEndpoint("flights", settings(log={"uri": LOG}), "production")


def put(endpoint: VertexEndpoint, folder: Path, version: str) -> str:
    release = blessed_release(folder, version)
    endpoint.stage(release)
    return revision_id(version, release.digest)


def test_responses_and_latencies_are_counted_by_revision(
    server: EndpointsStandIn, endpoint: VertexEndpoint, tmp_path: Path
) -> None:
    old = put(endpoint, tmp_path, "1")
    endpoint.shift({old: 100})
    new = put(endpoint, tmp_path, "2")
    now = time.time()
    primary = server.primary()
    for code, milliseconds in ((200, 2.0), (200, 50.0), (404, 1.0), (500, 1.0), (503, 1.0)):
        server.count_point(primary.name, server.deployed(old).id, code, milliseconds, now - 30)
    (shadow,) = [one for name, one in server.endpoints.items() if name.endswith("shadow")]
    for code in (200, 200, 500):
        server.count_point(shadow.name, shadow.deployed_models[0].id, code, 3.0, now - 20)
    found = endpoint.windows(now - 60, now)
    assert (found[old].requests, found[old].errors, found[old].refused, sum(found[old].latency)) == (5, 2, 1, 2)
    slow = found[old].quantile_ms(1.0)
    assert slow is not None
    assert 50.0 <= slow <= 50.0 * 1.25 * 1.25
    assert (found[new].requests, found[new].errors) == (3, 1)
    assert (found[new].mirror.sent, found[new].mirror.failed, found[old].mirror.sent) == (3, 1, 0)


def test_adjoining_windows_count_each_point_once(
    server: EndpointsStandIn, endpoint: VertexEndpoint, tmp_path: Path
) -> None:
    old = put(endpoint, tmp_path, "1")
    now = float(int(time.time()))
    for age in range(9):
        server.count_point(server.primary().name, server.deployed(old).id, 200, 2.0, now - 10 * age)
    windows = [endpoint.windows(now - 10 * (n + 1), now - 10 * n)[old] for n in range(9)]
    assert [one.requests for one in windows] == [1] * 9
    assert endpoint.windows(now - 90, now)[old].requests == 9


def test_a_revision_that_was_retired_keeps_its_past(
    server: EndpointsStandIn, endpoint: VertexEndpoint, tmp_path: Path
) -> None:
    old = put(endpoint, tmp_path, "1")
    endpoint.shift({old: 100})
    new = put(endpoint, tmp_path, "2")
    now = time.time()
    server.count_point(server.primary().name, server.deployed(new).id, 500, 1.0, now - 5)
    endpoint.retire(new)
    assert endpoint.windows(now - 60, now)[new].errors == 1
    assert endpoint.windows(now - 60, now - 50).keys() == {old}


def test_predictions_and_features_come_from_the_log(endpoint: VertexEndpoint, tmp_path: Path) -> None:
    old = put(endpoint, tmp_path, "1")
    now = time.time()
    frame = pl.DataFrame(
        {
            "time": pl.Series([int((now - 5) * 1e6)] * 2).cast(pl.Datetime("us", "UTC")),
            "request": ["a", "b"],
            "row": pl.Series([0, 0], dtype=pl.Int32),
            "seconds": [0.001, 0.002],
            "prediction": [0.1, 0.9],
            "label": ["no", "late"],
            "features": [{"delay": 1.0}, {"delay": None}],
        }
    )
    path = tmp_path / "part.parquet"
    frame.write_parquet(path, metadata={METADATA: '{"task": "binary", "classes": [], "edges": [0.5], "labels": []}'})
    storage.upload(path, storage.join(LOG, old, part_name(now - 5, now - 5, "i", 1)))
    window = endpoint.windows(now - 60, now)[old]
    assert window.predictions is not None
    assert window.predictions.counts == [1, 1]
    assert (window.features["delay"].rows, window.features["delay"].nulls) == (2, 1)


def test_the_lag_is_what_the_metrics_say_of_themselves(server: EndpointsStandIn, endpoint: VertexEndpoint) -> None:
    server.lag = 180.0
    assert endpoint.lag_seconds == 180.0


def test_the_lag_is_the_documented_one_where_nothing_is_said(
    server: EndpointsStandIn, endpoint: VertexEndpoint
) -> None:
    server.lag = None
    assert endpoint.lag_seconds == LAG_SECONDS


def test_metrics_that_cannot_be_had_are_told_of(
    server: EndpointsStandIn, endpoint: VertexEndpoint, tmp_path: Path
) -> None:
    put(endpoint, tmp_path, "1")
    server.order("ListTimeSeries", Status.PERMISSION_DENIED, reason="SERVICE_DISABLED")
    said = r"reading response_count .*Cloud Monitoring forbids it.*services enable monitoring\.googleapis\.com"
    with pytest.raises(ShipwayError, match=said):
        endpoint.windows(time.time() - 60, time.time())


def test_metrics_come_after_a_connection_broke_off(
    server: EndpointsStandIn, endpoint: VertexEndpoint, tmp_path: Path
) -> None:
    old = put(endpoint, tmp_path, "1")
    now = time.time()
    server.count_point(server.primary().name, server.deployed(old).id, 200, 2.0, now - 5)
    server.order("ListTimeSeries", "reset", after=True)
    assert endpoint.windows(now - 60, now)[old].requests == 1


# From other buckets to ours.


@given(
    st.lists(st.floats(0.001, 1e6), min_size=1, max_size=30, unique=True).map(sorted),
    st.lists(st.integers(0, 1000), min_size=1, max_size=31),
    st.floats(0.0, 1e6),
)
def test_no_request_is_lost_between_buckets(bounds: list[float], counts: list[int], most: float) -> None:
    counts = counts[: len(bounds) + 1]
    found = rebucketed(bounds, counts, most)
    assert len(found) == len(LATENCY_EDGES_MS) + 1
    assert all(count >= 0 for count in found)
    assert sum(found) == sum(counts)


@given(st.integers(0, len(LATENCY_EDGES_MS) - 2), st.integers(1, 10_000))
def test_our_own_buckets_stay_as_they_are(index: int, count: int) -> None:
    counts = [0] * (len(LATENCY_EDGES_MS) + 1)
    counts[index] = count
    assert rebucketed(LATENCY_EDGES_MS, counts) == counts


@given(st.lists(st.floats(0.5, 20_000.0), min_size=1, max_size=50))
def test_a_quantile_is_off_by_no_more_than_a_bucket(values: list[float]) -> None:
    into = [0] * (len(LATENCY_EDGES_MS) + 1)
    _add_distribution(into, distribution(*values))
    most = max(values)
    found = latency_quantile_ms(into, 1.0)
    assert found is not None
    # Google's bucket ends at 1.2 times its beginning, or at one millisecond; ours at 1.25 times.
    assert (most if most > 1.0 else 0.0) / 1.2 <= found <= max(most, 1.0) * 1.2 * 1.25 + 0.05


def test_every_kind_of_bucket_is_understood() -> None:
    options = distribution_pb2.Distribution.BucketOptions
    linear = options(linear_buckets=options.Linear(num_finite_buckets=2, width=10.0, offset=0.0))
    explicit = options(explicit_buckets=options.Explicit(bounds=[0.0, 10.0, 20.0]))
    found = []
    for kind in (linear, explicit):
        into = [0] * (len(LATENCY_EDGES_MS) + 1)
        _add_distribution(into, distribution_pb2.Distribution(count=5, bucket_options=kind, bucket_counts=[0, 2, 3]))
        found.append(into)
    assert found[0] == found[1]
    assert sum(found[0][: sum(edge < 10.0 for edge in LATENCY_EDGES_MS)]) in (1, 2)
    assert sum(found[0]) == 5
