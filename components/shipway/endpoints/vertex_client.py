"""How Vertex AI is asked: where, as whom, how long an answer may take, what is tried again, and what a refusal means.

The generated clients of `google.cloud.aiplatform_v1` are used, not the SDK's `PipelineJob.submit`: that one makes a
bucket without being asked and without a deadline, says which run it started only in a log, waits for the run's
lineage without end, and takes four seconds longer to import.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from shipway.endpoints.client import Answer, UnreachableError, call
from shipway.errors import InputError, ShipwayError

if TYPE_CHECKING:
    import grpc
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.credentials import Credentials
    from google.cloud.aiplatform_v1.services.endpoint_service import EndpointServiceClient
    from google.cloud.aiplatform_v1.services.metadata_service import MetadataServiceClient
    from google.cloud.aiplatform_v1.services.model_service import ModelServiceClient
    from google.cloud.aiplatform_v1.services.pipeline_service import PipelineServiceClient
    from google.cloud.aiplatform_v1.services.schedule_service import ScheduleServiceClient
    from google.cloud.monitoring_v3.services.metric_service import MetricServiceClient

    from shipway.spec.resources import VertexSection

ENDPOINT_VARIABLE = "SHIPWAY_VERTEX_ENDPOINT"
PROJECT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT")
# Seconds for one answer, and the pauses before a call is tried again: a call ends within two minutes.
DEADLINE = 25.0
PAUSES = (1.0, 2.0, 4.0)

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_PROJECT = re.compile(r"([a-z][a-z0-9.-]*:)?[a-z0-9]([a-z0-9-]*[a-z0-9])?")
# A location becomes part of the host that gets the credentials, so it is not any text.
_LOCATION = re.compile(r"[a-z]+(-[a-z]+)+[0-9]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+)?")
_LOOPBACK = ("127.0.0.1", "localhost")
_LOGIN = (
    "log in with `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or run with a service "
    "account"
)

# How gRPC says that the credentials, not the server, failed.
_PLUGIN_FAULT = "Getting metadata from plugin failed"

Response = TypeVar("Response")
Client = TypeVar("Client")


class Vertex:
    """Vertex AI in one project and location.

    Attributes:
        project: The project's id or number.
        location: The region.
    """

    title = "Vertex AI"
    api = "aiplatform.googleapis.com"

    def __init__(self, section: VertexSection) -> None:
        """Reads where Vertex is; nothing is asked yet.

        Args:
            section: The spec's section `vertex`.

        Raises:
            InputError: There is no project, or project, location or endpoint are malformed, or Vertex's client is not
                installed.
        """
        _check_installed()
        self.project = _project(section)
        self.location = section.location
        if not _LOCATION.fullmatch(self.location):
            raise InputError(f"vertex.location: expected a region as europe-west4, found {self.location!r}")
        self._host, self._plain = _endpoint(self.location)

    @property
    def parent(self) -> str:
        """The resource name of the location."""
        return f"projects/{self.project}/locations/{self.location}"

    @property
    def store(self) -> str:
        """The resource name of the metadata store in which Vertex keeps pipelines and experiments."""
        return f"{self.parent}/metadataStores/default"

    def link(self, page: str) -> str:
        """Returns the console's address of a page of this location, as `pipelines/runs/ID`."""
        return f"https://console.cloud.google.com/vertex-ai/locations/{self.location}/{page}?project={self.project}"

    @cached_property
    def pipelines(self) -> PipelineServiceClient:
        """The client of pipeline jobs."""
        from google.cloud.aiplatform_v1.services.pipeline_service import PipelineServiceClient

        return self._client(PipelineServiceClient)

    @cached_property
    def schedules(self) -> ScheduleServiceClient:
        """The client of schedules."""
        from google.cloud.aiplatform_v1.services.schedule_service import ScheduleServiceClient

        return self._client(ScheduleServiceClient)

    @cached_property
    def metadata(self) -> MetadataServiceClient:
        """The client of Vertex ML Metadata, where experiments are kept."""
        from google.cloud.aiplatform_v1.services.metadata_service import MetadataServiceClient

        return self._client(MetadataServiceClient)

    @cached_property
    def endpoints(self) -> EndpointServiceClient:
        """The client of online endpoints."""
        from google.cloud.aiplatform_v1.services.endpoint_service import EndpointServiceClient

        return self._client(EndpointServiceClient)

    @cached_property
    def models(self) -> ModelServiceClient:
        """The client of the model registry."""
        from google.cloud.aiplatform_v1.services.model_service import ModelServiceClient

        return self._client(ModelServiceClient)

    def url(self, resource: str, method: str) -> str:
        """Returns the REST address of a resource's method, as `rawPredict`."""
        return f"{'http' if self._plain else 'https'}://{self._host}/v1/{resource}:{method}"

    def post(self, url: str, body: bytes, seconds: float) -> Answer:
        """Posts JSON to an address of Vertex AI's and returns the answer, whatever its status.

        Raises:
            UnreachableError: Nobody answered in time.
            ShipwayError: There are no credentials.
        """
        if self._plain:
            return call("POST", url, body, seconds=seconds)
        import requests
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import AuthorizedSession

        # Retries are the caller's, who knows whether a request may be made twice.
        session: Any = AuthorizedSession(self._credentials)  # type: ignore[no-untyped-call]
        try:
            found = session.post(url, data=body, headers={"content-type": "application/json"}, timeout=seconds)
        except (requests.RequestException, GoogleAuthError) as error:
            raise UnreachableError(f"POST {url}: {type(error).__name__}: {_first(error)}") from error
        return Answer(found.status_code, {name.lower(): value for name, value in found.headers.items()}, found.content)

    def ask(self, what: str, method: Callable[..., Response], request: Mapping[str, Any]) -> Response:
        """Makes a call that may safely be made twice; faults that pass by themselves are tried again a few times.

        Args:
            what: What is wanted, to begin an error message, as "reading run x".
            method: A client's method.
            request: Its request.

        Raises:
            NotFound: There is no such thing (google's own class, for the caller to judge).
            Conflict: There is one already.
            ShipwayError: Vertex refused, or did not answer.
        """
        from google.api_core.exceptions import Aborted, Conflict, GoogleAPICallError, NotFound

        pauses = iter(PAUSES)
        while True:
            try:
                return self.once(method, request)
            except GoogleAPICallError as error:
                if isinstance(error, (NotFound, Conflict)) and not isinstance(error, Aborted):
                    raise
                if not passes_by(error) or (pause := next(pauses, None)) is None:
                    raise self.refusal(what, error) from error
            time.sleep(pause)

    @staticmethod
    def once(method: Callable[..., Response], request: Mapping[str, Any]) -> Response:
        """Makes a call once, with a deadline.

        Raises:
            GoogleAPICallError: Vertex refused, or did not answer.
        """
        return method(request=request, retry=None, timeout=DEADLINE)

    def finished(self, what: str, operation: Any) -> None:
        """Waits, for a bounded time, until a long-running operation has ended.

        Raises:
            ShipwayError: It failed, or has not ended.
        """
        import concurrent.futures

        from google.api_core.exceptions import GoogleAPICallError

        try:
            operation.result(timeout=DEADLINE * len(PAUSES))
        except GoogleAPICallError as error:
            raise self.refusal(what, error) from error
        except concurrent.futures.TimeoutError as error:
            raise ShipwayError(f"{what}: Vertex AI has not ended it in time; it may still do so, try again") from error

    def refusal(self, what: str, error: GoogleAPICallError) -> ShipwayError:
        """Returns the one clear error for what Vertex answered."""
        from google.api_core import exceptions as google

        said = " ".join(str(error.message or error).split())
        where = f"project {self.project}, {self.location}"
        kind: type[ShipwayError] = ShipwayError
        match error:
            case google.Unauthorized():
                why = f"{self.title} does not accept these credentials ({said}); {_LOGIN}"
            case google.Forbidden():
                why = f"{self.title} forbids it ({where}): {said}; {self._remedy(error)}"
            case google.NotFound():
                kind = InputError
                why = f"{self.title} finds no such thing ({where}): {said}; check vertex.project and vertex.location"
            case google.BadRequest():
                kind = InputError
                why = f"{self.title} refuses it as invalid: {said}"
            case google.TooManyRequests():
                kind = UnreachableError
                why = (
                    f"a quota of {where} is exhausted{_quota(error)}: {said}; try again later, or ask for more "
                    "quota in the console (IAM & Admin, Quotas)"
                )
            case google.ServerError() if _PLUGIN_FAULT in said:
                why = f"these credentials gave no token ({said}); {_LOGIN}"
            case google.ServerError():
                kind = UnreachableError
                why = f"no usable answer from {self.title} at {self._host}: {_reason(error)} ({said})"
            case _:
                why = f"{self.title} at {self._host} refuses it: {said}"
        return kind(f"{what}: {why}")

    def _remedy(self, error: GoogleAPICallError) -> str:
        """Returns what helps against a refusal: of the two that there are, the one that Google gives as its reason."""
        enable = f"enable the API with `gcloud services enable {self.api} --project {self.project}`"
        role = "get the role that docs/vertex.md names"
        return {"SERVICE_DISABLED": enable, "IAM_PERMISSION_DENIED": role}.get(
            error.reason or "", f"{enable}, or {role}"
        )

    def _client(self, kind: type[Client]) -> Client:
        # gRPC's own log of what becomes an error message here anyway.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        make: Any = kind
        made: Client
        if self._plain:
            made = make(transport=make.get_transport_class("grpc")(channel=self._channel))
            return made
        from google.api_core.client_options import ClientOptions

        made = make(credentials=self._credentials, client_options=ClientOptions(api_endpoint=self._host))
        return made

    @cached_property
    def _channel(self) -> grpc.Channel:
        """A connection without encryption and, therefore, without credentials."""
        import grpc

        # No proxy of the environment's either: this is the same machine.
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        return grpc.insecure_channel(self._host, options=[*unlimited, ("grpc.enable_http_proxy", 0)])

    @cached_property
    def _credentials(self) -> Credentials:
        """The environment's credentials, proven to give a token before anything is asked with them."""
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
        from google.auth.transport.requests import Request

        credentials: Any
        try:
            credentials, _ = google.auth.default(scopes=[_SCOPE])
        except DefaultCredentialsError as error:
            raise ShipwayError(f"no Google credentials were found for Vertex AI: {_first(error)}; {_LOGIN}") from error
        try:
            credentials.refresh(Request())
        except GoogleAuthError as error:
            raise ShipwayError(f"Google credentials gave no token for Vertex AI: {_first(error)}; {_LOGIN}") from error
        found: Credentials = credentials
        return found


class Monitoring(Vertex):
    """Cloud Monitoring of the same project."""

    title = "Cloud Monitoring"
    api = "monitoring.googleapis.com"

    def __init__(self, section: VertexSection) -> None:
        """Reads where Cloud Monitoring is; nothing is asked yet."""
        super().__init__(section)
        # Another host of Vertex AI's says nothing about this one; a stand-in on this machine is both.
        self._host = self._host if self._plain else self.api

    @cached_property
    def metrics(self) -> MetricServiceClient:
        """The client of metrics."""
        from google.cloud.monitoring_v3.services.metric_service import MetricServiceClient

        return self._client(MetricServiceClient)


def passes_by(error: GoogleAPICallError) -> bool:
    """Tells whether a fault may be gone when the call is made again."""
    from google.api_core import exceptions as google

    if isinstance(error, google.MethodNotImplemented) or _PLUGIN_FAULT in str(error.message):
        return False
    return isinstance(error, (google.ServerError, google.TooManyRequests, google.Aborted, google.Cancelled))


def _check_installed() -> None:
    try:
        found = importlib.util.find_spec("google.cloud.aiplatform_v1")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise InputError("Vertex AI needs Google's client; install it with `pip install 'shipway[vertex]'`")


def _project(section: VertexSection) -> str:
    found = section.project or next((os.environ[name] for name in PROJECT_VARIABLES if os.environ.get(name)), "")
    if not found:
        raise InputError(f"vertex.project: no project; set it in the spec, or ${PROJECT_VARIABLES[0]}")
    if not _PROJECT.fullmatch(found):
        raise InputError(f"vertex.project: expected a project's id or number, found {found!r}")
    return found


def _endpoint(location: str) -> tuple[str, bool]:
    """Returns the host that is asked, and whether that goes over plain HTTP/2."""
    text = os.environ.get(ENDPOINT_VARIABLE, "")
    if not text:
        return f"{location}-aiplatform.googleapis.com", False
    parts = urlsplit(text if "://" in text else f"https://{text}")
    host = parts.netloc
    if parts.scheme not in ("http", "https") or parts.path not in ("", "/") or not _HOST.fullmatch(host):
        raise InputError(f"${ENDPOINT_VARIABLE}: expected a host or https://HOST[:PORT], found {text!r}")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise InputError(
            f"${ENDPOINT_VARIABLE}: credentials do not go over plain http; expected https://, found {text!r}"
        )
    return host, parts.scheme == "http"


def _reason(error: GoogleAPICallError) -> str:
    from google.api_core import exceptions as google

    if isinstance(error, google.GatewayTimeout):
        return f"none within {DEADLINE:g} s"
    return type(error).__name__


def _quota(error: GoogleAPICallError) -> str:
    """Returns the quota's name, where Vertex gives it apart from its message."""
    names = [
        str(getattr(violation, "subject", ""))
        for detail in error.details
        for violation in getattr(detail, "violations", ())
    ]
    for detail in error.details:
        metadata = getattr(detail, "metadata", {})
        names += [str(metadata[key]) for key in ("quota_metric", "quota_limit") if key in metadata]
    found = [name for name in dict.fromkeys(names) if name]
    return f" ({', '.join(found)})" if found else ""


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
