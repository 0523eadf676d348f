"""How an application answers what went wrong: one JSON body `{"error": "reason"}` for all of it."""

import logging
import secrets
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from shipway.serving.body import Disconnected, error_body
from shipway.serving.limits import Refusal


def add_error_handlers(app: FastAPI, log: logging.Logger) -> None:
    """Has an application answer refusals with their reason, and faults with a reference into the log.

    Args:
        app: The application.
        log: Where the reference of a fault is written.
    """

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
