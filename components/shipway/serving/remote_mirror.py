"""Mirrors to another server, as a document in an object store says.

That is for KServe and Vertex, where every revision is a deployment of its own and nobody can reach all of its servers.

The document is `endpoints.control`'s. It is read every few seconds in the background. One that is missing means no
mirror; one that is malformed or cannot be read changes nothing, and is said once.

Copies carry `{"parameters": {"shipway-mirrored": true}}`: the server that gets them leaves them out of its metrics and
log and says in `server-timing` how long its model took, because the one that sends them counts and compares.
"""

import asyncio
import http.client
import logging
import re
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import orjson

from shipway.endpoints.control import MirrorOrder, read_control
from shipway.errors import ShipwayError
from shipway.serving import v1
from shipway.serving.isolated import ModelFaultError
from shipway.serving.model_slot import Array, ServedInfo
from shipway.serving.predictions import MIRRORED
from shipway.serving.router import Router

log = logging.getLogger("shipway.serving")

_POLL_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_THREADS = 4
_TIMING = re.compile(r"model;dur=([0-9.]+)")
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class RemoteTarget:
    """Another server, asked in V1 from a few threads that keep their connections."""

    def __init__(self, mirror: MirrorOrder, info: ServedInfo) -> None:
        parts = urlsplit(mirror.url)
        self._path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._host = parts.hostname or ""
        self._port = parts.port
        self._secure = parts.scheme == "https"
        self._info = info
        self._token = _GoogleToken() if mirror.auth == "google" else None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="mirror")
        self._local = threading.local()

    async def predict(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Array, float]:
        """See `MirrorTarget`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, rows)

    def close(self) -> None:
        """See `MirrorTarget`."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Array, float]:
        body = orjson.dumps({"instances": rows, "parameters": {MIRRORED: True}})
        headers = {"content-type": "application/json"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token.text()}"
        begun = time.perf_counter()
        try:
            status, timing, answer = self._post(body, headers)
            if status != http.client.OK:
                raise ModelFaultError(f"{self._host} answered HTTP {status}")
            prediction = v1.read_predictions(self._info, answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop()
            raise ModelFaultError(f"{self._host}: {error}") from error
        told = _TIMING.search(timing)
        return prediction, float(told[1]) / 1000 if told else time.perf_counter() - begun

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        kept: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        for connection in (kept, None):
            try:
                now = connection or self._connect()
                now.request("POST", self._path, body, dict(headers))
                response = now.getresponse()
                return response.status, response.headers.get("server-timing", ""), response.read()
            except (http.client.RemoteDisconnected, ConnectionError):
                # A connection kept from an earlier request may have been closed meanwhile.
                if connection is None:
                    raise
                self._drop()
        raise AssertionError("the second attempt returns or raises")

    def _connect(self) -> http.client.HTTPConnection:
        if self._secure:
            context = ssl.create_default_context()
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=_ANSWER_SECONDS, context=context
            )
        else:
            made = http.client.HTTPConnection(self._host, self._port, timeout=_ANSWER_SECONDS)
        self._local.connection = made
        return made

    def _drop(self) -> None:
        kept: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if kept is not None:
            kept.close()
            self._local.connection = None


class _GoogleToken:
    def __init__(self) -> None:
        self._credentials: Any = None
        self._one_at_a_time = threading.Lock()

    def text(self) -> str:
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests

        with self._one_at_a_time:
            try:
                if self._credentials is None:
                    self._credentials, _ = google.auth.default(scopes=[_SCOPE])
                if not self._credentials.valid:
                    self._credentials.refresh(google.auth.transport.requests.Request())
            except google.auth.exceptions.GoogleAuthError as error:
                raise ModelFaultError(f"no Google credentials: {error}") from error
            return str(self._credentials.token)


async def follow(uri: str, router: Router, poll_seconds: float = _POLL_SECONDS) -> None:
    """Does what the control document says, until it is cancelled.

    Args:
        uri: Where it lies: a path, or a URI that fsspec knows.
        router: The revisions; the mirror is changed when the document is.
        poll_seconds: How often it is read.
    """
    now: MirrorOrder | None = None
    said = ""
    while True:
        try:
            wanted = (await asyncio.to_thread(read_control, uri)).mirror
        except ShipwayError as error:
            if str(error) != said:
                said = str(error)
                log.warning("%s; what is mirrored stays as it is", said)
        else:
            said = ""
            primary = router.routes.primary
            if wanted is not None and any(own.id == wanted.revision for own in router.revisions):
                # This server is the one that is mirrored to.
                wanted = None
            if wanted != now and primary is not None and primary.info is not None:
                log.warning("mirroring to %s", f"{wanted.revision} ({wanted.percent} %)" if wanted else "nothing")
                now = wanted
                if wanted is None:
                    router.stop_mirror()
                else:
                    target = RemoteTarget(wanted, primary.info)
                    router.mirror_to(
                        wanted.revision, wanted.percent, target, wanted.version, primary.info, primary.edges
                    )
        await asyncio.sleep(poll_seconds)
