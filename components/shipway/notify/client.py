"""JSON over HTTP to a receiver of alerts: bounded in time and size, without redirects, without secrets in messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shipway import __version__
from shipway.notify.delivery import Deadline, DeliveryError

if TYPE_CHECKING:
    import requests

# The longest that one answer may take, seconds, and its greatest size, bytes: GitHub's list of 100 issues fits.
_ANSWER_SECONDS = 10.0
_MOST_BYTES = 16 * 2**20
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver answered.

    Attributes:
        status: HTTP status, 200 to 299.
        body: Its JSON; None where it is none.
        following: URL of the next page of a list; "" after the last.
    """

    status: int
    body: Any
    following: str


def ask(
    method: str,
    url: str,
    deadline: Deadline,
    *,
    token: str = "",
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    parameters: Mapping[str, str | int] | None = None,
) -> Answer:
    """Sends one request and returns the answer.

    Args:
        method: GET, POST or PATCH.
        url: Where to.
        deadline: When it is too late.
        token: Bearer token; "" for none.
        headers: More headers.
        body: What to send, as JSON.
        parameters: The query.

    Raises:
        DeliveryError: No answer, or one that is not 200 to 299.
    """
    import requests
    from urllib3.exceptions import HTTPError

    own = {"User-Agent": f"shipway/{__version__}", "Content-Type": "application/json", **(headers or {})}
    # A request may take its share of the time left, so that a receiver that hangs once can be asked again.
    patience = max(0.1, min(_ANSWER_SECONDS, deadline.left() / 2))

    def authenticate(request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Given even without a token, as requests would send what a .netrc has for the host.
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    try:
        with requests.request(
            method,
            url,
            params=parameters,
            data=json.dumps(body, allow_nan=False).encode() if body is not None else None,
            headers=own,
            auth=authenticate,
            timeout=patience,
            allow_redirects=False,
            stream=True,
        ) as response:
            raw: bytes = response.raw.read(_MOST_BYTES + 1, decode_content=True)
    except requests.exceptions.SSLError as error:
        raise DeliveryError(f"its certificate was refused ({_host(url)})") from error
    except (requests.exceptions.Timeout, TimeoutError) as error:
        raise DeliveryError(f"no answer within {patience:.0f} s ({_host(url)})", passes=True) from error
    except (requests.RequestException, HTTPError, OSError) as error:
        raise DeliveryError(f"cannot be reached ({_host(url)}: {_kind(error)})", passes=True) from error
    if len(raw) > _MOST_BYTES:
        raise DeliveryError(f"an answer of more than {_MOST_BYTES} bytes ({_host(url)})")
    found = _json(raw)
    if not 200 <= response.status_code <= 299:
        raise _refusal(response, found, token)
    return Answer(response.status_code, found, response.links.get("next", {}).get("url", ""))


def _refusal(response: requests.Response, body: Any, token: str) -> DeliveryError:
    status = response.status_code
    if 300 <= status <= 399:
        return DeliveryError(f"answered {status}: it has moved, and Shipway follows nowhere; give its new address")
    said = (
        next((body[key] for key in ("message", "detail", "reason", "error") if body.get(key)), "")
        if isinstance(body, dict)
        else ""
    )
    words = " ".join(str(said).split())
    reason = "".join(letter for letter in words if letter.isprintable())
    if token:
        reason = reason.replace(token, "***")
    # Only then, as a token that is cut in two is not found.
    reason = reason[:_LONGEST_REASON]
    asked = response.headers.get("Retry-After", "")
    wait = float(asked) if asked.isdecimal() else 0.0
    passes = status in (408, 429) or status >= 500 or (status == 403 and bool(wait))
    return DeliveryError(f"answered {status}{': ' + reason if reason else ''}", passes=passes, wait=wait)


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _host(url: str) -> str:
    """Returns the one part of a URL that never holds a secret."""
    try:
        return urlsplit(url).hostname or "no host"
    except ValueError:
        return "no host"


def _kind(error: BaseException) -> str:
    """Returns the innermost cause of a failed connection in a word; its message may repeat the URL."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or type(error).__name__
