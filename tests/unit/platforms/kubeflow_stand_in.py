"""A KFP server for tests: it answers to the v2beta1 REST API as published, over real sockets, and fails on demand.

Paths, parameters and bodies are checked against `kfp_server_api`, which is made from the published swagger; what that
does not know gets 400. What the swagger does not say follows the KFP server's own source: names are unique for
pipelines, versions and experiments, and not for runs and schedules; filters ignore case; times are whole seconds.
"""

import datetime as dt
import email.parser
import email.policy
import inspect
import json
import re
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import kfp_server_api
import yaml
from kfp_server_api import api, models

Entry = dict[str, Any]
TOKEN = "token-of-the-stand-in"
USER, PASSWORD = "ann@example.com", "a password of Ann's"
SESSION = "authservice_session=session-of-the-stand-in"
_STAMPS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_FILTER_OPERATIONS = {1: "EQUALS", 9: "IS_SUBSTRING", "EQUALS": "EQUALS", "IS_SUBSTRING": "IS_SUBSTRING"}


@dataclass
class Fault:
    """What goes wrong with a call.

    Attributes:
        call: The call, as `POST /runs`.
        kind: A status, or `hang`, `reset`, `malformed`, `wrong`, `login` (a page with 200), `redirect`.
        times: How often.
        after: Whether the call takes effect before it goes wrong.
        headers: Headers of the answer.
    """

    call: str
    kind: int | str
    times: int = 1
    after: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):  # noqa: N818 - an answer, no fault of the stand-in's
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _routes() -> list[tuple[str, str, re.Pattern[str], set[str], Any]]:
    """Reads every published path with its parameters and body out of the generated client."""
    found = []
    for name in dir(api):
        if not name.endswith("ServiceApi"):
            continue
        for method, function in inspect.getmembers(getattr(api, name), inspect.isfunction):
            if not method.endswith("_with_http_info"):
                continue
            source = inspect.getsource(function)
            call = re.search(r"call_api\(\s*'([^']+)', '(\w+)'", source)
            assert call is not None, method
            path = re.escape(call[1]).replace(r"\{", "{").replace(r"\}", "}")
            pattern = re.compile(re.sub(r"{[^}]+}", r"([^/:]+)", path))
            query = set(re.findall(r"query_params\.append\(\('(\w+)'", source))
            body = re.search(r"body_params = local_var_params\['(\w+)'\]", source)
            kind = re.search(rf":type {body[1]}: (\w+)", source) if body else None
            found.append((method.removesuffix("_with_http_info"), call[2], pattern, query, kind and kind[1]))
    # A literal path goes before one with a parameter.
    return sorted(found, key=lambda route: route[2].pattern.count("("))


_ROUTES = _routes()


def check(kind: str, value: Any, where: str) -> None:  # noqa: PLR0912 - one branch a kind of type
    """Checks a body against a published type.

    Raises:
        Refused: It has another form.
    """
    if kind.startswith(("list[", "dict(")):
        inner = kind[5:-1].rpartition(", ")[2]
        expected: type = list if kind.startswith("list") else dict
        if not isinstance(value, expected):
            raise Refused(400, f"{where}: expected {kind}, found {value!r}")
        for number, entry in enumerate(value.values() if isinstance(value, dict) else value):
            check(inner, entry, f"{where}[{number}]")
    elif kind in ("str", "int", "bool"):
        # 64-bit numbers are strings in the swagger, and numbers as well in JSON.
        allowed = {"str": (str, int), "int": (int,), "bool": (bool,)}[kind]
        if not isinstance(value, allowed) or (kind != "bool" and isinstance(value, bool)):
            raise Refused(400, f"{where}: expected {kind}, found {value!r}")
    elif kind == "datetime":
        if not isinstance(value, str) or not _STAMPS.fullmatch(value):
            raise Refused(400, f"{where}: expected a time with its zone, found {value!r}")
    elif kind != "object":
        model = getattr(models, kind)
        if not model.openapi_types:
            if value not in model.allowable_values:
                raise Refused(400, f"{where}: expected one of {model.allowable_values}, found {value!r}")
            return
        if not isinstance(value, dict):
            raise Refused(400, f"{where}: expected {kind}, found {value!r}")
        names = {theirs: ours for ours, theirs in model.attribute_map.items()}
        # Protobuf's JSON has names in camel case as well.
        names |= {re.sub(r"_(\w)", lambda found: found[1].upper(), ours): ours for ours in model.openapi_types}
        for key, entry in value.items():
            if key not in names:
                raise Refused(400, f"{where}: unknown field {key!r} of {kind}")
            check(model.openapi_types[names[key]], entry, f"{where}.{key}")


@lru_cache
def _documents(text: str) -> list[Entry]:
    return list(yaml.load_all(text, yaml.CSafeLoader))


class StandIn:
    """The server and all that it knows.

    Attributes:
        url: Where it listens.
        calls: Every call that came, as `POST /runs`.
        faults: What is to go wrong.
        token: What a bearer token must be; "" for no authentication.
        dex: Whether a session from Dex is wanted.
        multi_user: Whether it serves many users, so that most calls need a namespace.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.faults: list[Fault] = []
        self.token = ""
        self.dex = False
        self.logins = 0
        self.session = SESSION
        self.multi_user = False
        self.page = 2
        self.pipelines: list[Entry] = []
        self.versions: list[Entry] = []
        self.experiments: list[Entry] = []
        self.runs: list[Entry] = []
        self.recurring: list[Entry] = []
        self.stop_at: tuple[int, bool] | None = None
        self.stopped, self.released = threading.Event(), threading.Event()
        self.before: Callable[[str], None] | None = None
        self.most_active = 0
        self.url = ""
        self._lock = threading.RLock()

    def forget(self) -> None:
        """Begins anew with what was asked and what goes wrong; what is kept stays."""
        self.calls.clear()
        self.faults.clear()
        self.stop_at = None
        self.stopped.clear()
        self.released.clear()

    @property
    def live(self) -> list[Entry]:
        """The runs that go on or have ended by themselves."""
        return [run for run in self.runs if run["state"] not in ("CANCELING", "CANCELED")]

    @property
    def active(self) -> list[Entry]:
        """The schedules that are switched on."""
        return [entry for entry in self.recurring if entry["status"] == "ENABLED"]

    def seen(self, call: str) -> int:
        """How often a call came."""
        return self.calls.count(call)

    def fault(self, call: str) -> Fault | None:
        with self._lock:
            found = next((entry for entry in self.faults if entry.call == call and entry.times > 0), None)
            if found:
                found.times -= 1
            return found

    def stop(self, after: bool) -> bool:
        """Holds the call that the test wants to stop at; tells whether it was this one."""
        if self.stop_at != (len(self.calls), after):
            return False
        self.stopped.set()
        self.released.wait(60)
        return True

    def stamp(self) -> str:
        """The time now, whole seconds, as KFP keeps it."""
        return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """Answers a call that is in order.

        Raises:
            Refused: It is not.
        """
        for name, verb, pattern, known, kind in _ROUTES:
            match = pattern.fullmatch(path)
            if match is None or verb != method:
                continue
            unknown = query.keys() - known
            if unknown:
                raise Refused(400, f"unknown query parameter {sorted(unknown)}")
            if kind:
                check(kind, body, "body")
            handler = getattr(self, f"_{name.partition('_service_')[2] or name}", None)
            if handler is None:
                raise Refused(501, f"the stand-in does not do {name}")
            with self._lock:
                answered = handler(query, body, *map(unquote, match.groups()))
                self.most_active = max(self.most_active, len(self.active))
            return answered
        raise Refused(404, f"no {method} {path}")

    def _get_healthz(self, _query: Entry, _body: Any) -> Entry:
        return {"multi_user": True} if self.multi_user else {}

    def _namespace(self, found: str | None) -> str:
        if self.multi_user and not found:
            raise Refused(400, "Invalid resource references for experiment. Namespace is empty.")
        return found or ""

    def _page(self, entries: list[Entry], query: Entry, key: str) -> Entry:
        if text := query.get("filter"):
            wanted = json.loads(text)
            if wanted.keys() != {"predicates"}:
                raise Refused(400, f"a filter of {sorted(wanted)}")
            for predicate in wanted["predicates"]:
                operation = _FILTER_OPERATIONS[predicate["operation"]]
                check("V2beta1Predicate", predicate | {"operation": operation}, "filter")
                if predicate["key"] not in ("name", "display_name"):
                    raise Refused(400, f"no support for filtering on {predicate['key']}")
                value = predicate["stringValue"].lower()
                entries = [
                    entry
                    for entry in entries
                    if (value == entry[predicate["key"]].lower() if operation == "EQUALS" else value in entry["name"])
                ]
        # Small pages, so that whoever reads but the first of them is found out.
        size = min(int(query.get("page_size") or 20), self.page)
        begin = int(query.get("page_token") or 0)
        answer: Entry = {key: entries[begin : begin + size]} if entries[begin : begin + size] else {}
        if begin + size < len(entries):
            answer["next_page_token"] = str(begin + size)
        return answer | ({"total_size": len(entries)} if entries else {})

    def _unique(self, entries: list[Entry], **key: str) -> None:
        if any(all(entry.get(name) == value for name, value in key.items()) for entry in entries):
            raise Refused(409, f"Already exist error: {key}")

    def _one(self, entries: list[Entry], key: str, wanted: str) -> Entry:
        found = next((entry for entry in entries if entry[key] == wanted), None)
        if found is None:
            raise Refused(404, f"ResourceNotFound: {wanted}")
        return found

    def _list_pipelines(self, query: Entry, _body: Any) -> Entry:
        place = query.get("namespace", "")
        return self._page([entry for entry in self.pipelines if entry["namespace"] == place], query, "pipelines")

    def _create_pipeline(self, _query: Entry, body: Entry) -> Entry:
        name = body.get("name") or body["display_name"]
        place = body.get("namespace", "")
        self._unique(self.pipelines, name=name, namespace=place)
        self.pipelines.append(
            {
                "pipeline_id": str(uuid.uuid4()),
                "name": name,
                "display_name": body.get("display_name") or name,
                "created_at": self.stamp(),
                "namespace": place,
            }
        )
        return self.pipelines[-1]

    def _list_pipeline_versions(self, query: Entry, _body: Any, pipeline: str) -> Entry:
        self._one(self.pipelines, "pipeline_id", pipeline)
        own = [entry for entry in self.versions if entry["pipeline_id"] == pipeline]
        return self._page(own, query, "pipeline_versions")

    def _upload_pipeline_version(self, query: Entry, body: str) -> Entry:
        self._one(self.pipelines, "pipeline_id", query["pipelineid"])
        self._unique(self.versions, name=query["name"], pipeline_id=query["pipelineid"])
        documents = _documents(body)
        if not documents or len(documents) > 2 or "pipelineInfo" not in documents[0]:
            raise Refused(400, "Failed to create a pipeline version: not a pipeline spec")
        self.versions.append(
            {
                "pipeline_id": query["pipelineid"],
                "pipeline_version_id": str(uuid.uuid4()),
                "name": query["name"],
                "display_name": query["name"],
                "created_at": self.stamp(),
                "text": body,
            }
        )
        return {key: value for key, value in self.versions[-1].items() if key != "text"}

    def _list_experiments(self, query: Entry, _body: Any) -> Entry:
        place = self._namespace(query.get("namespace"))
        return self._page([entry for entry in self.experiments if entry["namespace"] == place], query, "experiments")

    def _create_experiment(self, _query: Entry, body: Entry) -> Entry:
        place = self._namespace(body.get("namespace"))
        self._unique(self.experiments, display_name=body["display_name"], namespace=place)
        self.experiments.append(
            {
                "experiment_id": str(uuid.uuid4()),
                "display_name": body["display_name"],
                "namespace": place,
                "storage_state": "AVAILABLE",
            }
        )
        return self.experiments[-1]

    def _list_runs(self, query: Entry, _body: Any) -> Entry:
        self._namespace(query.get("namespace") or query.get("experiment_id"))
        own = [run for run in self.runs if run["experiment_id"] == query.get("experiment_id", run["experiment_id"])]
        return self._page(own, query, "runs")

    def _pipeline_of(self, body: Entry) -> None:
        self._one(self.experiments, "experiment_id", body["experiment_id"])
        version = self._one(
            self.versions, "pipeline_version_id", body["pipeline_version_reference"]["pipeline_version_id"]
        )
        spec = _documents(version["text"])[0]
        known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        given = body["runtime_config"]["parameters"]
        wrong = given.keys() - known.keys()
        missing = [
            name
            for name, entry in known.items()
            if name not in given and "defaultValue" not in entry and not entry.get("isOptional")
        ]
        if wrong or missing:
            raise Refused(400, f"parameters unknown: {sorted(wrong)}, missing: {missing}")

    def _create_run(self, query: Entry, body: Entry) -> Entry:  # noqa: ARG002 - every handler has the same form
        self._pipeline_of(body)
        self.runs.append(body | {"run_id": str(uuid.uuid4()), "created_at": self.stamp(), "state": "PENDING"})
        return self.runs[-1]

    def _get_run(self, _query: Entry, _body: Any, run: str) -> Entry:
        return self._one(self.runs, "run_id", run)

    def _terminate_run(self, _query: Entry, _body: Any, run: str) -> Entry:
        self._one(self.runs, "run_id", run)["state"] = "CANCELING"
        return {}

    def _list_recurring_runs(self, query: Entry, _body: Any) -> Entry:
        own = [entry for entry in self.recurring if entry["experiment_id"] == query["experiment_id"]]
        return self._page(own, query, "recurringRuns")

    def _create_recurring_run(self, _query: Entry, body: Entry) -> Entry:
        self._pipeline_of(body)
        if not 1 <= int(body["max_concurrency"]) <= 10:
            raise Refused(400, "Max concurrency of a recurring run must be at least 1 and at most 10.")
        if len(body["trigger"]["cron_schedule"]["cron"].split()) != 6:
            raise Refused(400, "the stand-in takes no cron expression without seconds: KFP would misread it")
        status = "ENABLED" if body["mode"] == "ENABLE" else "DISABLED"
        made = {"recurring_run_id": str(uuid.uuid4()), "created_at": self.stamp(), "status": status}
        self.recurring.append(body | made | {"max_concurrency": str(body["max_concurrency"])})
        return self.recurring[-1]

    def _get_recurring_run(self, _query: Entry, _body: Any, wanted: str) -> Entry:
        return self._one(self.recurring, "recurring_run_id", wanted)

    def _enable_recurring_run(self, _query: Entry, _body: Any, wanted: str) -> Entry:
        self._one(self.recurring, "recurring_run_id", wanted).update(status="ENABLED", mode="ENABLE")
        return {}

    def _disable_recurring_run(self, _query: Entry, _body: Any, wanted: str) -> Entry:
        self._one(self.recurring, "recurring_run_id", wanted).update(status="DISABLED", mode="DISABLE")
        return {}

    def _delete_recurring_run(self, _query: Entry, _body: Any, wanted: str) -> Entry:
        self.recurring.remove(self._one(self.recurring, "recurring_run_id", wanted))
        return {}


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"
    # An answer's head and body leave as one packet, or each waits 40 ms for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        stand_in = self.server.stand_in
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if "/apis/" not in parts.path:
            self._dex(parts.path, raw)
            return
        path = parts.path[parts.path.index("/apis/") :]
        # Ids differ from run to run, calls do not.
        shown = re.sub(r"/[0-9a-f]{8}-[0-9a-f-]{27}", "/ID", path.removeprefix("/apis/v2beta1"))
        call = f"{self.command} {shown}"
        stand_in.calls.append(call)
        if stand_in.before:
            stand_in.before(call)
        if stand_in.stop(after=False):
            self._reset()
            return
        fault = stand_in.fault(call)
        if fault and not fault.after:
            self._fail(fault)
            return
        try:
            self._admitted()
            query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
            answer = stand_in.answer(self.command, path, query, self._body(raw))
            status = 200
        except Refused as error:
            status, answer = error.status, {"code": 3, "message": str(error), "error": str(error)}
        if stand_in.stop(after=True):
            self._reset()
        elif fault:
            self._fail(fault)
        else:
            self._send(status, json.dumps(answer))

    do_GET = do_POST = do_DELETE = do_PATCH = _serve  # noqa: N815 - http.server's names

    def _admitted(self) -> None:
        stand_in = self.server.stand_in
        if stand_in.token and self.headers.get("authorization") != f"Bearer {stand_in.token}":
            raise Refused(401, f"Unauthorized: {self.headers.get('authorization')}")
        if stand_in.dex and self.headers.get("cookie") != stand_in.session:
            raise Refused(401, f"no session: {self.headers.get('cookie')}")

    def _body(self, raw: bytes) -> Any:
        kind = self.headers.get("content-type", "")
        if kind.startswith("multipart/form-data"):
            parser = email.parser.BytesParser(policy=email.policy.HTTP)
            message = parser.parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + raw)
            (part,) = message.iter_parts()
            if part.get_param("name", header="content-disposition") != "uploadfile":
                raise Refused(400, "Failed to read pipeline from file")
            return part.get_payload(decode=True).decode()
        return json.loads(raw) if raw else None

    def _fail(self, fault: Fault) -> None:
        match fault.kind:
            case int(status):
                self._send(status, '{"error": "made to fail", "code": 13}', headers=fault.headers)
            case "hang":
                self.server.stand_in.released.wait(60)
                self._reset()
            case "reset":
                self._reset()
            case "malformed":
                self._send(200, '{"runs": [')
            case "wrong":
                self._send(200, '{"runs": ["a"], "experiments": 5, "pipelines": {"a": 1}, "pipeline_versions": [1]}')
            case "login":
                self._send(200, "<!DOCTYPE html><title>Log in to Your Account</title>", kind="text/html")
            case "redirect":
                self._send(302, "", headers={"Location": "/dex/auth/local/login?state=x"})

    def _reset(self) -> None:
        # Without lingering, closing sends RST instead of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, text: str, kind: str = "application/json", headers: Any = None) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _dex(self, path: str, raw: bytes) -> None:
        """The way of a browser without a session: sign-in page, Dex's connectors, its form, and back."""
        stand_in = self.server.stand_in
        to = {
            "/": "/oauth2/sign_in?rd=/",
            "/oauth2/start": "/dex/auth?client_id=kubeflow&state=abc",
            "/dex/auth/local": "/dex/auth/local/login?state=abc",
        }
        if path in to and stand_in.dex and SESSION not in (self.headers.get("cookie") or ""):
            self._send(302, "", headers={"Location": to[path]})
        elif path == "/dex/auth/local/login" and self.command == "POST":
            form = {name: values[0] for name, values in parse_qs(raw.decode()).items()}
            if form == {"login": USER, "password": PASSWORD}:
                stand_in.logins += 1
                self._send(303, "", headers={"Location": "/done", "Set-Cookie": f"{stand_in.session}; Path=/"})
            else:
                self._send(200, "<html>Invalid Email Address and password", kind="text/html")
        else:
            self._send(200, "<html>a page", kind="text/html")

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - http.server's name
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    stand_in: StandIn

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that were killed."""


@contextmanager
def serving() -> Iterator[StandIn]:
    """Runs a stand-in on a free port of this machine."""
    stand_in = StandIn()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.stand_in = stand_in
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        stand_in.released.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


assert kfp_server_api.__version__.startswith("2."), "the stand-in answers to version 2 of the API"
