"""Calls to the KFP API: a time limit on each, answers that are checked, bounded retries, one clear line on failure."""

import contextlib
import datetime as dt
import email.utils
import io
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from shipway.endpoints.client import UnreachableError
from shipway.errors import ShipwayError

if TYPE_CHECKING:
    from kfp_server_api import Configuration

T = TypeVar("T")
Kind = Literal["unreachable", "reset", "timeout", "tls", "status", "login", "malformed", "credentials"]

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
CONNECT_SECONDS = 10.0
_PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_ADVICE = {
    400: "the server refuses the request as it is; check that KFP is version 2 and knows what the message names",
    401: "check that the credentials have not expired and are meant for this host",
    403: "check that this account may do it there (kubeflow.namespace in the spec, RBAC of the profile)",
    404: "check the host, and that KFP's API lies under it at /apis/v2beta1",
    409: "something of that name exists there already, and is another",
    429: "the server asks for fewer requests; try again later",
}


class Trouble(Exception):  # noqa: N818 - a message between these modules, never shown as it is
    """A call went wrong.

    Attributes:
        kind: In what way.
        detail: What came back, without secrets.
        status: The HTTP status, or 0.
        retry_after: For how many seconds the server asked to wait, or None.
    """

    def __init__(self, kind: Kind, detail: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.status, self.retry_after = kind, detail, status, retry_after

    @property
    def passing(self) -> bool:
        """Whether asking again may help."""
        return self.kind in ("unreachable", "reset") or (self.kind == "status" and self.status in _PASSING_STATUSES)

    @property
    def ambiguous(self) -> bool:
        """Whether the server may have done what was asked all the same."""
        return self.kind in ("reset", "timeout", "malformed") or (self.kind == "status" and self.status >= 500)


class Caller:
    """Makes calls to one KFP server.

    Args:
        host: The server, for messages.
        credentials: Where the credentials come from, for messages; never their value.
    """

    def __init__(self, host: str, credentials: str) -> None:
        self.host = shown_host(host)
        self._credentials = credentials

    def ask(self, what: str, call: Callable[[], T]) -> T:
        """Makes a call that may be repeated at will; retries what passes.

        Args:
            what: What is asked, for the message, as `listing the runs`.
            call: The call.

        Raises:
            UnreachableError: The server did not answer within bounds; it may later.
            ShipwayError: It refused, or its answer makes no sense.
        """
        for pause in pauses():
            try:
                return self.once(call)
            except Trouble as trouble:
                if pause is None or not (trouble.passing or trouble.kind == "timeout"):
                    raise self.explain(what, trouble) from trouble
                self.wait(what, trouble, pause)
        raise AssertionError("the last round returns or raises")

    def once(self, call: Callable[[], T]) -> T:
        """Makes a call once.

        Raises:
            Trouble: It went wrong.
        """
        try:
            # kfp.Client prints a link for each thing that it makes.
            with contextlib.redirect_stdout(io.StringIO()):
                return call()
        except (AttributeError, KeyError, LookupError, TypeError, ValueError) as error:
            raise Trouble("malformed", f"an answer that is not of KFP's form ({type(error).__name__})") from error
        except OSError as error:
            raise Trouble("credentials", f"{error.filename}: {error.strerror}") from error

    def wait(self, what: str, trouble: Trouble, pause: float) -> None:
        """Waits before another try, as long as the server asked if it asked for more.

        Raises:
            ShipwayError: It asked for more than anyone would wait.
        """
        asked = trouble.retry_after or 0.0
        if asked > LONGEST_PAUSE_SECONDS:
            raise self.explain(what, trouble)
        time.sleep(max(pause, asked))

    def explain(self, what: str, trouble: Trouble, then: str = "") -> ShipwayError:
        """Returns the error that a user sees.

        Args:
            what: What was asked.
            trouble: What went wrong.
            then: What this means for what was to be made.
        """
        advice = {
            "unreachable": "check the host (kubeflow.host in the spec, KFP_HOST), the network and any port-forward",
            "reset": "the connection broke each time; check the server and proxies on the way",
            "timeout": "check the server's load; KFP_TIMEOUT sets the seconds to wait for an answer",
            "tls": "check the certificate; KFP_CA_CERT names the file of the authority that signed it",
            "login": f"log in: {self._credentials} did not do; see docs/kubeflow.md on cookies and tokens",
            "malformed": "check that the host is KFP's API and not a proxy or its UI",
            "credentials": "check the file that holds the credentials",
            "status": _ADVICE.get(trouble.status, "see the server's log; try again later"),
        }[trouble.kind]
        if trouble.status in (401, 403):
            advice = f"sent was {self._credentials}; {advice}"
        if trouble.retry_after:
            advice += f" (it asked to wait {trouble.retry_after:g} s)"
        text = f"{self.host}: {what}: {trouble.detail}{f'; {then}' if then else ''}; {advice}"
        passes = trouble.passing or trouble.kind == "timeout"
        return UnreachableError(text) if passes else ShipwayError(text)


def pauses() -> Iterator[float | None]:
    """Yields the pause after each try, None after the last."""
    for number in range(ATTEMPTS - 1):
        yield FIRST_PAUSE_SECONDS * 2**number
    yield None


def shown_host(host: str) -> str:
    """Returns a host without what a URL may hold of credentials."""
    parts = urlsplit(host if "://" in host else f"http://{host}")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}".rstrip("/")


def bounded_client(configuration: "Configuration", seconds: float, cookie: Callable[[bool], str] | None) -> Any:
    """Returns what kfp_server_api sends its requests through, mended.

    The generated one waits for ever, takes a login page with status 200 for an empty answer (so that "no such run"
    and "not logged in" look alike), and fails while it reads the error of a broken certificate.

    Args:
        configuration: The client's settings.
        seconds: How long to wait for an answer.
        cookie: Gives the cookies to send; called with True after they were refused, to make new ones.
    """
    import urllib3
    from kfp_server_api import rest
    from kfp_server_api.exceptions import ApiException

    class Bounded(rest.RESTClientObject):  # type: ignore[misc, unused-ignore]  # kfp_server_api has no types
        def request(
            self,
            method: str,
            url: str,
            query_params: Any = None,
            headers: dict[str, str] | None = None,
            body: Any = None,
            post_params: Any = None,
            _preload_content: bool = True,
            _request_timeout: Any = None,
        ) -> Any:
            sent = dict(headers or {})
            for again in (False, True):
                if cookie is not None:
                    sent["Cookie"] = cookie(again)
                try:
                    return self._send(method, url, query_params, dict(sent), body, post_params)
                except Trouble as trouble:
                    if again or cookie is None or not (trouble.kind == "login" or trouble.status == 401):
                        raise
            raise AssertionError("the second round returns or raises")

        def _send(
            self, method: str, url: str, query_params: Any, headers: dict[str, str], body: Any, post_params: Any
        ) -> Any:
            secrets = _secrets(headers)
            try:
                answer = super().request(
                    method,
                    url,
                    query_params=query_params,
                    headers=headers,
                    body=body,
                    post_params=post_params,
                    _request_timeout=(min(CONNECT_SECONDS, seconds), seconds),
                )
            except ApiException as error:
                if not error.status:
                    raise Trouble("tls", _clean(error.reason, secrets)) from error
                raise _refused(error.status, error.reason, error.body, dict(error.headers or {}), secrets) from error
            except urllib3.exceptions.NewConnectionError as error:
                raise Trouble("unreachable", "no connection") from error
            except urllib3.exceptions.ConnectTimeoutError as error:
                raise Trouble("unreachable", f"no connection within {min(CONNECT_SECONDS, seconds):g} s") from error
            except urllib3.exceptions.TimeoutError as error:
                raise Trouble("timeout", f"no answer within {seconds:g} s") from error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise Trouble("reset", f"the connection broke ({type(error).__name__})") from error
            _check_json(answer.data, answer.getheader("content-type") or "")
            return answer

    # Redirects lead to a login page, and retries are made where the effect of a call is known.
    configuration.retries = False
    return Bounded(configuration)


def _secrets(headers: Mapping[str, str]) -> list[str]:
    values = [value for name, value in headers.items() if name.lower() in ("authorization", "cookie")]
    words = [word for value in values for word in re.split(r"[\s;=]+", value)]
    return sorted((word for word in [*values, *words] if len(word) >= 8), key=len, reverse=True)


def _clean(text: object, secrets: list[str]) -> str:
    line = " ".join(str(text).split())
    for secret in secrets:
        line = line.replace(secret, "***")
    return line[:300]


def _check_json(data: bytes, content_type: str) -> None:
    if "html" in content_type or data.lstrip()[:1] == b"<":
        raise Trouble("login", "a web page instead of an answer, most likely a login page")
    try:
        found = json.loads(data)
    except ValueError as error:
        raise Trouble("malformed", "an answer that is not JSON") from error
    if not isinstance(found, dict):
        raise Trouble("malformed", "an answer that is no JSON object")


def _refused(status: int, reason: str, body: bytes | None, headers: Mapping[str, str], secrets: list[str]) -> Trouble:
    text = (body or b"").decode(errors="replace")
    if 300 <= status < 400:
        to = next((value for name, value in headers.items() if name.lower() == "location"), "")
        return Trouble("login", f"{status}, a redirect to {_place(to)}, most likely a login page", status)
    message = ""
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            message = str(found.get("error_message") or found.get("message") or found.get("error") or "")
    after = next((value for name, value in headers.items() if name.lower() == "retry-after"), None)
    detail = f"{status} {_clean(reason or '', secrets)}".strip()
    if message:
        detail += f" ({_clean(message, secrets)})"
    return Trouble("status", detail, status, _seconds(after))


def _place(location: str) -> str:
    """Returns where a redirect leads, without its query, which may hold a session's secrets."""
    parts = urlsplit(location)
    return _clean(f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else parts.path, [])


def _seconds(after: str | None) -> float | None:
    """Returns a Retry-After header, which is a number of seconds or a date, in seconds."""
    if after is None:
        return None
    if after.strip().isdecimal():
        return float(after)
    with contextlib.suppress(ValueError):
        moment = email.utils.parsedate_to_datetime(after)
        return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds())
    return None
