"""The addresses and tokens of receivers: environment variables, or what they name in Google's Secret Manager."""

from __future__ import annotations

import base64
import binascii
import os
import re
from typing import Any

from shipway.notify.client import ask
from shipway.notify.delivery import Deadline, DeliveryError, persist

# What a variable begins with that names a secret instead of holding it: Vertex AI gives a step plain variables only.
REFERENCE = "secretmanager:"
ENDPOINT_VARIABLE = "SHIPWAY_SECRET_MANAGER_ENDPOINT"
_ENDPOINT = "https://secretmanager.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_NAME = re.compile(r"(projects/[\w:.-]+/secrets/[\w-]+)(/versions/\w+)?")


def secret(variable: str, deadline: Deadline) -> str:
    """Returns what an environment variable holds, or the secret that it names; "" where it is not set.

    Args:
        variable: Its name. Its value may be `secretmanager:projects/PROJECT/secrets/NAME[/versions/VERSION]`.
        deadline: When it is too late.

    Raises:
        DeliveryError: The secret cannot be read.
    """
    value = os.environ.get(variable, "").strip()
    if not value.startswith(REFERENCE):
        return value
    found = _NAME.fullmatch(value.removeprefix(REFERENCE))
    if found is None:
        raise DeliveryError(f"variable {variable} names no secret; expected {REFERENCE}projects/PROJECT/secrets/NAME")
    try:
        return persist(lambda: _access(found[1] + (found[2] or "/versions/latest"), deadline), deadline).strip()
    except DeliveryError as error:
        raise DeliveryError(f"Secret Manager, which variable {variable} names, could not be read: {error}") from error


def token(variable: str, deadline: Deadline) -> str:
    """Returns a secret that goes into a header; see `secret`.

    Raises:
        DeliveryError: It cannot be read, or holds blanks, line breaks or letters that a header cannot carry.
    """
    value = secret(variable, deadline)
    if not all("!" <= letter <= "~" for letter in value):
        raise DeliveryError(f"variable {variable} holds blanks or letters that no token has")
    return value


def _access(version: str, deadline: Deadline) -> str:
    """Reads a version of a secret (Secret Manager's REST API, v1: projects.secrets.versions.access)."""
    endpoint = os.environ.get(ENDPOINT_VARIABLE, "") or _ENDPOINT
    body = ask("GET", f"{endpoint}/v1/{version}:access", deadline, token=_google_token()).body
    try:
        return base64.b64decode(body["payload"]["data"], validate=True).decode()
    except (TypeError, KeyError, ValueError, binascii.Error) as error:
        raise DeliveryError(f"answered what is no version of a secret ({version})") from error


def _google_token() -> str:
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    credentials: Any
    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
        credentials.refresh(Request())
    except GoogleAuthError as error:
        raise DeliveryError(f"no credentials of a service account ({type(error).__name__})") from error
    return str(credentials.token)
