"""Administration: what an endpoint's controller asks of a server. All of it takes the server's bearer token.

GET    /shipway/v1/models/NAME                         the table: revisions with shares, readiness and reasons
PUT    /shipway/v1/models/NAME/revisions/ID            put a revision there (or move it), and wait until it is ready
DELETE /shipway/v1/models/NAME/revisions/ID            take it away once its open requests have ended
PUT    /shipway/v1/models/NAME/traffic                 shares and mirror, all at once
GET    /shipway/v1/models/NAME/windows?since=&until=   what each revision did
POST   /shipway/v1/models/NAME/revisions/ID/predict    V1, answered by that revision and no other
POST   /v2/repository/models/NAME/load, .../unload     one revision with all of the traffic; none
"""

import asyncio
import hmac
import logging
import math
import re
import time
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, ValidationError

from shipway.endpoints.protocol import ConflictError, revision_id
from shipway.errors import DigestMismatchError, NotBlessedError, ShipwayError
from shipway.lineage.documents import Blessing
from shipway.model.signature import RequestError
from shipway.serving.body import error_body, parse_json, read_body
from shipway.serving.isolated import ModelFaultError
from shipway.serving.limits import Limits, Refusal
from shipway.serving.predictions import V1, Choice, ask, check_name, refusal_reason
from shipway.serving.revision import Order, Revision
from shipway.serving.router import Router

log = logging.getLogger("shipway.serving")

REVISION = r"[a-z0-9]([a-z0-9.-]{0,126}[a-z0-9])?"
"""What a revision's id looks like."""

VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""What a version looks like: it stands in a header."""

_MODEL = "/shipway/v1/models/{name}"
_BODY_BYTES = 1 << 20

Text = Annotated[str, Field(strict=True)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


B = TypeVar("B", bound=_Body)


def _without_nul(path: str) -> str:
    if "\0" in path:
        raise ValueError("a path has no NUL")
    return path


class RevisionBody(_Body):
    """What is put on a server; the id stands in the path, or in a table.

    Attributes:
        path: The package's folder on the server's machine.
        version: The registry's version.
        digest: The digest of the package.
        blessing: The gate's verdict on it.
        isolated: Whether it gets a process of its own.
        edges: Inner edges of the histogram of a regression model's predictions; [] takes the server's.
    """

    path: Annotated[str, Field(strict=True, min_length=1), AfterValidator(_without_nul)]
    version: Annotated[str, Field(strict=True, pattern=rf"^{VERSION}$")]
    digest: Annotated[str, Field(strict=True, pattern=r"^sha256:[0-9a-f]{64}$")]
    blessing: Blessing | None = None
    isolated: StrictBool = False
    edges: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=list)

    def order(self, revision: str) -> Order:
        """Returns the order for a revision's id."""
        return Order(
            id=revision,
            path=Path(self.path),
            version=self.version,
            digest=self.digest,
            blessing=self.blessing,
            isolated=self.isolated,
            edges=tuple(self.edges),
        )


class MirrorBody(_Body):
    """What is mirrored to."""

    revision: Text
    percent: StrictInt


class TrafficBody(_Body):
    """Shares and mirror.

    Attributes:
        shares: Revision -> percent.
        mirror: What is mirrored to; None for nothing.
    """

    shares: dict[Text, StrictInt]
    mirror: MirrorBody | None = None


class Administration:
    """The administration's routes.

    Args:
        router: The revisions.
        token: The bearer token; "" switches administration off.
        instance: An id of this server process.
        limits: Bounds of a prediction.
        choice: Who a request goes to; its flag's counts are told.
    """

    def __init__(self, router: Router, token: str, instance: str, limits: Limits, choice: Choice) -> None:
        self._router = router
        self._token = token
        self._instance = instance
        self._limits = limits
        self._flags = choice.flags
        self._dialect = V1()

    def add_to(self, app: FastAPI) -> None:
        """Adds the routes to an application."""
        revision = f"{_MODEL}/revisions/{{revision}}"
        app.add_api_route(_MODEL, self._get_table, methods=["GET"])
        app.add_api_route(revision, self._stage, methods=["PUT"])
        app.add_api_route(revision, self._retire, methods=["DELETE"])
        app.add_api_route(f"{revision}/predict", self._predict, methods=["POST"])
        app.add_api_route(f"{_MODEL}/traffic", self._shift, methods=["PUT"])
        app.add_api_route(f"{_MODEL}/windows", self._windows, methods=["GET"])
        app.add_api_route("/v2/repository/models/{name}/load", self._load, methods=["POST"])
        app.add_api_route("/v2/repository/models/{name}/unload", self._unload, methods=["POST"])

    async def _get_table(self, request: Request) -> Response:
        self._authorize(request)
        return self._table()

    async def _stage(self, request: Request) -> Response:
        self._authorize(request)
        body = await self._body(request, RevisionBody)
        wanted = request.path_params["revision"]
        if not re.fullmatch(REVISION, wanted):
            raise Refusal(400, f"a revision's id is of lower-case letters, digits, dots and dashes, found {wanted!r}")
        try:
            revision = await self._router.stage(body.order(wanted))
        except ShipwayError as error:
            raise _refusal(error) from error
        log.warning("revision %s of %s is ready", revision.id, self._router.name)
        return self._table()

    async def _retire(self, request: Request) -> Response:
        self._authorize(request)
        await self._router.retire(request.path_params["revision"])
        return self._table()

    async def _shift(self, request: Request) -> Response:
        self._authorize(request)
        body = await self._body(request, TrafficBody)
        mirror = (body.mirror.revision, body.mirror.percent) if body.mirror and body.mirror.percent else None
        self._router.shift(body.shares, mirror)
        shares = ", ".join(f"{revision} {share} %" for revision, share in body.shares.items() if share)
        log.warning("%s: %s%s", self._router.name, shares, f", mirrored to {mirror[0]}" if mirror else "")
        return self._table()

    async def _windows(self, request: Request) -> Response:
        self._authorize(request)
        query = request.query_params
        since, until = _moment(query.get("since"), 0.0), _moment(query.get("until"), time.time())
        windows = await asyncio.to_thread(self._router.telemetry.windows, since, until)
        return _json({"windows": {name: window.model_dump() for name, window in windows.items()}})

    async def _predict(self, request: Request) -> Response:
        self._authorize(request)
        revision = self._router.revision(request.path_params["revision"])
        payload = parse_json(await read_body(request.scope, request.receive, self._limits))
        if not revision.ready:
            response = Response(error_body(revision.why_not), 503, media_type="application/json")
        else:
            response = await self._directed(revision, payload)
        response.raw_headers.extend(revision.headers)
        return response

    async def _directed(self, revision: Revision, payload: Any) -> Response:
        """Asks one revision; it counts as evidence, as when logged requests are sent again, and is not logged."""
        begun = time.perf_counter()
        try:
            answer = await ask(self._dialect, revision, payload, self._limits, begun)
        except (RequestError, Refusal, RecursionError) as error:
            revision.count.refused(time.perf_counter() - begun)
            if isinstance(error, Refusal):
                raise
            raise Refusal(400, refusal_reason(error)) from error
        except ModelFaultError as error:
            revision.count.failed(time.perf_counter() - begun)
            return Response(error_body(str(error)), 500, media_type="application/json")
        revision.count.answered(answer.seconds, answer.prediction, answer.rows, "", logged=False)
        return Response(answer.body, 200, media_type="application/json")

    async def _load(self, request: Request) -> Response:
        self._authorize(request)
        body = await self._body(request, RevisionBody)
        try:
            revision, changed = await self._router.replace_all(body.order(revision_id(body.version, body.digest)))
        except ShipwayError as error:
            raise _refusal(error) from error
        log.warning("serving %s version %s (%s)", self._router.name, revision.version, revision.digest)
        told = {"version": revision.version, "digest": revision.digest, "changed": changed}
        response = _json({"name": self._router.name, **told})
        response.raw_headers.extend(revision.headers)
        return response

    async def _unload(self, request: Request) -> Response:
        self._authorize(request)
        changed = await self._router.unload()
        log.warning("unloaded %s", self._router.name)
        return _json({"name": self._router.name, "changed": changed})

    def _table(self) -> Response:
        router = self._router
        table: dict[str, Any] = {
            "name": router.name,
            "instance": self._instance,
            "revisions": router.table(),
            "edges": router.edges,
        }
        if self._flags is not None:
            counts = self._flags.counts
            table["flag"] = {"steered": counts.steered, "fallbacks": counts.fallbacks}
        return _json(table)

    def _authorize(self, request: Request) -> None:
        if not self._token:
            raise Refusal(403, "administration is off: this server was started without a token")
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise Refusal(401, "administration needs the server's bearer token")
        check_name(self._router.name, request.path_params)

    async def _body(self, request: Request, kind: type[B]) -> B:
        payload = parse_json(await read_body(request.scope, request.receive, Limits(body_bytes=_BODY_BYTES)))
        try:
            return kind.model_validate(payload)
        except ValidationError as error:
            raise Refusal(400, fault_text(error)) from error


def fault_text(error: ValidationError) -> str:
    """Returns the first fault of a document as one line: where, what was found, what was expected."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(map(str, fault["loc"])) or "the body"
    return f"{where}: {fault['msg']}"


def _refusal(error: ShipwayError) -> Refusal:
    statuses = {NotBlessedError: 403, DigestMismatchError: 409, ConflictError: 409}
    return Refusal(statuses.get(type(error), 422), str(error))


def _moment(text: str | None, default: float) -> float:
    try:
        moment = float(text) if text else default
    except ValueError:
        moment = math.nan
    if not math.isfinite(moment):
        raise Refusal(400, f"since and until: expected seconds since the epoch, found {text!r}")
    return moment


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), 200, media_type="application/json")
