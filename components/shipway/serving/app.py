"""The server's routes.

A prediction is answered by plain ASGI under FastAPI's router: bytes in, NumPy in between, bytes out. FastAPI's own
request handling (and a pydantic body above all) costs more than the prediction itself.

    GET  /v1/models                                    names
    GET  /v1/models/NAME                               readiness
    POST /v1/models/NAME:predict                       KServe V1, see `v1`
    GET  /v2                                           the server: version, extensions, limits, instance
    GET  /v2/health/live, /v2/health/ready             liveness, readiness
    GET  /v2/models/NAME[/versions/V][/ready]          metadata, readiness
    POST /v2/models/NAME[/versions/V]/infer            Open Inference V2, see `v2`
    POST /v2/repository/models/NAME/load, .../unload   swap or remove the model; bearer token
    AIP_HEALTH_ROUTE, AIP_PREDICT_ROUTE                Vertex's custom container; the prediction is V1's

Every prediction carries `x-model-name`, `x-model-version` and `x-model-digest`. Whatever is refused has one JSON body
`{"error": "reason"}`: 400 a request that is malformed or does not fit the model, 401 and 403 administration without the
right token, 404 an unknown path, model or version, 405, 408, 413 too many bytes or rows, 415 a compressed body, 503 no
model loaded. A fault of the server is a 500 whose reason holds only a reference into the log.
"""

import asyncio
import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from shipway import __version__
from shipway.errors import DigestMismatchError, ShipwayError
from shipway.model.signature import RequestError
from shipway.serving import v1, v2
from shipway.serving.body import (
    Disconnected,
    Receive,
    Scope,
    Send,
    error_body,
    parse_json,
    read_body,
    send_json,
    send_refusal,
)
from shipway.serving.limits import Limits, Refusal
from shipway.serving.model_slot import Array, ModelSlot, Revision

log = logging.getLogger("shipway.serving")

SERVER_NAME = "shipway"
_ADMIN_BODY_BYTES = 64 * 1024
_VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


@dataclass(frozen=True, slots=True)
class AppSettings:
    """How the application behaves.

    Attributes:
        limits: Bounds of a request.
        token: Bearer token for administration; "" switches administration off.
        instance: An id of this server process, told at `/v2`.
        health_route: Vertex's health route; "" for none.
        predict_route: Vertex's predict route; "" for none.
    """

    limits: Limits = field(default_factory=Limits)
    token: str = ""
    instance: str = ""
    health_route: str = ""
    predict_route: str = ""


class Dialect(Protocol):
    """How a protocol writes requests and responses."""

    def read(self, payload: Any, revision: Revision, limits: Limits) -> tuple[list[Any], Any]:
        """Returns the rows, and what `write` needs to know of the request."""

    def write(self, revision: Revision, request: Any, prediction: Array) -> bytes:
        """Returns the response body."""


class _V1:
    def read(self, payload: Any, revision: Revision, limits: Limits) -> tuple[list[Any], Any]:  # noqa: ARG002
        return v1.read_rows(payload, limits), None

    def write(self, revision: Revision, request: Any, prediction: Array) -> bytes:  # noqa: ARG002
        return v1.write_predictions(revision.package.info, prediction)


class _V2:
    def read(self, payload: Any, revision: Revision, limits: Limits) -> tuple[list[Any], Any]:
        request = v2.read_request(payload, revision.package.info, limits)
        return request.rows, request

    def write(self, revision: Revision, request: Any, prediction: Array) -> bytes:
        return v2.write_response(revision, request, prediction)


class Predictions:
    """An ASGI endpoint that answers predictions in one dialect."""

    def __init__(self, slot: ModelSlot, dialect: Dialect, limits: Limits) -> None:
        self._slot = slot
        self._dialect = dialect
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        limits = self._limits
        revision: Revision | None = None
        try:
            if scope["method"] != "POST":
                raise Refusal(405, f"{scope['method']} is not taken here; POST a prediction request")
            revision = _revision(self._slot, scope["path_params"])
            payload = parse_json(await read_body(scope, receive, limits))
            rows, request = self._dialect.read(payload, revision, limits)
            if len(rows) > limits.inline_rows:
                body = await asyncio.to_thread(self._answer, revision, rows, request)
            else:
                body = self._answer(revision, rows, request)
        except Refusal as refusal:
            await send_refusal(scope, receive, send, refusal, limits, revision.headers if revision else ())
        except RequestError as error:
            await send_json(send, 400, error_body(str(error)), revision.headers if revision else ())
        except RecursionError:
            await send_json(send, 400, error_body("a value is nested too deeply"), revision.headers if revision else ())
        except Disconnected:
            return
        else:
            await send_json(send, 200, body, revision.headers)

    def _answer(self, revision: Revision, rows: list[Any], request: Any) -> bytes:
        return self._dialect.write(revision, request, revision.predict(rows))


def create_app(slot: ModelSlot, settings: AppSettings | None = None) -> FastAPI:
    """Returns the application that serves a slot's model."""
    settings = settings or AppSettings()
    app = FastAPI(title="Shipway model server", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    rows_in = Predictions(slot, _V1(), settings.limits)
    tensors_in = Predictions(slot, _V2(), settings.limits)
    vertex = [Route(settings.predict_route, rows_in)] if settings.predict_route else []
    app.router.routes.extend(
        [
            *vertex,
            Route("/v1/models/{name}:predict", rows_in),
            Route("/v2/models/{name}/infer", tensors_in),
            Route("/v2/models/{name}/versions/{version}/infer", tensors_in),
        ]
    )
    _add_health(app, slot, settings)
    _add_models(app, slot)
    _add_administration(app, slot, settings)
    _add_error_handlers(app)
    return app


def _add_health(app: FastAPI, slot: ModelSlot, settings: AppSettings) -> None:
    async def live() -> Response:
        return _json(200, {"live": True})

    async def ready() -> Response:
        is_ready = slot.current is not None
        return _json(200 if is_ready else 503, {"ready": is_ready})

    async def server() -> Response:
        limits = settings.limits
        return _json(
            200,
            {
                "name": SERVER_NAME,
                "version": __version__,
                "extensions": ["model_repository"] if settings.token else [],
                "limits": {"body_bytes": limits.body_bytes, "rows": limits.rows},
                "instance": settings.instance,
            },
        )

    if settings.health_route:
        app.add_api_route(settings.health_route, ready, methods=["GET"])
    app.add_api_route("/v2/health/live", live, methods=["GET"])
    app.add_api_route("/v2/health/ready", ready, methods=["GET"])
    app.add_api_route("/v2", server, methods=["GET"])


def _add_models(app: FastAPI, slot: ModelSlot) -> None:
    async def names() -> Response:
        return _json(200, {"models": [slot.name]})

    async def v1_ready(request: Request) -> Response:
        _check_name(slot, request.path_params)
        revision = slot.current
        return _json(200 if revision else 503, {"name": slot.name, "ready": revision is not None}, revision)

    async def v2_ready(request: Request) -> Response:
        revision = _revision(slot, request.path_params)
        return _json(200, {"name": slot.name, "ready": True}, revision)

    async def v2_metadata(request: Request) -> Response:
        revision = _revision(slot, request.path_params)
        return _json(200, v2.metadata(revision), revision)

    app.add_api_route("/v1/models", names, methods=["GET"])
    app.add_api_route("/v1/models/{name}", v1_ready, methods=["GET"])
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        app.add_api_route(path, v2_metadata, methods=["GET"])
        app.add_api_route(f"{path}/ready", v2_ready, methods=["GET"])


def _add_administration(app: FastAPI, slot: ModelSlot, settings: AppSettings) -> None:
    limits = Limits(body_bytes=_ADMIN_BODY_BYTES)

    async def load(request: Request) -> Response:
        _authorize(request, settings.token)
        _check_name(slot, request.path_params)
        body = parse_json(await read_body(request.scope, request.receive, limits))
        path, version, digest = _load_order(body)
        try:
            revision, before = await slot.load(Path(path), version, digest)
        except DigestMismatchError as error:
            raise Refusal(409, str(error)) from error
        except ShipwayError as error:
            raise Refusal(422, str(error)) from error
        log.warning("serving %s version %s (%s)", slot.name, revision.version, revision.digest)
        return _json(
            200,
            {
                "name": slot.name,
                "version": revision.version,
                "digest": revision.digest,
                "changed": revision is not before,
            },
            revision,
        )

    async def unload(request: Request) -> Response:
        _authorize(request, settings.token)
        _check_name(slot, request.path_params)
        before = await slot.unload()
        log.warning("unloaded %s", slot.name)
        return _json(200, {"name": slot.name, "changed": before is not None})

    app.add_api_route("/v2/repository/models/{name}/load", load, methods=["POST"])
    app.add_api_route("/v2/repository/models/{name}/unload", unload, methods=["POST"])


def _add_error_handlers(app: FastAPI) -> None:
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)  # noqa: S101 - what the handler is registered for
        close = {"connection": "close"} if error.status in (408, 413) else None
        return Response(error_body(error.reason), error.status, close, "application/json")

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - what the handler is registered for
        headers = dict(error.headers or {})
        return Response(error_body(str(error.detail)), error.status_code, headers, "application/json")

    async def fault(request: Request, error: Exception) -> Response:
        reference = secrets.token_hex(6)
        # Starlette raises the error again and uvicorn logs its traceback, right below this line.
        log.error("reference %s: %s %s: %s", reference, request.method, request.url.path, type(error).__name__)
        return Response(error_body(f"internal error, reference {reference}"), 500, None, "application/json")

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=400)

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        Refusal: refused,
        Disconnected: gone,
        HTTPException: http_error,
        Exception: fault,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _json(status: int, value: Any, revision: Revision | None = None) -> Response:
    response = Response(orjson.dumps(value), status, media_type="application/json")
    if revision is not None:
        response.raw_headers.extend(revision.headers)
    return response


def _check_name(slot: ModelSlot, path_params: dict[str, Any]) -> None:
    name = path_params.get("name", slot.name)
    if name != slot.name:
        raise Refusal(404, f"no model {name!r} here; there is {slot.name!r}")


def _revision(slot: ModelSlot, path_params: dict[str, Any]) -> Revision:
    """Returns the revision that a path means; without a name or version, the served one."""
    _check_name(slot, path_params)
    revision = slot.current
    if revision is None:
        raise Refusal(503, f"model {slot.name!r} is not loaded")
    version = path_params.get("version", revision.version)
    if version != revision.version:
        raise Refusal(404, f"no version {version!r} of model {slot.name!r} here; there is {revision.version!r}")
    return revision


def _authorize(request: Request, token: str) -> None:
    if not token:
        raise Refusal(403, "administration is off: this server was started without a token")
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise Refusal(401, "administration needs the server's bearer token")


def _load_order(body: Any) -> tuple[str, str, str]:
    if not isinstance(body, dict) or body.keys() != {"path", "version", "digest"}:
        raise Refusal(400, 'expected {"path": ..., "version": ..., "digest": ...}')
    path, version, digest = body["path"], body["version"], body["digest"]
    if not (isinstance(path, str) and path and "\0" not in path):
        raise Refusal(400, "'path' must be the package's folder on this machine")
    if not (isinstance(version, str) and re.fullmatch(_VERSION, version)):
        raise Refusal(400, f"'version' must match {_VERSION}")
    if not (isinstance(digest, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", digest)):
        raise Refusal(400, "'digest' must be sha256: and 64 hexadecimal digits")
    return path, version, digest
