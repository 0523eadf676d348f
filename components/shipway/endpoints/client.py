"""A small HTTP client: no proxies, no redirects, and the server's answer also when it hangs up on an oversized body."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from shipway.errors import ShipwayError


class UnreachableError(ShipwayError):
    """A server did not answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response.

    Attributes:
        status: The HTTP status.
        headers: Names in lower case.
        body: The bytes.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Returns the body as JSON, or None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def reason(self) -> str:
        """Returns the `error` of a refusal, or the beginning of the body."""
        body = self.json()
        if isinstance(body, dict) and isinstance(body.get("error"), str):
            return str(body["error"])
        return self.body[:200].decode(errors="replace")


def call(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    seconds: float = 10.0,
) -> Answer:
    """Sends a request and returns the response, whatever its status.

    Raises:
        UnreachableError: Nobody answered in time.
    """
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)
    try:
        try:
            connection.request(method, target, body, {"content-type": "application/json", **(headers or {})})
        except (BrokenPipeError, ConnectionResetError):
            # The server had enough before the body was sent; its reason may still be there to read.
            if body is None or connection.sock is None:
                raise
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"{method} {url}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()


def json_bytes(value: object) -> bytes:
    """Returns a value as JSON.

    Raises:
        ValueError: It holds NaN or an infinity, which JSON cannot say.
    """
    return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
