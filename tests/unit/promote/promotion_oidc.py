"""GitHub's token service and issuer, as a real HTTP server with real RSA keys."""

import base64
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

BEARER = "the-request-token-of-this-job"


def key() -> rsa.RSAPrivateKey:
    """Makes an RSA key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Issuer:
    """What the server says; a test changes it to break things.

    Attributes:
        claims: Claims of the next token, over good ones; None leaves one out.
        signing: The key that it is signed with.
        published: The keys that are published.
        tokens: Every token that was given.
        answers: Path -> (status, body) instead of the right answer.
        asked: Every path that was asked for.
    """

    def __init__(self) -> None:
        self.signing = key()
        self.published = {"key-1": self.signing}
        self.kid = "key-1"
        self.algorithm = "RS256"
        self.claims: dict[str, Any] = {}
        self.tokens: list[str] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self.url = ""

    def token(self, audience: str) -> str:
        """Signs a token as GitHub does."""
        now = int(time.time())
        good = {
            "iss": self.url,
            "aud": audience,
            "sub": "repo:acme/flights:environment:production",
            "repository": "acme/flights",
            "environment": "production",
            "actor": "ann-of-github",
            "run_id": "42",
            "iat": now,
            "nbf": now - 5,
            "exp": now + 300,
        }
        claims = {name: value for name, value in {**good, **self.claims}.items() if value is not None}
        signing: Any = self.signing
        if self.algorithm == "HS256":
            # The attack by which a public key is taken for a shared secret.
            signing = b"0" * 64
        elif self.algorithm == "none":
            signing = None
        made = jwt.encode(claims, signing, algorithm=self.algorithm, headers={"kid": self.kid})
        self.tokens.append(made)
        return made

    def jwks(self) -> dict[str, Any]:
        """Returns the public keys."""

        def number(value: int) -> str:
            return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()

        found = []
        for kid, private in self.published.items():
            public = private.public_key().public_numbers()
            entry = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid}
            found.append({**entry, "n": number(public.n), "e": number(public.e)})
        return {"keys": found}


@contextmanager
def issuer() -> Iterator[Issuer]:
    """Runs the server."""
    told = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            told.asked.append(self.path)
            status, body = told.answers.get(parts.path) or self.answer(parts)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status in (301, 302):
                self.send_header("Location", f"{told.url}/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def answer(self, parts: urllib.parse.SplitResult) -> tuple[int, bytes]:
            query = urllib.parse.parse_qs(parts.query)
            if parts.path == "/token":
                if self.headers["Authorization"] != f"bearer {BEARER}" or query.get("api-version") != ["2.0"]:
                    return 401, b"{}"
                return 200, json.dumps({"count": 1, "value": told.token(query["audience"][0])}).encode()
            if parts.path == "/.well-known/openid-configuration":
                return 200, json.dumps({"issuer": told.url, "jwks_uri": f"{told.url}/.well-known/jwks"}).encode()
            if parts.path == "/.well-known/jwks":
                return 200, json.dumps(told.jwks()).encode()
            return 404, b"{}"

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
