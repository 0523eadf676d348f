"""The server's routes.

A prediction is answered by plain ASGI under FastAPI's router, see `predictions`: FastAPI's own request handling (and a
pydantic body above all) costs more than the prediction itself.

    GET  /v1/models                                    names
    GET  /v1/models/NAME                               readiness
    POST /v1/models/NAME:predict                       KServe V1, see `v1`
    GET  /v2                                           the server: version, extensions, limits, instance
    GET  /v2/health/live, /v2/health/ready             liveness, readiness
    GET  /v2/models/NAME[/versions/V][/ready]          metadata, readiness
    POST /v2/models/NAME[/versions/V]/infer            Open Inference V2, see `v2`; a version that has traffic
    GET  /metrics                                      Prometheus
    AIP_HEALTH_ROUTE, AIP_PREDICT_ROUTE                Vertex's custom container; the prediction is V1's
    /shipway/v1/..., /v2/repository/...                administration, bearer token; see `admin`

Every prediction carries `x-model-name`, `x-model-version`, `x-model-digest` and `x-shipway-revision`: whose it is.
Whatever is refused has one JSON body `{"error": "reason"}`: 400 a request that is malformed or does not fit the model,
401 and 403 administration without the right token, 404 an unknown path, model or version, 405, 408, 413 too many bytes
or rows, 415 a compressed body, 503 no model loaded. A fault of the server is a 500 whose reason holds only a reference
into the log.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.routing import Route

from shipway import __version__
from shipway.serving import v2
from shipway.serving.access_log import AccessLog
from shipway.serving.admin import Administration
from shipway.serving.body import Receive, Scope, Send
from shipway.serving.direct import Direct
from shipway.serving.failures import add_error_handlers
from shipway.serving.limits import Limits
from shipway.serving.predictions import V1, V2, Choice, Predictions, check_name, first_choice
from shipway.serving.revision import Revision
from shipway.serving.router import Router

log = logging.getLogger("shipway.serving")

SERVER_NAME = "shipway"


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


def create_app(
    router: Router,
    settings: AppSettings | None = None,
    choice: Choice | None = None,
    access: AccessLog | None = None,
) -> FastAPI:
    """Returns the application that serves a router's revisions.

    Args:
        router: The revisions.
        settings: How the application behaves.
        choice: Who a request goes to; default: by the shares of the traffic.
        access: The access log; None for none.
    """
    settings, choice = settings or AppSettings(), choice or Choice()
    app = FastAPI(
        title="Shipway model server",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # Asked for at each request whether somebody set it up.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    rows_in = Predictions(router, V1(), settings.limits, choice)
    tensors_in = Predictions(router, V2(router.name), settings.limits, choice)
    vertex = [Route(settings.predict_route, rows_in)] if settings.predict_route else []
    app.router.routes.extend(
        [
            *vertex,
            Route("/v1/models/{name}:predict", rows_in),
            Route("/v2/models/{name}/infer", tensors_in),
            Route("/v2/models/{name}/versions/{version}/infer", tensors_in),
        ]
    )
    _add_health(app, router, settings)
    _add_models(app, router)
    _add_metrics(app, router)
    Administration(router, settings.token, settings.instance, settings.limits, choice).add_to(app)
    add_error_handlers(app, log)
    paths = {f"/v1/models/{router.name}:predict": rows_in, f"/v2/models/{router.name}/infer": tensors_in}
    app.add_middleware(Direct, endpoints={**paths, **({settings.predict_route: rows_in} if vertex else {})})
    if access is not None:
        app.add_middleware(_Accessed, access=access)
    return app


class _Accessed:
    """Writes a line of the access log for every request; see `predictions` for the note of revision and rows."""

    def __init__(self, app: Any, access: AccessLog) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        note: list[Any] = ["", 0]
        scope["shipway.note"] = note
        status = 0

        async def told(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            seconds = time.perf_counter() - begun
            self._access.write(scope["method"], scope["path"], status or 500, note[0], seconds, note[1])


def _add_health(app: FastAPI, router: Router, settings: AppSettings) -> None:
    async def live() -> Response:
        return json_response(200, {"live": True})

    async def ready() -> Response:
        is_ready = router.ready
        return json_response(200 if is_ready else 503, {"ready": is_ready})

    async def server() -> Response:
        limits = settings.limits
        return json_response(
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


def _add_models(app: FastAPI, router: Router) -> None:
    async def names() -> Response:
        return json_response(200, {"models": [router.name]})

    async def v1_ready(request: Request) -> Response:
        check_name(router.name, request.path_params)
        is_ready = router.ready
        return json_response(200 if is_ready else 503, {"name": router.name, "ready": is_ready}, router.routes.primary)

    async def v2_ready(request: Request) -> Response:
        revision = first_choice(router, request.path_params)
        is_ready = revision.ready or router.fallback(revision) is not None
        return json_response(200 if is_ready else 503, {"name": router.name, "ready": is_ready}, revision)

    async def v2_metadata(request: Request) -> Response:
        revision = first_choice(router, request.path_params)
        assert revision.info is not None  # noqa: S101 - it has traffic, and so was loaded
        others = [other.version for other in router.revisions if other.share]
        versions = list(dict.fromkeys([revision.version, *others]))
        return json_response(200, v2.metadata(router.name, versions, revision.info), revision)

    app.add_api_route("/v1/models", names, methods=["GET"])
    app.add_api_route("/v1/models/{name}", v1_ready, methods=["GET"])
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        app.add_api_route(path, v2_metadata, methods=["GET"])
        app.add_api_route(f"{path}/ready", v2_ready, methods=["GET"])


def _add_metrics(app: FastAPI, router: Router) -> None:
    async def metrics() -> Response:
        content, kind = await asyncio.to_thread(router.telemetry.exposition)
        return Response(content, 200, {"content-type": kind})

    app.add_api_route("/metrics", metrics, methods=["GET"])


def json_response(status: int, value: Any, revision: Revision | None = None) -> Response:
    """Returns a JSON response, in a revision's name where there is one."""
    response = Response(orjson.dumps(value), status, media_type="application/json")
    if revision is not None:
        response.raw_headers.extend(revision.headers)
    return response
