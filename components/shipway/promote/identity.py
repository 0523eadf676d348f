"""Who runs this process: an account of this machine, or a job of a protected environment in GitHub Actions.

A job's identity is the OpenID Connect token that GitHub signs for it, asked for as in
https://docs.github.com/actions/reference/security/oidc: its claims name the repository, the environment whose
protection rules let the job start, and who started it. The token never leaves this module.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

from shipway.errors import InputError, ShipwayError
from shipway.model.approval import ISSUER_VARIABLE, Approver, trusted_issuer
from shipway.model.promotion import account

if TYPE_CHECKING:
    from collections.abc import Mapping

AUDIENCE = "shipway"
_URL = "ACTIONS_ID_TOKEN_REQUEST_URL"
_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105 - a variable's name
_SECONDS = 20.0
_LEEWAY_SECONDS = 30.0
_LIMIT = 1 << 20
_CLAIMS = ["exp", "iat", "iss", "aud", "repository", "actor"]
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def approver() -> Approver:
    """Returns who runs this process.

    In GitHub Actions it is the job's actor and environment, elsewhere the account that the process's user id has
    (whatever `USER` or `SUDO_USER` say).

    Raises:
        InputError: A job of GitHub Actions has no permission for a token, or none of an environment.
        ShipwayError: The token cannot be had or is not genuine.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true" and not os.environ.get(_URL):
        return Approver(account())
    claims = _verified(_request_token())
    environment = claims.get("environment")
    if not isinstance(environment, str) or not environment:
        raise InputError(
            f"this job of {claims['repository']} runs in no environment; name the one of rollout.environment in the "
            "job's `environment:`"
        )
    run = claims.get("run_id")
    return Approver(
        who=str(claims["actor"]),
        via="github",
        environment=f"{claims['repository']}:{environment}",
        issuer=trusted_issuer(),
        run=f"{claims['repository']}/actions/runs/{run}" if run else "",
    )


def _request_token() -> str:
    url, bearer = os.environ.get(_URL), os.environ.get(_TOKEN)
    if not (url and bearer):
        raise InputError(
            f"this job of GitHub Actions may ask for no identity ({_URL} is not set); give it "
            "`permissions: id-token: write`"
        )
    parts = urllib.parse.urlsplit(url)
    query = [*urllib.parse.parse_qsl(parts.query, keep_blank_values=True), ("audience", AUDIENCE)]
    asked = parts._replace(query=urllib.parse.urlencode(query)).geturl()
    answer = _get_json(asked, "GitHub's token service", {"Authorization": f"bearer {bearer}"})
    token = answer.get("value")
    if not isinstance(token, str):
        raise ShipwayError("GitHub's token service: its answer has no token")
    return token


def _verified(token: str) -> dict[str, Any]:
    """Returns a token's claims, once the issuer's keys bear it out."""
    import jwt

    issuer = trusted_issuer()
    found = _get_json(f"{issuer}/.well-known/openid-configuration", f"the issuer {issuer}")
    keys = str(found.get("jwks_uri", ""))
    _check_url(keys, f"the issuer {issuer}: jwks_uri")
    try:
        key = jwt.PyJWKClient(keys, timeout=_SECONDS).get_signing_key_from_jwt(token)
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            audience=AUDIENCE,
            issuer=issuer,
            leeway=_LEEWAY_SECONDS,
            options={"require": _CLAIMS},
        )
    except (jwt.PyJWTError, ValueError) as error:
        # Its first line says what is wrong and never holds the token.
        raise ShipwayError(f"the identity that GitHub gave this job is not genuine: {_one_line(error)}") from None
    return claims


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the request carries a credential."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get_json(url: str, what: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    _check_url(url, what)
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310 - its scheme was checked
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_SECONDS) as response:
            body = response.read(_LIMIT)
    except urllib.error.HTTPError as error:
        error.close()
        raise ShipwayError(f"{what} refuses: HTTP {error.code}") from None
    except (OSError, http.client.HTTPException) as error:
        raise ShipwayError(f"{what} cannot be reached: {_one_line(error)}") from None
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ShipwayError(f"{what}: its answer is no JSON object")
    return value


def _check_url(url: str, what: str) -> None:
    """Refuses anything but https, or http to this machine: tokens and keys travel over it."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return
    raise InputError(f"{what}: expected an https:// URL (of the issuer, see {ISSUER_VARIABLE})")
