"""The trigger service's routes.

    POST /hooks/SOURCE                  an alert or event, see `hooks`
    GET  /alerts?limit=&before=&source= the last alerts, and what became of each and why
    GET  /alerts/ID                     one, with its payload
    GET  /runs?limit=&before=&route=    the last decisions that start a run, or act
    GET  /, /view/ID                    the last alerts, and one, as pages
    GET  /healthz, /readyz              liveness: intake and engine run; readiness: and the database answers
    GET  /metrics                       Prometheus, see `exposition`
    GET  /openapi.json                  all of this for machines

Alerts, runs and pages are for readers, who may have to show who they are. A fault of the service is a 500 whose reason
holds only a reference into the log.
"""

import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from shipway import __version__
from shipway.serving.body import error_body
from shipway.serving.direct import Direct
from shipway.serving.failures import add_error_handlers
from shipway.serving.limits import Refusal
from shipway.triggers.answers import (
    AlertsAnswer,
    ErrorAnswer,
    HealthAnswer,
    RunsAnswer,
    WholeAlertAnswer,
)
from shipway.triggers.exposition import Telemetry, expose
from shipway.triggers.hooks import HookEndpoint, hook_path
from shipway.triggers.intake import Intake
from shipway.triggers.openapi import describe
from shipway.triggers.page import alert_page, alerts_page
from shipway.triggers.settings import AppSettings
from shipway.triggers.store import Store, StoreError

log = logging.getLogger("shipway.triggers")

# The threads that store and decide must soon give the interpreter back to the requests.
_SWITCH_SECONDS = 0.0005
_MOST = 500
_PAGE_ALERTS = 100
_SAFE = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

Limit = Annotated[int, Query(ge=1, le=_MOST, description="How many at most.")]
Before = Annotated[
    float | None, Query(ge=0, le=1e12, allow_inf_nan=False, description="Only older ones; seconds since the epoch.")
]
Name = Annotated[str, Query(max_length=128, pattern=r"^[a-z0-9_-]*$")]
AlertId = Annotated[str, Path(pattern=r"^[0-9a-f]{24}$")]


class Engine(Protocol):
    """What makes runs of alerts."""

    @property
    def running(self) -> bool:
        """Whether its thread has not ended."""

    @property
    def alive(self) -> bool:
        """Whether it is at work."""

    def wake(self) -> None:
        """Says that there are new alerts; called from any thread."""


def create_app(settings: AppSettings, store: Store, engine: Engine, telemetry: Telemetry | None = None) -> FastAPI:
    """Returns the application.

    Args:
        settings: How it behaves.
        store: Where alerts are kept.
        engine: What makes runs of them.
        telemetry: Counts what comes in; default: one of its own.
    """
    counted = telemetry or Telemetry()
    intake = Intake(store, engine.wake, keep_seconds=settings.limits.keep_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        intake.start()
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            yield
        finally:
            sys.setswitchinterval(before)
            intake.close()

    app = FastAPI(
        title="Shipway trigger service",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses={code: {"model": ErrorAnswer} for code in (400, 500)},
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    _add_hooks(app, settings)
    _add_readers(app, settings, store)
    _add_health(app, store, intake, engine, counted)
    add_error_handlers(app, log)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(StoreError, _no_database)
    endpoints = {
        hook_path(name): HookEndpoint(hook, settings.limits, intake, counted) for name, hook in settings.hooks.items()
    }
    app.add_middleware(Direct, endpoints=endpoints)
    return app


def _add_hooks(app: FastAPI, settings: AppSettings) -> None:
    """Answers for hooks that there are not, and describes those that there are; they never get here, see `Direct`."""
    names = ", ".join(settings.hooks)

    async def nobody(source: str) -> Response:
        raise Refusal(404, f"no source {source[:64]!r} in the routes file; there are {names}")

    app.add_api_route("/hooks/{source}", nobody, methods=["POST"], include_in_schema=False)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            describe(FastAPI.openapi(app), settings)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it


def _add_readers(app: FastAPI, settings: AppSettings, store: Store) -> None:
    async def reader(request: Request) -> None:
        try:
            settings.readers.check_headers(request.headers)
        except Refusal as refusal:
            # A browser asks its user for a password then.
            challenge = (
                {"www-authenticate": 'Basic realm="shipway", charset="UTF-8"'} if refusal.status == 401 else None
            )
            raise HTTPException(refusal.status, refusal.reason, challenge) from refusal

    def alerts(limit: Limit = 100, before: Before = None, source: Name = "") -> dict[str, Any]:
        return {"alerts": store.alerts(limit, before, source)}

    def alert(alert_id: AlertId) -> dict[str, Any]:
        return _known(store.alert(alert_id))

    def runs(limit: Limit = 100, before: Before = None, route: Name = "") -> dict[str, Any]:
        return {"runs": store.runs(limit, before, route)}

    def overview() -> Response:
        return HTMLResponse(alerts_page(store.alerts(_PAGE_ALERTS), *store.counts()), headers=_SAFE)

    def view(alert_id: AlertId) -> Response:
        return HTMLResponse(alert_page(_known(store.alert(alert_id))), headers=_SAFE)

    def add(path: str, function: Callable[..., Any], model: Any = None, missing: bool = False) -> None:
        codes = (401, 403, 503, *((404,) if missing else ()))
        app.add_api_route(
            path,
            function,
            methods=["GET"],
            dependencies=[Depends(reader)],
            response_model=model,
            responses={code: {"model": ErrorAnswer} for code in codes},
        )

    add("/alerts", alerts, AlertsAnswer)
    add("/alerts/{alert_id}", alert, WholeAlertAnswer, missing=True)
    add("/runs", runs, RunsAnswer)
    add("/", overview)
    add("/view/{alert_id}", view, missing=True)


def _add_health(app: FastAPI, store: Store, intake: Intake, engine: Engine, telemetry: Telemetry) -> None:
    async def healthz() -> Response:
        # A thread that has ended comes back only with a new process; one that waits for the database is alive.
        ended = [name for name, part in (("intake", intake), ("engine", engine)) if not part.running]
        return JSONResponse({"ok": not ended, "reasons": [f"the {name} has ended" for name in ended]}, _health(ended))

    def readyz() -> Response:
        reasons = []
        if not intake.running:
            reasons.append("the intake does not run")
        if not engine.alive:
            reasons.append("the engine does not run")
        try:
            store.check()
        except StoreError as error:
            log.error("not ready: %s", error)
            reasons.append("the database does not answer")
        return JSONResponse({"ok": not reasons, "reasons": reasons}, _health(reasons))

    def metrics() -> Response:
        content, kind = expose(telemetry, store)
        return Response(content, 200, {"content-type": kind})

    unwell: dict[int | str, Any] = {503: {"model": HealthAnswer}}
    app.add_api_route("/healthz", healthz, methods=["GET"], response_model=HealthAnswer, responses=unwell)
    app.add_api_route("/readyz", readyz, methods=["GET"], response_model=HealthAnswer, responses=unwell)
    app.add_api_route("/metrics", metrics, methods=["GET"], responses={503: {"model": ErrorAnswer}})


def _health(reasons: list[str]) -> int:
    return 503 if reasons else 200


def _known(alert: dict[str, Any] | None) -> dict[str, Any]:
    if alert is None:
        raise Refusal(404, "no alert has this id")
    return alert


async def _not_valid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what the handler is registered for
    faults = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()]
    return Response(error_body("; ".join(faults)), 400, None, "application/json")


async def _no_database(_: Request, error: Exception) -> Response:
    log.error("%s", error)
    return Response(
        error_body("the database does not answer; try again"), 503, {"retry-after": "5"}, "application/json"
    )
