"""Answers `POST /hooks/SOURCE`, straight on ASGI: who calls, what it says, stored, and only then acknowledged.

202 `{"alerts": [{"id": ..., "folded": false}, ...]}`, once they are on the disk; 400 malformed, 401 and 403 not let in,
405, 408 too slow, 409 the very same signed message, 413 too large, 415 another content type, 429 too many (with
`Retry-After`), 503 not stored, send it again. Whatever is refused has one JSON body `{"error": "reason"}`.
"""

import logging
import math

import orjson

from shipway.errors import ShipwayError
from shipway.serving.body import (
    Disconnected,
    Receive,
    Scope,
    Send,
    read_body,
    send_json,
    send_refusal,
)
from shipway.serving.limits import Limits, Refusal
from shipway.triggers.exposition import Telemetry
from shipway.triggers.intake import FullError, Intake
from shipway.triggers.limits import Rate
from shipway.triggers.settings import Hook, HookLimits
from shipway.triggers.sources.call import Call
from shipway.triggers.sources.kinds import read_call
from shipway.triggers.store import Stored, StoreError

log = logging.getLogger("shipway.triggers")

_BODY_SECONDS = 10.0
_RETRY = 5
# Of one source a second, before their bodies are read and their reasons logged.
_STRANGERS = 100.0


class TooManyRefusal(Refusal):
    """A caller should wait: 429 or 503.

    Attributes:
        seconds: How long.
    """

    def __init__(self, status: int, reason: str, seconds: float) -> None:
        super().__init__(status, reason)
        self.seconds = max(1, math.ceil(seconds))


class HookEndpoint:
    """One source's hook.

    Args:
        hook: The source.
        limits: What a caller may do at most.
        intake: What stores.
        telemetry: What counts.
    """

    def __init__(self, hook: Hook, limits: HookLimits, intake: Intake, telemetry: Telemetry) -> None:
        self._hook = hook
        self._name = hook.reading.source
        self._depth = limits.depth
        self._body = Limits(body_bytes=limits.body_bytes, body_seconds=_BODY_SECONDS)
        self._intake = intake
        self._telemetry = telemetry
        # Strangers have a bucket of their own, so that they cannot empty the one of who may call.
        self._known, self._strangers = Rate(limits.rate), Rate(min(_STRANGERS, limits.rate))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        try:
            stored = await self._answer(scope, receive)
        except Refusal as refusal:
            await self._refuse(scope, receive, send, refusal)
        except Disconnected:
            return
        else:
            alerts = [{"id": one.id, "folded": one.folded} for one in stored]
            await send_json(send, 202, orjson.dumps({"alerts": alerts}))

    async def _answer(self, scope: Scope, receive: Receive) -> list[Stored]:
        if scope["method"] != "POST":
            raise Refusal(405, "a hook takes POST")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        auth = self._hook.auth
        try:
            auth.check_headers(headers)
            body = await read_body(scope, receive, self._body)
            auth.check_body(headers, body)
        except Refusal as refusal:
            wait = self._strangers.take() if refusal.status in (401, 403) else 0.0
            if wait:
                raise TooManyRefusal(429, "too many requests that are not let in", wait) from refusal
            raise
        wait = self._known.take()
        if wait:
            raise TooManyRefusal(429, f"source {self._name} sends too many requests", wait)
        found = read_call(self._hook.kind, Call(headers, body, auth.signs_body, self._depth), self._hook.reading)
        if not found:
            return []
        auth.claim(headers)
        try:
            stored = await self._intake.put(found, len(body))
        except (StoreError, FullError) as error:
            auth.release(headers)
            raise TooManyRefusal(503, _reason(error), _RETRY) from error
        folded = sum(one.folded for one in stored)
        self._telemetry.alerts(self._name, "stored", len(stored) - folded)
        self._telemetry.alerts(self._name, "folded", folded)
        return stored

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
        headers: list[tuple[bytes, bytes]] = []
        if isinstance(refusal, TooManyRefusal):
            headers.append((b"retry-after", b"%d" % refusal.seconds))
        else:
            # A reason may repeat what was sent: a line break in it must not begin a line of the log.
            reason = refusal.reason if refusal.reason.isprintable() else repr(refusal.reason)
            log.warning("hook %s: refused (%d): %s", self._name, refusal.status, reason)
        if refusal.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if refusal.status < 500:
            self._telemetry.alerts(self._name, "refused")
        await send_refusal(scope, receive, send, refusal, self._body, headers)


def _reason(error: ShipwayError) -> str:
    # The database's own words are for the log.
    return str(error) if isinstance(error, FullError) else "it could not be stored; send it again"


def hook_path(name: str) -> str:
    """Returns the path of a source's hook."""
    return f"/hooks/{name}"
