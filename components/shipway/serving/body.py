"""Reads request bodies within bounds, and writes small JSON answers, straight on ASGI."""

import asyncio
from collections.abc import Iterable
from typing import Any

import orjson

from shipway.serving.limits import Limits, Refusal
from shipway.serving.patience import Patience

# Starlette's own aliases for ASGI's callables are looser than this; nothing here depends on them.
Scope = Any
Receive = Any
Send = Any
Headers = Iterable[tuple[bytes, bytes]]

_LINGER_SECONDS = 2.0
_patience = Patience()
_NO_HEADERS: tuple[tuple[bytes, bytes], ...] = ()


class Disconnected(Exception):  # noqa: N818 - nobody is left to be told of an error
    """The caller went away before its request was whole."""


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Reads a request's body.

    Raises:
        Refusal: It is too large (413), compressed (415) or too slow to come (408).
        Disconnected: The caller went away.
    """
    for name, value in scope["headers"]:
        if name == b"content-length":
            if int(value) > limits.body_bytes:
                raise _too_large(limits)
        elif name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            raise Refusal(415, "compressed bodies are not taken; send the JSON as it is")
    task = _patience.enter(limits.body_seconds)
    try:
        body = await _read_all(receive, limits)
    except asyncio.CancelledError as error:
        if not _patience.leave(task):
            raise
        raise Refusal(408, f"the body was not whole after {limits.body_seconds:g} s") from error
    except BaseException:
        _patience.leave(task)
        raise
    _patience.leave(task)
    return body


async def send_json(
    send: Send, status: int, body: bytes, headers: Headers = _NO_HEADERS, close: bool = False, last: bool = True
) -> None:
    """Sends a JSON response.

    Args:
        send: ASGI's send.
        status: The HTTP status.
        body: The JSON text.
        headers: More headers.
        close: Whether the connection ends with this response.
        last: False leaves the response open, with nothing more to come but its end.
    """
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    if close:
        head.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body, "more_body": not last})


async def send_refusal(
    scope: Scope, receive: Receive, send: Send, refusal: Refusal, limits: Limits, headers: Headers = _NO_HEADERS
) -> None:
    """Answers with a refusal's reason.

    After 408 and 413 the connection is closed, because what is left of the body is not wanted. A socket that is closed
    with bytes unread resets the connection, and the caller would lose the reason with it; so a bounded rest is read and
    thrown away first.
    """
    body = error_body(refusal.reason)
    if refusal.status == 405:
        headers = (*headers, (b"allow", b"POST"))
    if refusal.status not in (408, 413):
        await send_json(send, refusal.status, body, headers)
        return
    await send_json(send, refusal.status, body, headers, close=True, last=False)
    if not any(name == b"expect" for name, _ in scope["headers"]):
        await _discard(receive, 2 * limits.body_bytes)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def error_body(reason: str) -> bytes:
    """Returns the JSON that every refusal and failure has for a body."""
    return orjson.dumps({"error": reason})


def parse_json(body: bytes) -> Any:
    """Parses a body.

    Raises:
        Refusal: It is not JSON. NaN and infinities are not, nor is nesting deeper than 1,024 taken.
    """
    if not body:
        raise Refusal(400, "the body is empty; expected JSON")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the body is larger than {limits.body_bytes} bytes")


async def _read_all(receive: Receive, limits: Limits) -> bytes:
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body: bytes = message.get("body", b"")
        if len(parts) + len(body) > limits.body_bytes:
            raise _too_large(limits)
        if not message.get("more_body"):
            return bytes(parts + body) if parts else body
        parts += body


async def _discard(receive: Receive, most: int) -> None:
    seen = 0
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            while seen <= most:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
                seen += len(message.get("body", b""))
    except TimeoutError:
        return
