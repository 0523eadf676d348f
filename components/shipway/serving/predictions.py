"""Answers predictions: plain ASGI, bytes in, NumPy in between, bytes out.

A request goes to one revision, by a flag, by the caller's key or by chance. Where that one cannot answer, by its own
fault, or refuses what another would take, another one answers, and the first is charged with the error: a
candidate costs no caller an answer. What was answered is mirrored, where that is on, after it was sent.
"""

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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
from shipway.serving.flags import Flags
from shipway.serving.isolated import ModelFaultError
from shipway.serving.limits import Limits, Refusal
from shipway.serving.model_slot import Array, ServedInfo
from shipway.serving.revision import Revision
from shipway.serving.router import Router
from shipway.serving.sticky import Sticky

log = logging.getLogger("shipway.serving")

MIRRORED = "shipway-mirrored"
"""Entry of a request's `parameters` that says: the server in front counts and compares this one; here it is not."""


class Dialect(Protocol):
    """How a protocol writes requests and responses."""

    def read(self, payload: Any, info: ServedInfo, limits: Limits) -> tuple[list[Any], Any]:
        """Returns the rows, and what `write` needs to know of the request."""

    def write(self, revision: Revision, info: ServedInfo, request: Any, prediction: Array) -> bytes:
        """Returns the response body."""


class V1:
    """KServe's V1 protocol."""

    def read(self, payload: Any, info: ServedInfo, limits: Limits) -> tuple[list[Any], Any]:  # noqa: ARG002
        """See `Dialect`."""
        return v1.read_rows(payload, limits), None

    def write(self, revision: Revision, info: ServedInfo, request: Any, prediction: Array) -> bytes:  # noqa: ARG002
        """See `Dialect`."""
        return v1.write_predictions(info, prediction)


class V2:
    """The Open Inference Protocol."""

    def __init__(self, name: str) -> None:
        self._name = name

    def read(self, payload: Any, info: ServedInfo, limits: Limits) -> tuple[list[Any], Any]:
        """See `Dialect`."""
        request = v2.read_request(payload, info, limits)
        return request.rows, request

    def write(self, revision: Revision, info: ServedInfo, request: Any, prediction: Array) -> bytes:
        """See `Dialect`."""
        return v2.write_response(self._name, revision.version, info, request, prediction)


@dataclass(frozen=True, slots=True)
class Choice:
    """Who a request goes to.

    Attributes:
        sticky: Finds the caller's key; None draws at random.
        flags: The flag that may name a version; None for none.
    """

    sticky: Sticky | None = None
    flags: Flags | None = None


class Answered(NamedTuple):
    """An answer.

    Attributes:
        body: The response's body.
        rows: The request's rows.
        prediction: What the model predicted for them.
        seconds: The model's own time.
    """

    body: bytes
    rows: list[Any]
    prediction: Array
    seconds: float


class Predictions:
    """An ASGI endpoint that answers predictions in one dialect.

    Args:
        router: The revisions.
        dialect: The protocol.
        limits: Bounds of a request.
        choice: Who a request goes to.
    """

    def __init__(self, router: Router, dialect: Dialect, limits: Limits, choice: Choice) -> None:
        self._router = router
        self._dialect = dialect
        self._limits = limits
        self._choice = choice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        limits = self._limits
        revision: Revision | None = None
        mirrored = False
        try:
            if scope["method"] != "POST":
                raise Refusal(405, f"{scope['method']} is not taken here; POST a prediction request")
            # Whoever a refusal is charged to, until the request says more.
            revision = first_choice(self._router, scope["path_params"])
            body = await read_body(scope, receive, limits)
            begun = time.perf_counter()
            payload = parse_json(body)
            mirrored = is_mirrored(payload)
            key, revision = await self._choose(scope, payload, revision)
            answer, revision = await self._answer(revision, payload, begun)
        except (Refusal, RequestError, RecursionError) as error:
            _note(scope, revision, 0)
            if revision is not None and not mirrored:
                revision.count.refused(0.0)
            refusal = error if isinstance(error, Refusal) else Refusal(400, refusal_reason(error))
            await send_refusal(scope, receive, send, refusal, limits, revision.headers if revision else ())
        except ModelFaultError as fault:
            _note(scope, revision, 0)
            await send_json(send, 500, error_body(str(fault)), revision.headers if revision else ())
        except Disconnected:
            return
        else:
            _note(scope, revision, len(answer.rows))
            if mirrored:
                timing = (b"server-timing", b"model;dur=%.3f" % (answer.seconds * 1000))
                await send_json(send, 200, answer.body, (*revision.headers, timing))
                return
            await send_json(send, 200, answer.body, revision.headers)
            revision.count.answered(answer.seconds, answer.prediction, answer.rows, key)
            mirror = self._router.mirror
            if mirror is not None and mirror.revision != revision.id:
                mirror.offer(answer.rows, answer.prediction)

    async def _choose(self, scope: Scope, payload: Any, revision: Revision) -> tuple[str, Revision]:
        """Returns the caller's key and who its request goes to."""
        choice, headers = self._choice, scope["headers"]
        key = choice.sticky.key(headers, payload) if choice.sticky is not None else ""
        if "version" in scope["path_params"]:
            return key, revision
        if choice.flags is not None and (version := await choice.flags.version(key, headers)):
            steered = self._router.of_version(version)
            mirror = self._router.mirror
            if steered is not None and steered.ready and (mirror is None or mirror.revision != steered.id):
                choice.flags.counts.steered += 1
                return key, steered
            choice.flags.missed(version)
        # Drawn anew: `revision` was drawn without the key, and may be gone since.
        return key, self._router.routes.choose(key) or revision

    async def _answer(self, revision: Revision, payload: Any, begun: float) -> tuple[Answered, Revision]:
        """Asks a revision, and another one where it cannot answer; returns the answer and whose it is.

        Raises:
            RequestError: The request does not fit the model.
            Refusal: It is malformed.
            ModelFaultError: Nobody answers.
        """
        try:
            return await ask(self._dialect, revision, payload, self._limits, begun), revision
        except ModelFaultError:
            revision.count.failed(time.perf_counter() - begun)
            other = self._router.fallback(revision)
            if other is None:
                raise
        except (RequestError, Refusal):
            # A candidate that refuses what the older one takes would lose requests.
            other = self._router.fallback(revision, only_older=True)
            if other is None or other.digest == revision.digest:
                raise
            answer = await ask(self._dialect, other, payload, self._limits, time.perf_counter())
            revision.count.failed(time.perf_counter() - begun)
            return answer, other
        return await ask(self._dialect, other, payload, self._limits, time.perf_counter()), other


async def ask(dialect: Dialect, revision: Revision, payload: Any, limits: Limits, begun: float) -> Answered:
    """Asks one revision.

    Raises:
        RequestError: The request does not fit the model.
        Refusal: It is malformed.
        ModelFaultError: There is no answer, by the revision's fault; the message is fit for a caller.
    """
    info, slot = revision.info, revision.slot
    if info is None:
        raise ModelFaultError(f"revision {revision.id} is not ready")
    rows, request = dialect.read(payload, info, limits)
    try:
        if slot is None:
            prediction, seconds = await revision.ask(rows)
            body = dialect.write(revision, info, request, prediction)
        elif len(rows) > limits.inline_rows:
            prediction = await asyncio.to_thread(slot.predict, rows)
            body = await asyncio.to_thread(dialect.write, revision, info, request, prediction)
            seconds = time.perf_counter() - begun
        else:
            prediction = slot.predict(rows)
            body = dialect.write(revision, info, request, prediction)
            seconds = time.perf_counter() - begun
    except (RequestError, RecursionError):
        raise
    except Exception as error:  # a model's code may raise anything
        reference = secrets.token_hex(6)
        known = isinstance(error, ModelFaultError)
        log.error("reference %s: revision %s: %s", reference, revision.id, error if known else "", exc_info=not known)
        raise ModelFaultError(f"internal error, reference {reference}") from error
    return Answered(body, rows, prediction, seconds)


def first_choice(router: Router, path_params: dict[str, Any]) -> Revision:
    """Returns the revision that a path means, or the one with the greatest share.

    Raises:
        Refusal: 404 another model, or a version without traffic; 503 nothing is served.
    """
    check_name(router.name, path_params)
    primary = router.routes.primary
    if primary is None:
        raise Refusal(503, f"model {router.name!r} is not loaded")
    version = path_params.get("version")
    if version is None or version == primary.version:
        return primary
    found = router.of_version(version)
    if found is None or not found.share:
        there = ", ".join(repr(served.version) for served in router.revisions if served.share)
        raise Refusal(404, f"no version {version!r} of model {router.name!r} here; there is {there}")
    return found


def check_name(name: str, path_params: dict[str, Any]) -> None:
    """Refuses another model's name in a path.

    Raises:
        Refusal: With status 404.
    """
    found = path_params.get("name", name)
    if found != name:
        raise Refusal(404, f"no model {found!r} here; there is {name!r}")


def is_mirrored(payload: Any) -> bool:
    """Tells whether a request is a copy that another server sent."""
    if not isinstance(payload, dict) or len(payload) < 2:
        return False
    parameters = payload.get("parameters")
    return isinstance(parameters, dict) and MIRRORED in parameters


def refusal_reason(error: RequestError | RecursionError) -> str:
    """Returns what a caller is told of a request that does not fit the model."""
    return str(error) if isinstance(error, RequestError) else "a value is nested too deeply"


def _note(scope: Scope, revision: Revision | None, rows: int) -> None:
    """Tells the access log, where there is one, what a request was."""
    note = scope.get("shipway.note")
    if note is not None:
        note[:] = [revision.id if revision is not None else "", rows]
