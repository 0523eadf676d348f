"""Receivers of alerts as real HTTP servers: GitHub's issues, a webhook, Secret Manager; each can misbehave."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "ghp_averysecrettokenindeed"


@dataclass
class Request:
    """What was received."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """What is answered."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class StandIn:
    """A server that keeps what it receives.

    Attributes:
        requests: All of it.
        faults: What is answered to the next requests instead of the right answer; `hang` waits until the server ends.
            None lets one request through.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: list[Reply | str | None] = []
        self.always: Reply | str | None = None
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.url = ""

    def answer(self, request: Request) -> Reply:
        """Returns the right answer."""
        return Reply(405 if request.method not in ("POST", "GET") else 204)

    def sent(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]


class GitHub(StandIn):
    """GitHub's REST API, as far as issues go: list (by labels, by page), create, update, comment."""

    def __init__(self) -> None:
        super().__init__()
        self.issues: list[dict[str, Any]] = []
        self.comments: dict[int, list[str]] = {}
        self.may_label = True
        self.per_page = 100

    def answer(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply(401, {"message": "Bad credentials"})
        parts = request.path.strip("/").split("/")
        if parts[:4] != ["repos", "acme", "models", "issues"]:
            return Reply(404, {"message": "Not Found"})
        rest = parts[4:]
        if request.method == "GET" and not rest:
            return self._listed(request)
        if request.method == "POST" and not rest:
            return self._made(request.json)
        return self._one(request, int(rest[0]))

    def _one(self, request: Request, number: int) -> Reply:
        """Updates an issue, or lists or writes its comments."""
        issue = next(issue for issue in self.issues if issue["number"] == number)
        if request.method == "PATCH":
            issue.update(request.json)
            return Reply(200, issue)
        if request.method == "GET":
            assert request.query["since"].endswith("Z")
            return Reply(200, [{"body": body} for body in self.comments[number]])
        self.comments[number].append(request.json["body"])
        return Reply(201, {"id": len(self.comments[number])})

    def add(self, body: str, *labels: str, state: str = "open", **more: Any) -> dict[str, Any]:
        """Puts an issue there."""
        number = len(self.issues) + 1
        issue = {"number": number, "body": body, "state": state, "labels": [{"name": name} for name in labels], **more}
        self.issues.append(issue)
        self.comments[number] = []
        return issue

    def _made(self, wanted: dict[str, Any]) -> Reply:
        labels = wanted["labels"] if self.may_label else []
        issue = self.add(wanted["body"], *labels, title=wanted["title"])
        return Reply(201, issue)

    def _listed(self, request: Request) -> Reply:
        labels = set(filter(None, request.query.get("labels", "").split(",")))
        found = [
            issue
            for issue in reversed(self.issues)
            if issue["state"] == request.query["state"] and labels <= {label["name"] for label in issue["labels"]}
        ]
        size, page = min(int(request.query["per_page"]), self.per_page), int(request.query.get("page", "1"))
        headers = {}
        if len(found) > size * page:
            query = "&".join(f"{key}={value}" for key, value in {**request.query, "page": str(page + 1)}.items())
            headers["Link"] = f'<{self.url}{request.path}?{query}>; rel="next"'
        return Reply(200, found[size * (page - 1) : size * page], headers)


class Google(StandIn):
    """The token endpoint of a service account, and Secret Manager."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: dict[str, str] = {}

    def answer(self, request: Request) -> Reply:
        if request.path == "/token":
            return Reply(200, {"access_token": "ya29.token", "expires_in": 3600, "token_type": "Bearer"})
        name = request.path.removeprefix("/v1/").removesuffix(":access")
        if request.headers.get("authorization") != "Bearer ya29.token" or name not in self.secrets:
            return Reply(403, {"error": {"message": "Permission denied"}})
        data = base64.b64encode(self.secrets[name].encode()).decode()
        return Reply(200, {"name": name, "payload": {"data": data}})


@contextmanager
def served(stand_in: StandIn) -> Iterator[StandIn]:
    """Serves a stand-in on a free port of this machine for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            address = urlsplit(self.path)
            length = int(self.headers.get("Content-Length", 0))
            request = Request(
                self.command,
                address.path,
                {key: values[0] for key, values in parse_qs(address.query).items()},
                {name.lower(): value for name, value in self.headers.items()},
                self.rfile.read(length),
            )
            with stand_in.lock:
                stand_in.requests.append(request)
                fault = stand_in.faults.pop(0) if stand_in.faults else stand_in.always
                after = fault == "hang after"
                reply = stand_in.answer(request) if fault is None or after else fault
            if reply == "hang" or after:
                stand_in.over.wait(60)
                return
            if reply == "drop":
                return
            assert isinstance(reply, Reply)
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = answer  # noqa: N815 - what http.server calls

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield stand_in
    finally:
        stand_in.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
