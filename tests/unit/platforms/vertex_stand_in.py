"""A stand-in for Vertex AI: its gRPC API with the real messages, the real refusals, and faults to order.

Behind a TCP relay, so that a connection can be reset while a call is under way.
"""

import datetime as dt
import os
import re
import signal
import socket
import struct
import threading
import time
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2, json_format
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

LOCATION = "europe-west4"
PROJECT = "shipway-test"
PARENT = f"projects/{PROJECT}/locations/{LOCATION}"
STORE = f"{PARENT}/metadataStores/default"
_JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")
Status = grpc.StatusCode


@dataclass
class Fault:
    """What goes wrong with a call, and whether before or after it had its effect."""

    what: str | grpc.StatusCode
    after: bool = False
    times: int = 1
    message: str = "as ordered"
    quota: str = ""
    reason: str = ""


class RefusalError(Exception):
    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def expect(holds: object, message: str, code: grpc.StatusCode = Status.INVALID_ARGUMENT) -> None:
    if not holds:
        raise RefusalError(code, message)


@dataclass
class VertexStandIn:
    """Use as a context manager; `endpoint` is what SHIPWAY_VERTEX_ENDPOINT takes."""

    jobs: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, Any] = field(default_factory=dict)
    contexts: dict[str, Any] = field(default_factory=dict)
    stores: set[str] = field(default_factory=set)
    children: dict[str, list[str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    victim: int = 0
    looks_until_context: int = 0

    def __enter__(self) -> "VertexStandIn":
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self._relay = Relay(port)
        self.endpoint = f"http://127.0.0.1:{self._relay.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.stop(0).wait()
        self._relay.close()

    def order(self, call: str, what: str | grpc.StatusCode, **settings: Any) -> None:
        """Lets a call, as CreatePipelineJob, go wrong."""
        self.faults.setdefault(call, []).append(Fault(what, **settings))

    def count(self, call: str) -> int:
        return self.calls.count(call)

    # What a call does, faults left out.

    def CreatePipelineJob(self, request: Any) -> Any:  # noqa: N802 - the API's own names
        self._in_location(request.parent)
        expect(_JOB_ID.fullmatch(request.pipeline_job_id), f"illegal job id {request.pipeline_job_id!r}")
        job = v1.PipelineJob.deserialize(v1.PipelineJob.serialize(request.pipeline_job))
        self._check_job(job)
        name = f"{PARENT}/pipelineJobs/{request.pipeline_job_id}"
        expect(name not in self.jobs, f"PipelineJob {name} already exists", Status.ALREADY_EXISTS)
        job.name = name
        job.state = v1.PipelineState.PIPELINE_STATE_PENDING
        job.create_time = dt.datetime.now(dt.UTC)
        self.jobs[name] = job
        return job

    def GetPipelineJob(self, request: Any) -> Any:  # noqa: N802
        expect(request.name in self.jobs, f"PipelineJob {request.name} is not found", Status.NOT_FOUND)
        job = self.jobs[request.name]
        if not job.job_detail.pipeline_run_context.name:
            if self.looks_until_context:
                self.looks_until_context -= 1
            else:
                run = v1.Context(
                    name=f"{STORE}/contexts/{request.name.rpartition('/')[2]}", schema_title="system.PipelineRun"
                )
                self.contexts[run.name] = run
                job.job_detail.pipeline_run_context = run
        else:
            job.job_detail.pipeline_run_context = self.contexts[job.job_detail.pipeline_run_context.name]
        return job

    def GetContext(self, request: Any) -> Any:  # noqa: N802
        expect(request.name in self.contexts, f"Context {request.name} not found", Status.NOT_FOUND)
        return self.contexts[request.name]

    def CreateContext(self, request: Any) -> Any:  # noqa: N802
        expect(request.parent in self.stores, f"MetadataStore {request.parent} not found", Status.NOT_FOUND)
        expect(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", request.context_id), f"illegal id {request.context_id!r}")
        name = f"{request.parent}/contexts/{request.context_id}"
        expect(name not in self.contexts, f"Context {name} already exists", Status.ALREADY_EXISTS)
        request.context.name = name
        self.contexts[name] = request.context
        return request.context

    def AddContextChildren(self, request: Any) -> Any:  # noqa: N802
        expect(request.context in self.contexts, f"Context {request.context} not found", Status.NOT_FOUND)
        for child in request.child_contexts:
            expect(child in self.contexts, f"Context {child} not found", Status.NOT_FOUND)
            added = self.children.setdefault(request.context, [])
            if child not in added:
                added.append(child)
                self.contexts[child].parent_contexts.append(request.context)
        return v1.AddContextChildrenResponse()

    def GetMetadataStore(self, request: Any) -> Any:  # noqa: N802
        expect(request.name in self.stores, f"MetadataStore {request.name} not found", Status.NOT_FOUND)
        return v1.MetadataStore(name=request.name)

    def CreateMetadataStore(self, request: Any) -> Any:  # noqa: N802
        self._in_location(request.parent)
        name = f"{request.parent}/metadataStores/{request.metadata_store_id}"
        expect(name not in self.stores, f"MetadataStore {name} already exists", Status.ALREADY_EXISTS)
        self.stores.add(name)
        return _done(v1.MetadataStore.pb(v1.MetadataStore(name=name)))

    def CreateSchedule(self, request: Any) -> Any:  # noqa: N802
        self._in_location(request.parent)
        schedule = v1.Schedule.deserialize(v1.Schedule.serialize(request.schedule))
        self._check_schedule(schedule)
        schedule.name = f"{PARENT}/schedules/{1000 + len(self.schedules)}"
        schedule.state = v1.Schedule.State.ACTIVE
        schedule.next_run_time = dt.datetime(2030, 1, 1, 3, tzinfo=dt.UTC)
        self.schedules[schedule.name] = schedule
        return schedule

    def GetSchedule(self, request: Any) -> Any:  # noqa: N802
        expect(request.name in self.schedules, f"Schedule {request.name} is not found", Status.NOT_FOUND)
        return self.schedules[request.name]

    def ListSchedules(self, request: Any) -> Any:  # noqa: N802
        self._in_location(request.parent)
        wanted = re.fullmatch(r'display_name="([^"]*)"', request.filter)
        expect(wanted or not request.filter, f"illegal filter {request.filter!r}")
        found = [one for one in self.schedules.values() if not wanted or one.display_name == wanted[1]]
        # Pages of two, so that every reader has to ask for more.
        first = int(request.page_token or 0)
        token = str(first + 2) if first + 2 < len(found) else ""
        return v1.ListSchedulesResponse(schedules=found[first : first + 2], next_page_token=token)

    def UpdateSchedule(self, request: Any) -> Any:  # noqa: N802
        paths = list(request.update_mask.paths)
        expect(paths, "update_mask is required")
        schedule = self.GetSchedule(v1.GetScheduleRequest(name=request.schedule.name))
        expect(schedule.state != v1.Schedule.State.COMPLETED, "it is completed", Status.FAILED_PRECONDITION)
        changed = v1.Schedule.deserialize(v1.Schedule.serialize(schedule))
        for path in paths:
            value = getattr(request.schedule, path)
            expect(value, f"{path} cannot be unset")
            setattr(changed, path, value)
        self._check_schedule(changed)
        self.schedules[changed.name] = changed
        return changed

    def PauseSchedule(self, request: Any) -> Any:  # noqa: N802
        self.GetSchedule(request).state = v1.Schedule.State.PAUSED
        return empty_pb2.Empty()

    def ResumeSchedule(self, request: Any) -> Any:  # noqa: N802
        schedule = self.GetSchedule(request)
        schedule.state = v1.Schedule.State.ACTIVE
        schedule.catch_up = request.catch_up
        return empty_pb2.Empty()

    def DeleteSchedule(self, request: Any) -> Any:  # noqa: N802
        self.GetSchedule(request)
        del self.schedules[request.name]
        return _done(empty_pb2.Empty())

    # What the real API refuses.

    def _in_location(self, parent: str) -> None:
        expect(parent == PARENT, f"Location {parent} is not found or access is unauthorized", Status.NOT_FOUND)

    def _check_job(self, job: Any) -> None:
        spec = json_format.MessageToDict(v1.PipelineJob.pb(job)).get("pipelineSpec", {})
        expect({"schemaVersion", "pipelineInfo", "root", "components", "deploymentSpec"} <= set(spec), "no pipeline")
        expect("platforms" not in spec, "a platform's own document is no pipeline")
        expect(job.runtime_config.gcs_output_directory.startswith("gs://"), "gcs_output_directory is required")
        inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        unknown = set(job.runtime_config.parameter_values) - set(inputs)
        expect(not unknown, f"parameters {unknown} are not of the pipeline")
        for key, value in job.labels.items():
            expect(re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key), f"illegal label {key!r}")
            expect(_LABEL.fullmatch(value), f"illegal label value {value!r}")
        for executor in spec["deploymentSpec"]["executors"].values():
            accelerator = executor["container"].get("resources", {}).get("accelerator", {})
            kind = accelerator.get("resourceType", accelerator.get("type"))
            expect(kind is None or kind in v1.AcceleratorType.__members__, f"unknown accelerator {kind}")

    def _check_schedule(self, schedule: Any) -> None:
        expect(schedule.display_name and schedule.max_concurrent_run_count > 0, "name and concurrency are required")
        expect(re.fullmatch(r"TZ=[A-Za-z/_]+( \S+){5}", schedule.cron), f"illegal cron {schedule.cron!r}")
        self._in_location(schedule.create_pipeline_job_request.parent)
        expect(not schedule.create_pipeline_job_request.pipeline_job_id, "pipeline_job_id must be empty")
        self._check_job(schedule.create_pipeline_job_request.pipeline_job)

    # How a call is answered.

    def answer(self, call: str, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self.calls.append(call)
            self.requests.append(request)
            ordered = [fault for fault in self.faults.get(call, []) if fault.times]
            fault = ordered[0] if ordered else None
            if fault is not None:
                fault.times -= 1
        if fault is not None and not fault.after:
            return self._break(fault, context)
        try:
            with self._lock:
                answer = getattr(self, call)(request)
        except RefusalError as refusal:
            if fault is not None:
                self._break(fault, context)
            context.abort(refusal.code, str(refusal))
        if fault is not None and fault.after:
            return self._break(fault, context)
        return answer

    def _break(self, fault: Fault, context: grpc.ServicerContext) -> Any:
        if isinstance(fault.what, grpc.StatusCode):
            self._refuse(fault, context)
        match fault.what:
            case "hang":
                self._stopping.wait()
            case "reset":
                self._relay.reset()
            case "kill":
                while not self.victim:
                    time.sleep(0.01)
                os.kill(self.victim, signal.SIGKILL)
            case "garbage":
                return b"\xff\xfe no message at all"
            case "empty":
                return b""
        return context.abort(Status.UNAVAILABLE, "gone")

    def _refuse(self, fault: Fault, context: grpc.ServicerContext) -> None:
        assert isinstance(fault.what, grpc.StatusCode)
        status = status_pb2.Status(code=fault.what.value[0], message=fault.message)
        if fault.quota or fault.reason:
            detail = any_pb2.Any()
            metadata = {"quota_metric": fault.quota} if fault.quota else {}
            detail.Pack(error_details_pb2.ErrorInfo(reason=fault.reason or "RATE_LIMIT_EXCEEDED", metadata=metadata))
            status.details.append(detail)
        context.abort_with_status(rpc_status.to_status(status))


_PIPELINES, _METADATA, _SCHEDULES = "PipelineService", "MetadataService", "ScheduleService"
_CALLS: dict[str, tuple[str, Any, Any]] = {
    "CreatePipelineJob": (_PIPELINES, v1.CreatePipelineJobRequest, v1.PipelineJob),
    "GetPipelineJob": (_PIPELINES, v1.GetPipelineJobRequest, v1.PipelineJob),
    "GetContext": (_METADATA, v1.GetContextRequest, v1.Context),
    "CreateContext": (_METADATA, v1.CreateContextRequest, v1.Context),
    "AddContextChildren": (_METADATA, v1.AddContextChildrenRequest, v1.AddContextChildrenResponse),
    "GetMetadataStore": (_METADATA, v1.GetMetadataStoreRequest, v1.MetadataStore),
    "CreateMetadataStore": (_METADATA, v1.CreateMetadataStoreRequest, None),
    "CreateSchedule": (_SCHEDULES, v1.CreateScheduleRequest, v1.Schedule),
    "GetSchedule": (_SCHEDULES, v1.GetScheduleRequest, v1.Schedule),
    "ListSchedules": (_SCHEDULES, v1.ListSchedulesRequest, v1.ListSchedulesResponse),
    "UpdateSchedule": (_SCHEDULES, v1.UpdateScheduleRequest, v1.Schedule),
    "PauseSchedule": (_SCHEDULES, v1.PauseScheduleRequest, None),
    "ResumeSchedule": (_SCHEDULES, v1.ResumeScheduleRequest, None),
    "DeleteSchedule": (_SCHEDULES, v1.DeleteScheduleRequest, None),
}


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, stand_in: VertexStandIn) -> None:
        self._stand_in = stand_in

    def service(self, handler_call_details: Any) -> Any:
        service, _, call = handler_call_details.method.rpartition("/")
        if call not in _CALLS or service != f"/google.cloud.aiplatform.v1.{_CALLS[call][0]}":
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

        return grpc.unary_unary_rpc_method_handler(serve, request.deserialize, serialize)


class Relay:
    """Passes bytes on between a port of its own and the server's; `reset` breaks every connection off."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        # Not those that come while these are broken off.
        broken, self._open = self._open, []
        for one in broken:
            with suppress(OSError):
                # Closing at once, with what is unsent thrown away, sends RST.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RD)
            one.close()

    def close(self) -> None:
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)


def _done(message: Any) -> Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return operations_pb2.Operation(name=f"{PARENT}/operations/1", done=True, response=packed)
