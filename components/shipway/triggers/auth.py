"""Who may call: bearer tokens, and signatures over the body; secrets come from the environment or from files.

A secret may have several lines, each of which is good: so one is replaced without a moment in which neither is. All
are compared in constant time, and none is ever part of a message.

A signed body of our own carries `X-Shipway-Timestamp: <seconds since the epoch>` and
`X-Shipway-Signature: sha256=<hex>`, the HMAC-SHA256 of `<timestamp>.<body>`. GitHub's is `X-Hub-Signature-256`.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from shipway.errors import InputError
from shipway.serving.limits import Refusal

SECRETS_VARIABLE = "SHIPWAY_SECRETS"
SECRETS_FOLDER = "/run/secrets/shipway-trigger"
TIMESTAMP_HEADER = "x-shipway-timestamp"
SIGNATURE_HEADER = "x-shipway-signature"
GITHUB_HEADER = "x-hub-signature-256"

# Shorter ones can be guessed.
_LEAST_CHARACTERS = 16
_SEEN = 50_000
_PREFIX = "sha256="

Headers = Mapping[str, str]
Keys = tuple[bytes, ...]


class Auth(Protocol):
    """One way to show who one is.

    Attributes:
        signs_body: Whether it answers for the body alone, and not for other headers.
    """

    signs_body: bool

    def check_headers(self, headers: Headers) -> None:
        """Looks at the headers, before the body is read.

        Raises:
            Refusal: 401, or 403.
        """

    def check_body(self, headers: Headers, body: bytes) -> None:
        """Looks at the body.

        Raises:
            Refusal: 401.
        """

    def claim(self, headers: Headers) -> None:
        """Takes the message as the first of its kind.

        Raises:
            Refusal: 409, it was taken before.
        """

    def release(self, headers: Headers) -> None:
        """Gives a claim back: the message was not stored, and may come again."""


class Open:
    """Lets in whoever is on this machine.

    A web page that somebody has open here could send requests as well; those name another host, or have a content type
    that needs no leave of the browser. The latter are refused where bodies are read.
    """

    signs_body = False

    def check_headers(self, headers: Headers) -> None:
        """Makes sure that the request was sent to this machine by name.

        Raises:
            Refusal: 403.
        """
        host = headers.get("host", "")
        if host and not is_loopback(_host_name(host)):
            raise Refusal(403, "without authentication only requests to localhost are taken")

    def check_body(self, headers: Headers, body: bytes) -> None:
        """Takes any."""

    def claim(self, headers: Headers) -> None:
        """Takes any."""

    def release(self, headers: Headers) -> None:
        """Has nothing to give back."""


class Bearer:
    """A token in the header Authorization; also as the password of Basic, which is what browsers offer.

    Args:
        keys: The tokens, any of which is good.
    """

    signs_body = False

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def check_headers(self, headers: Headers) -> None:
        """Compares the token.

        Raises:
            Refusal: 401.
        """
        scheme, _, given = headers.get("authorization", "").partition(" ")
        token = given.strip().encode()
        if scheme.lower() == "basic":
            token = _password(token)
        elif scheme.lower() != "bearer":
            raise Refusal(401, "expected the header Authorization: Bearer TOKEN")
        if not _matches(token, self._keys):
            raise Refusal(401, "the bearer token is not the right one")

    def check_body(self, headers: Headers, body: bytes) -> None:
        """Takes any."""

    def claim(self, headers: Headers) -> None:
        """Takes any: the token does not tell one message from another."""

    def release(self, headers: Headers) -> None:
        """Has nothing to give back."""


class GitHubSignature:
    """GitHub's signature of the body.

    GitHub signs no time. Sent again, a body is the same event, which the store knows by the body's digest.

    Args:
        keys: The webhook's secrets, any of which is good.
    """

    signs_body = True

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def check_headers(self, headers: Headers) -> None:
        """Makes sure that there is a signature.

        Raises:
            Refusal: 401.
        """
        _hex_of(headers, GITHUB_HEADER)

    def check_body(self, headers: Headers, body: bytes) -> None:
        """Compares the signature.

        Raises:
            Refusal: 401.
        """
        _check_signature(_hex_of(headers, GITHUB_HEADER), (body,), self._keys)

    def claim(self, headers: Headers) -> None:
        """Takes any."""

    def release(self, headers: Headers) -> None:
        """Has nothing to give back."""


class SignedBody:
    """Our own signature of timestamp and body.

    A message is taken once: within the time in which its timestamp is good its signature is remembered. After a
    restart, or on another replica, a message that is sent again meets the store, which knows its fingerprint.

    Args:
        keys: The keys, any of which is good.
        skew_seconds: How old, or how far ahead, a timestamp may be.
    """

    signs_body = True

    def __init__(self, keys: Keys, skew_seconds: float) -> None:
        self._keys = keys
        self._skew = skew_seconds
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._changing = threading.Lock()

    def check_headers(self, headers: Headers) -> None:
        """Makes sure that there is a signature and that its time is now.

        Raises:
            Refusal: 401.
        """
        _hex_of(headers, SIGNATURE_HEADER)
        stamp = headers.get(TIMESTAMP_HEADER, "")
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
            raise Refusal(401, "expected the header X-Shipway-Timestamp with seconds since the epoch")
        off = time.time() - int(stamp)
        if abs(off) > self._skew:
            way = "old" if off > 0 else "ahead of this clock"
            raise Refusal(401, f"the timestamp is {abs(off):.0f} s {way}; at most {self._skew:g} s are taken")

    def check_body(self, headers: Headers, body: bytes) -> None:
        """Compares the signature.

        Raises:
            Refusal: 401.
        """
        stamp = headers.get(TIMESTAMP_HEADER, "").encode()
        _check_signature(_hex_of(headers, SIGNATURE_HEADER), (stamp, b".", body), self._keys)

    def claim(self, headers: Headers) -> None:
        """Takes the message as the first with its signature.

        Raises:
            Refusal: 409.
        """
        mark = self._mark(headers)
        now = time.monotonic()
        with self._changing:
            while self._seen and (len(self._seen) >= _SEEN or next(iter(self._seen.values())) < now):
                self._seen.popitem(last=False)
            if mark in self._seen:
                raise Refusal(409, "this very message was taken before; a new one has a new timestamp and signature")
            self._seen[mark] = now + 2 * self._skew

    def release(self, headers: Headers) -> None:
        """Forgets the message's signature."""
        with self._changing:
            self._seen.pop(self._mark(headers), None)

    @staticmethod
    def _mark(headers: Headers) -> bytes:
        return _hex_of(headers, SIGNATURE_HEADER)


def read_secret(name: str, environment: Mapping[str, str] | None = None) -> Keys:
    """Returns a secret: the variable of that name, else the file of that name in $SHIPWAY_SECRETS.

    Args:
        name: The secret's name.
        environment: The variables; default: this process's.

    Raises:
        InputError: There is none, or it is shorter than 16 characters.
    """
    variables = os.environ if environment is None else environment
    file = Path(variables.get(SECRETS_VARIABLE) or SECRETS_FOLDER) / name
    text = variables.get(name, "")
    if not text:
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise InputError(f"secret {name}: set the variable {name}, or write the file {file}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"secret {name}: {file} cannot be read: {type(error).__name__}") from error
    keys = tuple(line.strip().encode() for line in text.splitlines() if line.strip())
    if not keys or any(len(key) < _LEAST_CHARACTERS for key in keys):
        raise InputError(f"secret {name}: expected at least {_LEAST_CHARACTERS} characters a line")
    return keys


def is_loopback(host: str) -> bool:
    """Tells whether a name or address stands for this machine alone."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _password(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _hex_of(headers: Headers, name: str) -> bytes:
    given = headers.get(name, "")
    try:
        signature = bytes.fromhex(given.removeprefix(_PREFIX))
    except ValueError:
        signature = b""
    if not given.startswith(_PREFIX) or len(signature) != hashlib.sha256().digest_size:
        raise Refusal(401, f"expected the header {name} with {_PREFIX} and 64 hexadecimal digits")
    return signature


def _check_signature(given: bytes, parts: tuple[bytes, ...], keys: Keys) -> None:
    good = False
    for key in keys:
        expected = hmac.new(key, digestmod=hashlib.sha256)
        for part in parts:
            expected.update(part)
        good |= hmac.compare_digest(given, expected.digest())
    if not good:
        raise Refusal(401, "the signature does not fit the body")


def _matches(given: bytes, keys: Keys) -> bool:
    # Digests are of one length, so that the time tells nothing about the token's.
    mine = hashlib.sha256(given).digest()
    good = False
    for key in keys:
        good |= hmac.compare_digest(mine, hashlib.sha256(key).digest())
    return good
