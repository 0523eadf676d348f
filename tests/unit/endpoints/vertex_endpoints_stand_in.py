"""A stand-in for Vertex AI's registry and online endpoints and for Cloud Monitoring: gRPC and REST, the real messages.

A deployed model is a real server process where `command` says how to start one, started with what the Model's container
asks for (arguments, environment, AIP_*); without it, nothing runs and nothing can be asked. Operations end after a few
looks. Whatever changes an Endpoint gives it another etag; a stale one is ABORTED.
"""

import datetime as dt
import http.client
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from google.api import distribution_pb2, metric_pb2
from google.cloud import aiplatform_v1 as v1
from google.cloud import monitoring_v3 as m3
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, duration_pb2, empty_pb2
from google.rpc import status_pb2
from vertex_stand_in import PARENT, PROJECT, RefusalError, Relay, Status, VertexStandIn, expect

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}")
_ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")
_IMAGE = re.compile(r"([a-z0-9-]+-docker\.pkg\.dev|gcr\.io)/\S+")
# Milliseconds: each 1.2 times the last, as Google's metrics have it.
SCALE, GROWTH, FINITE = 1.0, 1.2, 60
RESPONSES = "aiplatform.googleapis.com/prediction/online/response_count"
LATENCIES = "aiplatform.googleapis.com/prediction/online/prediction_latencies"


@dataclass
class Work:
    """A long-running operation: `advance` returns its result, an error, or None while it goes on."""

    name: str
    metadata: Any
    advance: Callable[[], Any]
    looks: int = 0
    result: Any = None


@dataclass
class Point:
    endpoint: str
    deployed: str
    time: float
    code: int
    milliseconds: float


@dataclass
class Replica:
    """A deployed model's process."""

    command: list[str]
    environment: dict[str, str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def is_healthy(self) -> bool:
        with suppress(OSError):
            return self.ask("GET", self.environment["AIP_HEALTH_ROUTE"], b"")[0] == 200
        return False

    def ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@dataclass
class EndpointsStandIn(VertexStandIn):
    """Use as a context manager; `endpoint` is what SHIPWAY_VERTEX_ENDPOINT takes."""

    command: Sequence[str] = ()
    folder: Path = Path()
    looks: int = 1
    refuse_deploy: str = ""
    refuse_code: int = 9
    lag: float | None = 0.0
    endpoints: dict[str, Any] = field(default_factory=dict)
    models: dict[str, list[Any]] = field(default_factory=dict)
    specs: dict[tuple[str, str], Any] = field(default_factory=dict)
    works: dict[str, Work] = field(default_factory=dict)
    replicas: dict[tuple[str, str], Replica] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)

    def __enter__(self) -> "EndpointsStandIn":
        self._stopping = threading.Event()
        self._lock = threading.RLock()  # type: ignore[assignment]
        self._etags = 0
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self._rest = ThreadingHTTPServer(("127.0.0.1", 0), type("Rest", (_Rest,), {"stand_in": self}))
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()
        self._relay = BothRelay(port, self._rest.server_address[1])
        self.endpoint = f"http://127.0.0.1:{self._relay.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._relay.close()
        self._rest.shutdown()
        self._rest.server_close()
        self._server.stop(0).wait()
        for replica in self.replicas.values():
            replica.stop()

    # What a test looks at and brings about.

    def primary(self) -> Any:
        """Returns the one Endpoint that is no shadow."""
        (found,) = [one for name, one in self.endpoints.items() if not name.endswith("shadow")]
        return found

    def deployed(self, revision: str) -> Any:
        (found,) = [one for one in self.primary().deployed_models if one.display_name == revision]
        return found

    def touch(self, endpoint: Any) -> None:
        """Gives an Endpoint another etag."""
        self._etags += 1
        endpoint.etag = f"AMEw9y{self._etags:06d}"

    def break_down(self, revision: str) -> None:
        """Lets the replicas of a revision fail for good."""
        endpoint, deployed = self.primary(), self.deployed(revision)
        deployed.status = v1.DeployedModel.Status(message="Container keeps crashing.\nExit code 137.")
        if replica := self.replicas.get((endpoint.name, deployed.id)):
            replica.stop()

    def power_cut(self) -> None:
        """Kills every process; the platform starts them again."""
        for replica in self.replicas.values():
            replica.stop()
            replica.start()
        deadline = time.monotonic() + 60
        while not all(replica.is_healthy() for replica in self.replicas.values()):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def count_point(self, endpoint: str, deployed: str, code: int, milliseconds: float, moment: float = 0.0) -> None:
        place = endpoint.rpartition("/")[2]
        self.points.append(Point(place, deployed, moment or time.time(), code, milliseconds))

    # The registry.

    def GetModel(self, request: Any) -> Any:  # noqa: N802 - the API's own names
        return self._versions(request.name)[-1]

    def ListModelVersions(self, request: Any) -> Any:  # noqa: N802
        versions = self._versions(request.name)
        wanted = re.fullmatch(r'labels\.([a-z-]+)="([^"]*)"', request.filter)
        expect(wanted, f"illegal filter {request.filter!r}")
        assert wanted
        found = [one for one in versions if one.labels.get(wanted[1]) == wanted[2]]
        first = int(request.page_token or 0)
        token = str(first + 2) if first + 2 < len(found) else ""
        return v1.ListModelVersionsResponse(models=found[first : first + 2], next_page_token=token)

    def UploadModel(self, request: Any) -> Any:  # noqa: N802
        self._in_location(request.parent)
        model = v1.Model.deserialize(v1.Model.serialize(request.model))
        expect(model.display_name, "display_name is required")
        expect(
            _IMAGE.fullmatch(model.container_spec.image_uri), f"no image of ours: {model.container_spec.image_uri!r}"
        )
        expect(model.artifact_uri.startswith("gs://"), f"artifact_uri must begin with gs://: {model.artifact_uri!r}")
        expect(all(map(_ALIAS.fullmatch, model.version_aliases)), f"illegal alias among {model.version_aliases}")
        self._check_labels(model.labels)
        if request.parent_model:
            self._versions(request.parent_model)
            name = request.parent_model
        else:
            expect(_MODEL_ID.fullmatch(request.model_id), f"illegal model id {request.model_id!r}")
            name = f"{PARENT}/models/{request.model_id}"
            expect(name not in self.models, f"Model {name} already exists", Status.ALREADY_EXISTS)

        def advance() -> Any:
            versions = self.models.setdefault(name, [])
            for other in versions:
                other.version_aliases = [one for one in other.version_aliases if one not in model.version_aliases]
            model.name, model.version_id = name, str(len(versions) + 1)
            self.specs[name, model.version_id] = v1.Model.deserialize(v1.Model.serialize(model))
            # Input only.
            model.container_spec = None
            versions.append(model)
            return v1.UploadModelResponse.pb(v1.UploadModelResponse(model=name, model_version_id=model.version_id))

        return self._begin(f"{name}/operations", v1.UploadModelOperationMetadata(), advance)

    # Endpoints.

    def CreateEndpoint(self, request: Any) -> Any:  # noqa: N802
        self._in_location(request.parent)
        expect(_ID.fullmatch(request.endpoint_id), f"illegal endpoint id {request.endpoint_id!r}")
        endpoint = v1.Endpoint.deserialize(v1.Endpoint.serialize(request.endpoint))
        expect(endpoint.display_name, "display_name is required")
        self._check_labels(endpoint.labels)
        endpoint.name = f"{PARENT}/endpoints/{request.endpoint_id}"
        expect(endpoint.name not in self.endpoints, f"Endpoint {endpoint.name} already exists", Status.ALREADY_EXISTS)
        self.touch(endpoint)
        self.endpoints[endpoint.name] = endpoint
        return self._begin(
            f"{endpoint.name}/operations", v1.CreateEndpointOperationMetadata(), lambda: v1.Endpoint.pb(endpoint)
        )

    def GetEndpoint(self, request: Any) -> Any:  # noqa: N802
        expect(
            request.name.startswith(f"{PARENT}/"), "Location is not found or access is unauthorized", Status.NOT_FOUND
        )
        expect(request.name in self.endpoints, f"Endpoint `{request.name}` is not found.", Status.NOT_FOUND)
        return self.endpoints[request.name]

    def UpdateEndpoint(self, request: Any) -> Any:  # noqa: N802
        expect(
            set(request.update_mask.paths) <= {"description", "traffic_split", "labels", "display_name"}, "no such path"
        )
        expect(request.update_mask.paths, "update_mask is required")
        endpoint = self.GetEndpoint(request.endpoint)
        asked = request.endpoint
        expect(
            not asked.etag or asked.etag == endpoint.etag,
            f"Specified Endpoint `etag`: `{asked.etag}` does not match server `etag`: `{endpoint.etag}`",
            Status.ABORTED,
        )
        if "traffic_split" in request.update_mask.paths:
            self._check_split(endpoint, dict(asked.traffic_split))
        for path in request.update_mask.paths:
            setattr(endpoint, path, getattr(asked, path))
        self.touch(endpoint)
        return endpoint

    def DeployModel(self, request: Any) -> Any:  # noqa: N802
        endpoint = self.GetEndpoint(v1.GetEndpointRequest(name=request.endpoint))
        asked = request.deployed_model
        expect(re.fullmatch(r"[0-9]{1,10}", asked.id), f"illegal id {asked.id!r}")
        pending = {
            work.metadata for work in self.works.values() if work.result is None and isinstance(work.metadata, str)
        }
        expect(
            asked.id not in {one.id for one in endpoint.deployed_models} and asked.id not in pending,
            f"DeployedModel {asked.id} already exists",
            Status.ALREADY_EXISTS,
        )
        resources = asked.dedicated_resources
        expect(1 <= resources.min_replica_count <= resources.max_replica_count, "illegal replica counts")
        expect(resources.machine_spec.machine_type, "machine_type is required")
        name, _, version = asked.model.partition("@")
        expect((name, version) in self.specs, f"Model {asked.model} is not found", Status.NOT_FOUND)
        if request.traffic_split:
            self._check_split(endpoint, dict(request.traffic_split), {"0"})
        deployed = v1.DeployedModel.deserialize(v1.DeployedModel.serialize(asked))
        deployed.model, deployed.model_version_id = name, version
        replica = self._replica(endpoint, deployed) if self.command else None

        def advance() -> Any:
            if self.refuse_deploy:
                return status_pb2.Status(code=self.refuse_code, message=self.refuse_deploy)
            if replica is not None and not replica.is_healthy():
                assert replica.process
                if replica.process.poll() is None:
                    return None
                del self.replicas[endpoint.name, deployed.id]
                said = replica.log.read_text().strip().splitlines()[-1:]
                return status_pb2.Status(code=9, message=f"Model server exited unexpectedly. {' '.join(said)}")
            deployed.status = v1.DeployedModel.Status(available_replica_count=resources.min_replica_count)
            endpoint.deployed_models.append(deployed)
            if request.traffic_split:
                endpoint.traffic_split = {
                    deployed.id if key == "0" else key: percent for key, percent in request.traffic_split.items()
                }
            self.touch(endpoint)
            return v1.DeployModelResponse.pb(v1.DeployModelResponse(deployed_model=deployed))

        return self._begin(f"{endpoint.name}/operations", asked.id, advance)

    def UndeployModel(self, request: Any) -> Any:  # noqa: N802
        endpoint = self.GetEndpoint(v1.GetEndpointRequest(name=request.endpoint))
        found = [one for one in endpoint.deployed_models if one.id == request.deployed_model_id]
        expect(found, f"DeployedModel {request.deployed_model_id} is not found", Status.NOT_FOUND)
        expect(not endpoint.traffic_split.get(request.deployed_model_id), "it has traffic", Status.FAILED_PRECONDITION)

        def advance() -> Any:
            endpoint.deployed_models = [one for one in endpoint.deployed_models if one.id != request.deployed_model_id]
            if replica := self.replicas.pop((endpoint.name, request.deployed_model_id), None):
                replica.stop()
            self.touch(endpoint)
            return v1.UndeployModelResponse.pb(v1.UndeployModelResponse())

        return self._begin(f"{endpoint.name}/operations", v1.UndeployModelOperationMetadata(), advance)

    def DeleteEndpoint(self, request: Any) -> Any:  # noqa: N802
        endpoint = self.GetEndpoint(request)
        expect(not endpoint.deployed_models, "it has deployed models", Status.FAILED_PRECONDITION)

        def advance() -> Any:
            self.endpoints.pop(request.name, None)
            return empty_pb2.Empty()

        return self._begin(f"{endpoint.name}/operations", v1.DeleteOperationMetadata(), advance)

    # Operations.

    def GetOperation(self, request: Any) -> Any:  # noqa: N802
        expect(request.name in self.works, f"Operation {request.name} is not found", Status.NOT_FOUND)
        return self._look(self.works[request.name])

    def ListOperations(self, request: Any) -> Any:  # noqa: N802
        found = [
            self._look(work) for name, work in self.works.items() if name.startswith(f"{request.name}/operations/")
        ]
        return operations_pb2.ListOperationsResponse(operations=found)

    def _begin(self, folder: str, metadata: Any, advance: Callable[[], Any]) -> Any:
        work = Work(f"{folder}/{len(self.works) + 1}", metadata, advance, self.looks)
        self.works[work.name] = work
        return operations_pb2.Operation(name=work.name, done=False)

    def _look(self, work: Work) -> Any:
        work.looks -= 1
        if work.result is None and work.looks < 0:
            work.result = work.advance()
        operation = operations_pb2.Operation(name=work.name, done=work.result is not None)
        if isinstance(work.result, status_pb2.Status):
            operation.error.CopyFrom(work.result)
        elif work.result is not None:
            packed = any_pb2.Any()
            packed.Pack(work.result)
            operation.response.CopyFrom(packed)
        return operation

    # Cloud Monitoring.

    def GetMetricDescriptor(self, request: Any) -> Any:  # noqa: N802
        expect(
            request.name.startswith(f"projects/{PROJECT}/metricDescriptors/aiplatform"),
            "no such metric",
            Status.NOT_FOUND,
        )
        described = metric_pb2.MetricDescriptor(name=request.name)
        if self.lag is not None:
            whole = duration_pb2.Duration(seconds=int(self.lag))
            described.metadata.ingest_delay.CopyFrom(whole)
        return described

    def ListTimeSeries(self, request: Any) -> Any:  # noqa: N802
        expect(request.name == f"projects/{PROJECT}", "no such project", Status.NOT_FOUND)
        wanted = re.fullmatch(
            r'metric\.type = "(\S+)" AND resource\.type = "aiplatform\.googleapis\.com/Endpoint" AND '
            r"resource\.labels\.endpoint_id = one_of\((.*)\)",
            request.filter,
        )
        expect(wanted and wanted[1] in (RESPONSES, LATENCIES), f"illegal filter {request.filter!r}")
        assert wanted
        ids = set(re.findall(r'"([^"]+)"', wanted[2]))
        start, end = request.interval.start_time.timestamp(), request.interval.end_time.timestamp()
        expect(start < end, "the interval's start must be before its end")
        points = [one for one in self.points if one.endpoint in ids and start < one.time <= end]
        series = _responses(points) if wanted[1] == RESPONSES else _latencies(points)
        first = int(request.page_token or 0)
        token = str(first + 2) if first + 2 < len(series) else ""
        return m3.ListTimeSeriesResponse(time_series=series[first : first + 2], next_page_token=token)

    # Predictions.

    def predict(self, name: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            return 404, {}, json.dumps({"error": {"code": 404, "message": f"Endpoint {name} is not found."}}).encode()
        shares = sorted((percent, id_) for id_, percent in endpoint.traffic_split.items() if percent)
        if not shares:
            return 400, {}, b'{"error": {"code": 400, "status": "FAILED_PRECONDITION"}}'
        chosen = shares[-1][1]
        replica, begun = self.replicas[name, chosen], time.perf_counter()
        status, answer = replica.ask("POST", replica.environment["AIP_PREDICT_ROUTE"], body)
        self.count_point(name, chosen, status, (time.perf_counter() - begun) * 1000)
        return status, {"x-vertex-ai-deployed-model-id": chosen}, answer

    def _replica(self, endpoint: Any, deployed: Any) -> Replica:
        spec = self.specs[deployed.model, deployed.model_version_id]
        container = spec.container_spec
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {
            **os.environ,
            **{one.name: one.value for one in container.env},
            "AIP_HTTP_PORT": str(port),
            "AIP_HEALTH_ROUTE": container.health_route,
            "AIP_PREDICT_ROUTE": container.predict_route,
            "AIP_STORAGE_URI": spec.artifact_uri,
            "SHIPWAY_SERVING_HOST": "127.0.0.1",
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{endpoint.name.rpartition('/')[2]}-{deployed.id}.log"
        replica = Replica([*self.command, *container.args], environment, port, log)
        replica.start()
        # Known at once, so that it is ended with the stand-in whatever becomes of it.
        self.replicas[endpoint.name, deployed.id] = replica
        return replica

    def _versions(self, name: str) -> list[Any]:
        expect(name.startswith(f"{PARENT}/"), "Location is not found or access is unauthorized", Status.NOT_FOUND)
        expect(name in self.models, f"Model {name} is not found", Status.NOT_FOUND)
        return self.models[name]

    def _check_split(self, endpoint: Any, split: dict[str, int], more: frozenset[str] | set[str] = frozenset()) -> None:
        expect(not split or sum(split.values()) == 100, "traffic percentages must add up to 100")
        known = {one.id for one in endpoint.deployed_models} | more
        expect(set(split) <= known, f"traffic_split names unknown deployed models {set(split) - known}")

    def _check_labels(self, labels: Any) -> None:
        for key, value in labels.items():
            expect(re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key), f"illegal label {key!r}")
            expect(_LABEL.fullmatch(value), f"illegal label value {value!r}")


def _responses(points: Sequence[Point]) -> list[Any]:
    found: dict[tuple[str, str, str], list[Any]] = {}
    for one in points:
        value = m3.TypedValue(int64_value=1)
        found.setdefault((one.endpoint, one.deployed, f"{one.code // 100}xx"), []).append(_point(one, value))
    return [
        _one_series(RESPONSES, place, deployed, {"response_code": code}, points)
        for (place, deployed, code), points in found.items()
    ]


def _latencies(points: Sequence[Point]) -> list[Any]:
    found: dict[tuple[str, str], list[Any]] = {}
    for one in points:
        if one.code < 400:
            value = m3.TypedValue(distribution_value=distribution(one.milliseconds))
            found.setdefault((one.endpoint, one.deployed), []).append(_point(one, value))
    return [
        _one_series(LATENCIES, place, deployed, {"latency_type": kind}, points)
        for (place, deployed), points in found.items()
        for kind in ("model", "total")
    ]


def distribution(*milliseconds: float) -> Any:
    bounds = [SCALE * GROWTH**index for index in range(FINITE + 1)]
    counts = [0] * (len(bounds) + 1)
    for value in milliseconds:
        counts[sum(bound <= value for bound in bounds)] += 1
    while counts and not counts[-1]:
        counts.pop()
    exponential = distribution_pb2.Distribution.BucketOptions.Exponential(
        num_finite_buckets=FINITE, growth_factor=GROWTH, scale=SCALE
    )
    options = distribution_pb2.Distribution.BucketOptions(exponential_buckets=exponential)
    return distribution_pb2.Distribution(count=len(milliseconds), bucket_options=options, bucket_counts=counts)


def _point(one: Point, value: Any) -> Any:
    end = dt.datetime.fromtimestamp(one.time, dt.UTC)
    interval = m3.TimeInterval(start_time=end - dt.timedelta(milliseconds=1), end_time=end)
    return m3.Point(interval=interval, value=value)


def _one_series(metric: str, endpoint: str, deployed: str, labels: dict[str, str], points: list[Any]) -> Any:
    series = m3.TimeSeries(points=points)
    series.metric.type = metric
    series.metric.labels.update({"deployed_model_id": deployed, **labels})
    series.resource.type = "aiplatform.googleapis.com/Endpoint"
    series.resource.labels.update({"endpoint_id": endpoint})
    return series


_ENDPOINTS = "google.cloud.aiplatform.v1.EndpointService"
_MODELS = "google.cloud.aiplatform.v1.ModelService"
_METRICS = "google.monitoring.v3.MetricService"
_OPERATIONS = "google.longrunning.Operations"
_CALLS: dict[str, tuple[str, Any, Any]] = {
    "GetModel": (_MODELS, v1.GetModelRequest, v1.Model),
    "ListModelVersions": (_MODELS, v1.ListModelVersionsRequest, v1.ListModelVersionsResponse),
    "UploadModel": (_MODELS, v1.UploadModelRequest, None),
    "CreateEndpoint": (_ENDPOINTS, v1.CreateEndpointRequest, None),
    "GetEndpoint": (_ENDPOINTS, v1.GetEndpointRequest, v1.Endpoint),
    "UpdateEndpoint": (_ENDPOINTS, v1.UpdateEndpointRequest, v1.Endpoint),
    "DeployModel": (_ENDPOINTS, v1.DeployModelRequest, None),
    "UndeployModel": (_ENDPOINTS, v1.UndeployModelRequest, None),
    "DeleteEndpoint": (_ENDPOINTS, v1.DeleteEndpointRequest, None),
    "GetOperation": (_OPERATIONS, operations_pb2.GetOperationRequest, None),
    "ListOperations": (_OPERATIONS, operations_pb2.ListOperationsRequest, None),
    "GetMetricDescriptor": (_METRICS, m3.GetMetricDescriptorRequest, None),
    "ListTimeSeries": (_METRICS, m3.ListTimeSeriesRequest, m3.ListTimeSeriesResponse),
}


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, stand_in: EndpointsStandIn) -> None:
        self._stand_in = stand_in

    def service(self, handler_call_details: Any) -> Any:
        service, _, call = handler_call_details.method.lstrip("/").rpartition("/")
        if call not in _CALLS or service != _CALLS[call][0]:
            return None
        # Without encryption nobody's credentials may be on the way.
        assert "authorization" not in {key for key, _ in handler_call_details.invocation_metadata}
        _, request, answer = _CALLS[call]

        def serve(message: Any, context: grpc.ServicerContext) -> Any:
            return self._stand_in.answer(call, message, context)

        def serialize(message: Any) -> bytes:
            if isinstance(message, bytes):
                return message
            return bytes(answer.serialize(message) if answer else message.SerializeToString())

        read = request.deserialize if hasattr(request, "deserialize") else request.FromString
        return grpc.unary_unary_rpc_method_handler(serve, read, serialize)


class _Rest(BaseHTTPRequestHandler):
    stand_in: EndpointsStandIn
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        name, _, method = self.path.removeprefix("/v1/").partition(":")
        body = self.rfile.read(int(self.headers["content-length"]))
        status, headers, answer = 404, {}, b"{}"
        if method in ("predict", "rawPredict"):
            status, headers, answer = self.stand_in.predict(name, body)
        self.send_response(status)
        for key, value in {**headers, "content-type": "application/json", "content-length": str(len(answer))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class BothRelay(Relay):
    """Tells HTTP/2 from HTTP/1 by a connection's first bytes, so that gRPC and REST share a port."""

    def __init__(self, target: int, rest: int) -> None:
        self._rest = rest
        super().__init__(target)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        from vertex_stand_in import _pump

        with suppress(OSError):
            first = near.recv(3, socket.MSG_PEEK)
            far = socket.create_connection(("127.0.0.1", self._target if first == b"PRI" else self._rest))
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()


__all__ = ["EndpointsStandIn", "RefusalError", "distribution"]
