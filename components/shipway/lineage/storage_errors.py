"""What goes wrong with files by URI, in one clear line each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from shipway.errors import InputError, ShipwayError

# The libraries' exceptions, by class name: none of them is imported for its exceptions' sake.
_NO_CREDENTIALS = {
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshError",
    "TokenRetrievalError",
}
_OUT_OF_REACH = {"ClientConnectionError", "ConnectionError", "HTTPClientError", "TimeoutError"}


def is_remote(uri: str) -> bool:
    """Tells whether a name is a URI of another place than this machine's disk."""
    return "://" in uri and not uri.startswith("file://")


def scheme(uri: str) -> str:
    """Returns a URI's scheme, as `s3`; of a chained one (`zip://a.csv::s3://bucket/b.zip`) that of its place."""
    return uri.rpartition("::")[2].partition("://")[0]


@contextmanager
def reaching(uri: str, what: str = "read") -> Iterator[None]:
    """Turns whatever a filesystem raises in the block into one clear InputError.

    Args:
        uri: What is reached for.
        what: What is done with it: read, write or remove.

    Raises:
        InputError: The block failed.
    """
    try:
        yield
    except ShipwayError:
        raise
    # Each filesystem's library (S3, Google Cloud, HTTP ...) raises classes of its own.
    except Exception as error:
        raise InputError(f"{uri}: {_explain(error, uri, what)}") from error


def _explain(error: Exception, uri: str, what: str) -> str:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    kinds = {kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__}
    if kinds & _NO_CREDENTIALS:
        return f"no credentials to {what} it; {_how_to_sign(uri)} ({said})"
    if isinstance(error, FileNotFoundError):
        return "no such bucket" if is_remote(uri) and "bucket" in said.lower() else "no such file"
    if isinstance(error, PermissionError) or _status(error) in (401, 403):
        advice = f" with the credentials in use; {_how_to_sign(uri)} ({said})" if is_remote(uri) else ""
        return f"no permission to {what} it{advice}"
    if isinstance(error, ImportError):
        return f"this kind of URI needs another package, as in Shipway's extra `storage`: {error}"
    if is_remote(uri) and kinds & _OUT_OF_REACH:
        return f"cannot reach the storage at {_endpoint(uri)} ({said})"
    return f"cannot {what} it: {said}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: Exception) -> int:
    code = getattr(error, "code", None) or getattr(error, "status", None)
    return int(code) if isinstance(code, int | str) and str(code).isdigit() else 0


def _how_to_sign(uri: str) -> str:
    match scheme(uri):
        case "s3" | "s3a" | "minio":
            return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod's service account an IAM role"
        case "gs" | "gcs":
            return "set GOOGLE_APPLICATION_CREDENTIALS, or bind the pod's service account (Workload Identity)"
    return "its library looks for them in the environment"


def _endpoint(uri: str) -> str:
    match scheme(uri):
        case "s3" | "s3a" | "minio":
            named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            return f"{named} (AWS_ENDPOINT_URL)" if named else "Amazon S3"
        case "gs" | "gcs":
            named = os.environ.get("STORAGE_EMULATOR_HOST")
            return f"{named} (STORAGE_EMULATOR_HOST)" if named else "Google Cloud Storage"
    return scheme(uri)
