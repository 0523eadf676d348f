"""Logs in to Kubeflow's Dex as a browser would, with name and password, for the session's cookies."""

import http.client
import ssl
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from shipway.errors import InputError, ShipwayError

_PAGE_BYTES = 1 << 20


def login(host: str, username: str, password: str, *, ca_cert: str | None, seconds: float) -> str:
    """Returns the cookies of a session, as a Cookie header holds them.

    Kubeflow's gateway sends whoever has no session to Dex, directly or over oauth2-proxy's sign-in page; Dex asks for
    a connector, then for name and password, and sends the browser back with a session.

    Args:
        host: The KFP API's URL.
        username: The name, for Dex's own users the e-mail address.
        password: The password.
        ca_cert: File of the authority that signed the server's certificate; default: the system's.
        seconds: How long to wait for each answer.

    Returns:
        `name=value; name=value`, or "" where the host asks for no login.

    Raises:
        InputError: The host is no http or https URL.
        ShipwayError: The host cannot be reached, or refuses the name or password.
    """
    if urlsplit(host).scheme not in ("http", "https"):
        raise InputError(f"KFP_HOST: expected a URL with http:// or https:// to log in at, found {host!r}")
    try:
        browser = _Browser(ca_cert, seconds)
        page = browser.open(f"{host.rstrip('/')}/")
        if "/oauth2/sign_in" in page:
            page = browser.open(_at(page, "/oauth2/start", f"rd={quote(urlsplit(host).path or '/')}"))
        if _dex(page, "/auth"):
            page = browser.open(page.replace("/auth?", "/auth/local?", 1))
        if not _dex(page, "/login"):
            return browser.cookies()
        page = browser.open(page, {"login": username, "password": password})
        if _dex(page, "/login"):
            raise ShipwayError(
                f"{host}: login: Dex refused the name or password; check KFP_USERNAME (often an e-mail address) and "
                "KFP_PASSWORD"
            )
        if _dex(page, "/approval"):
            browser.open(page, {"approval": "approve"})
    except urllib.error.HTTPError as error:
        raise ShipwayError(
            f"{host}: login: {error.code} from {urlsplit(error.url or host).path}; check the host, and that Dex stands "
            "before it"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ShipwayError(
            f"{host}: login: no answer ({type(reason).__name__}); check the host, the network and KFP_CA_CERT"
        ) from error
    cookies = browser.cookies()
    if not cookies:
        raise ShipwayError(f"{host}: login: the server made no session; use a token (KFP_TOKEN_FILE) instead")
    return cookies


class _Browser:
    """Follows redirects and keeps cookies."""

    def __init__(self, ca_cert: str | None, seconds: float) -> None:
        self._jar = CookieJar()
        self._seconds = seconds
        context = ssl.create_default_context(cafile=ca_cert)
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), urllib.request.HTTPCookieProcessor(self._jar)
        )

    def open(self, url: str, form: dict[str, str] | None = None) -> str:
        """Opens a page, with a form's values by POST, and returns the address at which it ended."""
        body = urlencode(form).encode() if form is not None else None
        with self._opener.open(url, body, timeout=self._seconds) as page:
            page.read(_PAGE_BYTES)
            return str(page.url)

    def cookies(self) -> str:
        """Returns what a Cookie header holds."""
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._jar)


def _dex(url: str, end: str) -> bool:
    path = urlsplit(url).path
    return "/dex/" in path and path.endswith(end)


def _at(url: str, path: str, query: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))
