"""A Kubernetes API server with KServe behind it, for tests: real HTTP, resource versions, conflicts, bearer tokens.

It knows InferenceServices with their status as a resource of its own, Leases, Pods with logs, and Services with their
proxy; `kserve_controller` does what KServe's webhook and controller do, at every look, so that no timer is needed.
"""

import copy
import http.server
import json
import re
import socket
import struct
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kserve_controller import Controller, Refused, admit
from kserve_workloads import Object, Workloads

from shipway.endpoints.client import call

TOKEN = "token-of-the-stand-in"
NAMESPACE = "shipway"
_KSERVE = "/apis/serving.kserve.io/v1beta1/namespaces/"
_SERVICES = re.compile(_KSERVE + r"(?P<namespace>[^/]+)/inferenceservices(/(?P<name>[^/]+)(?P<status>/status)?)?")
_LEASES = re.compile(
    r"/apis/coordination\.k8s\.io/v1/namespaces/(?P<namespace>[^/]+)/leases(/(?P<name>[^/]+))?(?P<status>)"
)
_PODS = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods(/(?P<name>[^/]+)/log)?")
_SERVICE = re.compile(
    r"/api/v1/namespaces/(?P<namespace>[^/]+)/services/(?P<name>[^/:]+)(:(?P<port>\d+))?(/proxy(?P<path>/.*))?"
)


@dataclass
class Fault:
    """What goes wrong with calls.

    Attributes:
        call: Pattern of `METHOD /path`.
        kind: A status; `reset` or `hang` without an answer; `after` for a reset once the call took effect.
        times: How often.
    """

    call: str
    kind: int | str
    times: int = 1


class StandIn:
    """The state of the cluster. `lock` guards all of it."""

    def __init__(self, folder: Path) -> None:
        self.lock = threading.RLock()
        self.workloads = Workloads(folder)
        self.controller = Controller(self.workloads)
        self.services: dict[str, Object] = {}
        self.leases: dict[str, Object] = {}
        self.faults: list[Fault] = []
        self.calls: list[str] = []
        self.rights: set[str] = {"inferenceservices", "leases", "pods", "services", "status"}
        self.knows_kserve = True
        self.knows_canary = True
        self.before: list[tuple[str, Any]] = []
        self.url = ""
        self._version = 100

    def next_version(self) -> str:
        self._version += 1
        return str(self._version)

    def look(self) -> None:
        """Lets the controller look at every InferenceService."""
        for body in self.services.values():
            status = self.controller.look(body)
            if status != body.get("status"):
                body["status"] = status
                body["metadata"]["resourceVersion"] = self.next_version()

    def weights(self, name: str) -> dict[str, int]:
        """Returns what the route of an InferenceService sends where."""
        with self.lock:
            self.look()
            return dict(self.controller.routes.get(name, {}))

    def uids(self) -> dict[str, str]:
        """Returns each workload's pod that is ready."""
        with self.lock:
            self.look()
            return {pod.workload: pod.uid for pod in self.workloads.all() if pod.ready}

    # --- Objects ------------------------------------------------------------------------------------------------------

    def targets(self) -> list[Object]:
        """Returns the pods that answer, as Prometheus' service discovery takes them."""
        return [
            {"targets": [f"127.0.0.1:{pod.port}"], "labels": {"namespace": NAMESPACE, "pod": pod.name}}
            for pod in self.workloads.all()
            if pod.port
        ]

    def handle(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any]:
        if (found := _SERVICES.fullmatch(path)) is not None:
            if not self.knows_kserve:
                raise Refused(404, "NotFound", "the server could not find the requested resource")
            self._allow("status" if found["status"] else "inferenceservices", method, found["namespace"])
            self.look()
            return self._objects(self.services, "inferenceservices", method, found, body)
        if (found := _LEASES.fullmatch(path)) is not None:
            self._allow("leases", method, found["namespace"])
            return self._objects(self.leases, "leases", method, found, body)
        if (found := _PODS.fullmatch(path)) is not None:
            self._allow("pods", method, found["namespace"])
            self.look()
            return self._log(found["name"]) if found["name"] else self._list_pods(query)
        if (found := _SERVICE.fullmatch(path)) is not None:
            self._allow("services", method, found["namespace"])
            self.look()
            return self._proxied(found, body) if found["path"] else self._service(found["name"])
        raise Refused(404, "NotFound", "the server could not find the requested resource")

    def _allow(self, what: str, method: str, namespace: str) -> None:
        if namespace != NAMESPACE or what not in self.rights:
            account = "system:serviceaccount:shipway:somebody"
            raise Refused(
                403,
                "Forbidden",
                f'{what} is forbidden: User "{account}" cannot {method.lower()} resource "{what}" in the namespace '
                f'"{namespace}"',
            )

    def _objects(
        self, kept: dict[str, Object], kind: str, method: str, found: re.Match[str], body: bytes
    ) -> tuple[int, Any]:
        name = found["name"]
        if method == "GET" and not name:
            return 200, {"kind": "List", "items": list(kept.values())}
        if method == "POST":
            return 201, self._create(kept, kind, json.loads(body))
        if name not in kept:
            raise Refused(404, "NotFound", f'{kind} "{name}" not found')
        if method == "GET":
            return 200, kept[name]
        if method == "DELETE":
            del kept[name]
            if kind == "inferenceservices":
                self.controller.forget(name)
            return 200, {"kind": "Status", "status": "Success"}
        sent = json.loads(body)
        if method == "PATCH" and found["status"]:
            changed = {**kept[name], "status": _merge(kept[name].get("status") or {}, sent["status"])}
            return 200, self._store(kept, name, changed)
        if method == "PUT" and not found["status"]:
            return 200, self._replace(kept, kind, name, sent)
        raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def _create(self, kept: dict[str, Object], kind: str, sent: Object) -> Object:
        name = sent["metadata"]["name"]
        if name in kept:
            raise Refused(409, "AlreadyExists", f'{kind} "{name}" already exists')
        if kind == "inferenceservices":
            self._prune(sent)
            admit(sent)
        sent["metadata"].update(uid=uuid.uuid4().hex, generation=1, resourceVersion=self.next_version())
        sent.pop("status", None)
        kept[name] = sent
        return sent

    def _replace(self, kept: dict[str, Object], kind: str, name: str, sent: Object) -> Object:
        now = kept[name]
        version = sent["metadata"].get("resourceVersion")
        if version is not None and version != now["metadata"]["resourceVersion"]:
            raise Refused(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {kind} "{name}": the object has been modified; please apply your '
                "changes to the latest version and try again",
            )
        if kind == "inferenceservices":
            self._prune(sent)
            admit(sent)
            sent["status"] = now.get("status") or {}
        metadata = {**sent["metadata"], "uid": now["metadata"]["uid"], "generation": now["metadata"]["generation"]}
        if kind == "inferenceservices" and sent["spec"] != now["spec"]:
            metadata["generation"] += 1
        return self._store(kept, name, {**sent, "metadata": metadata})

    def _store(self, kept: dict[str, Object], name: str, changed: Object) -> Object:
        changed["metadata"]["resourceVersion"] = kept[name]["metadata"]["resourceVersion"]
        if changed != kept[name]:
            changed = {**changed, "metadata": {**changed["metadata"], "resourceVersion": self.next_version()}}
            kept[name] = changed
        return kept[name]

    def _prune(self, sent: Object) -> None:
        """Drops a field that the custom resource definition of an older KServe does not have."""
        if not self.knows_canary:
            sent["spec"].pop("canary", None)

    def _list_pods(self, query: dict[str, str]) -> tuple[int, Any]:
        wanted = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
        pods = [pod.as_object(NAMESPACE) for pod in self.workloads.all()]
        found = [pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]
        return 200, {"kind": "PodList", "items": found}

    def _log(self, name: str) -> tuple[int, Any]:
        for pod in self.workloads.all():
            if pod.name == name:
                said = "botocore: An error occurred (403) when calling the HeadObject operation: Forbidden"
                return 200, said if pod.trouble == "initializer" else pod.log
        raise Refused(404, "NotFound", f'pods "{name}" not found')

    def _service(self, name: str) -> tuple[int, Any]:
        if name not in self.controller.services:
            raise Refused(404, "NotFound", f'services "{name}" not found')
        return 200, self.controller.services[name]

    def _proxied(self, found: re.Match[str], body: bytes) -> tuple[int, Any]:
        port = self.workloads.port(found["name"])
        if not port:
            raise Refused(503, "ServiceUnavailable", f'no endpoints available for service "{found["name"]}"')
        return 0, (f"http://127.0.0.1:{port}{found['path']}", body)


def _merge(now: Object, patch: Object) -> Object:
    """Lays a JSON merge patch (RFC 7386) over an object."""
    found = copy.deepcopy(now)
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _merge(found.get(name) or {}, value) if isinstance(value, dict) else value
    return found


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: StandIn

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        asked = f"{self.command} {parts.path}"
        if parts.path == "/targets":
            with self.cluster.lock:
                content = json.dumps(self.cluster.targets()).encode()
            self._answer(200, content, {"content-type": "application/json"})
            return
        if parts.path.startswith("/no-prometheus"):
            self._answer(200, b'{"status": "success", "data": {"resultType": "vector", "result": []}}', {})
            return
        fault = self._fault(asked)
        if fault is not None and fault.kind in ("reset", "hang"):
            self._hang_up()
            return
        try:
            if isinstance(fault, Fault) and isinstance(fault.kind, int):
                raise Refused(fault.kind, "InternalError", f"the stand-in answers {fault.kind}")
            if self.headers.get("authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            with self.cluster.lock:
                for pattern, act in list(self.cluster.before):
                    if re.search(pattern, asked):
                        self.cluster.before.remove((pattern, act))
                        act()
                status, answer = self.cluster.handle(self.command, parts.path, query, body)
                content = json.dumps(answer).encode() if isinstance(answer, dict) else b""
        except Refused as refused:
            self._answer_status(refused)
            return
        if fault is not None:
            self._hang_up()
        elif isinstance(answer, tuple):
            passed = call(self.command, *answer)
            self._answer(passed.status, passed.body, passed.headers)
        elif isinstance(answer, str):
            self._answer(status, answer.encode(), {"content-type": "text/plain"})
        else:
            self._answer(status, content, {"content-type": "application/json"})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - as http.server calls them

    def _fault(self, asked: str) -> Fault | None:
        with self.cluster.lock:
            self.cluster.calls.append(asked)
            for fault in self.cluster.faults:
                if fault.times and re.search(fault.call, asked):
                    fault.times -= 1
                    return fault
        return None

    def _answer_status(self, refused: Refused) -> None:
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": str(refused),
            "reason": refused.reason,
            "code": refused.status,
        }
        self._answer(refused.status, json.dumps(body).encode(), {"content-type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@contextmanager
def cluster(folder: Path) -> Iterator[StandIn]:
    """Runs a stand-in; its kubeconfig is `folder / "kubeconfig"`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = StandIn(folder / "pods")
    handler = type("Handler", (_Handler,), {"cluster": state})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        (folder / "kubeconfig").write_text(json.dumps(kubeconfig(state.url)))
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        state.workloads.close()


def kubeconfig(url: str, token: str = TOKEN) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "stand-in",
        "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in", "user": "ann"}}],
        "clusters": [{"name": "stand-in", "cluster": {"server": url}}],
        "users": [{"name": "ann", "user": {"token": token}}],
    }
