"""Finds the KFP server and what to show it: tokens, cookies, a kube context."""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shipway.errors import InputError
from shipway.platforms import kubeflow_dex
from shipway.platforms.kubeflow_calls import Caller, bounded_client
from shipway.spec import KubeflowSection

if TYPE_CHECKING:
    import kfp

_IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_DEFAULT_SECONDS = 30.0


@dataclass(frozen=True)
class Access:
    """How to reach a KFP server.

    Attributes:
        host: The API's URL, or None for what the cluster or the kube context gives.
        credentials: Where the credentials come from, for messages.
        token_file: File of a bearer token, read anew for every call.
        cookie: Gives the cookies of a call; called with True after they were refused.
        kube_context: The kube context, for the kube API's service proxy; None for the current one.
        ca_cert: File of the authority that signed the server's certificate.
        seconds: How long to wait for an answer.
    """

    host: str | None
    credentials: str
    token_file: str | None = None
    cookie: Callable[[bool], str] | None = field(default=None, repr=False)
    kube_context: str | None = None
    ca_cert: str | None = None
    seconds: float = _DEFAULT_SECONDS


def find_access(section: KubeflowSection, environment: Mapping[str, str] = os.environ) -> Access:
    """Finds host and credentials; the first of each list that is there is taken.

    Host: `kubeflow.host` of the spec, KFP_HOST, KF_PIPELINES_ENDPOINT, the cluster that this process runs in, the kube
    context KFP_KUBE_CONTEXT or else the current one. Credentials: KFP_TOKEN_FILE, KFP_COOKIE_FILE, KFP_USERNAME with
    KFP_PASSWORD, the pod's projected token (KF_PIPELINES_SA_TOKEN_PATH), those of the kube context, none.

    Raises:
        InputError: No host is found, or a setting is wrong.
    """
    host = section.host or environment.get("KFP_HOST") or environment.get("KF_PIPELINES_ENDPOINT") or None
    if host and "://" not in host:
        raise InputError(f"KFP_HOST: expected a URL as https://kubeflow.example.com/pipeline, found {host!r}")
    ca_cert = environment.get("KFP_CA_CERT") or None
    if ca_cert:
        _file(ca_cert, "KFP_CA_CERT")
    seconds = _timeout(environment.get("KFP_TIMEOUT", ""))
    access = Access(host, "no credentials", ca_cert=ca_cert, seconds=seconds)
    if token_file := environment.get("KFP_TOKEN_FILE"):
        _text(token_file, "KFP_TOKEN_FILE")
        _needs_host(host, "KFP_TOKEN_FILE")
        return replace(access, credentials=f"the token of {token_file}", token_file=token_file)
    if cookie_file := environment.get("KFP_COOKIE_FILE"):
        _text(cookie_file, "KFP_COOKIE_FILE")
        _needs_host(host, "KFP_COOKIE_FILE")
        return replace(access, credentials=f"the cookies of {cookie_file}", cookie=_cookies_of(cookie_file))
    if username := environment.get("KFP_USERNAME"):
        password = environment.get("KFP_PASSWORD")
        if not password:
            raise InputError("KFP_USERNAME is set, KFP_PASSWORD is not; expected both, to log in at Dex")
        session = _Session(_needs_host(host, "KFP_USERNAME"), username, password, ca_cert, seconds)
        return replace(access, credentials="the login of KFP_USERNAME", cookie=session)
    projected = environment.get("KF_PIPELINES_SA_TOKEN_PATH") or "/var/run/secrets/kubeflow/pipelines/token"
    if Path(projected).is_file() and (host or environment.get(_IN_CLUSTER)):
        # Without a host kfp finds both the cluster's address and this token by itself.
        return replace(access, credentials=f"the pod's token {projected}", token_file=projected if host else None)
    if host or environment.get(_IN_CLUSTER):
        return access
    context = _kube_context(environment.get("KFP_KUBE_CONTEXT"))
    return replace(access, credentials=f"kube context {context}", kube_context=context)


@dataclass(frozen=True)
class Server:
    """A KFP server, ready to be asked.

    Attributes:
        client: kfp's client, its requests bounded.
        caller: Makes its calls.
        namespace: The profile's namespace, or None on a Kubeflow for a single user.
        link: The UI's address, without the page.
    """

    client: "kfp.Client"
    caller: Caller
    namespace: str | None
    link: str


def connect(section: KubeflowSection) -> Server:
    """Makes a client for the KFP server of a spec.

    Raises:
        InputError: No host is found, or a setting is wrong.
        ShipwayError: The server does not answer, or is for many users and no namespace is given.
    """
    import kfp
    from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
    from kfp_server_api import V2beta1GetHealthzResponse

    class Client(kfp.Client):  # type: ignore[misc, unused-ignore]  # kfp has no types
        def get_kfp_healthz(self, sleep_duration: int = 5) -> V2beta1GetHealthzResponse:  # noqa: ARG002 - kfp's
            """Answers what kfp.Client asks while it is made, before its requests have a time limit."""
            return V2beta1GetHealthzResponse(multi_user=False)

    access = find_access(section)
    credentials = ServiceAccountTokenVolumeCredentials(access.token_file) if access.token_file else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = Client(
            host=access.host,
            credentials=credentials,
            ssl_ca_cert=access.ca_cert,
            kube_context=access.kube_context,
            ui_host=os.environ.get("KFP_UI_HOST") or None,
        )
    api = client._run_api.api_client
    # The kube API's service proxy is given with a slash at its end, and paths begin with one.
    api.configuration.host = api.configuration.host.rstrip("/")
    api.rest_client = bounded_client(api.configuration, access.seconds, access.cookie)
    caller = Caller(api.configuration.host, access.credentials)
    link = os.environ.get("KFP_UI_HOST") or access.host or client._get_url_prefix()
    return Server(client, caller, _namespace(section, client, caller), link.rstrip("/"))


def _namespace(section: KubeflowSection, client: "kfp.Client", caller: Caller) -> str | None:
    """Returns the namespace to work in; the first call to the server, so that it also shows whether that is there."""
    health = caller.ask("asking for its health", client.healthzs.healthz_service_get_healthz)
    wanted = section.namespace or os.environ.get("KFP_NAMESPACE") or None
    if wanted or not health.multi_user:
        return wanted
    if _NAMESPACE_FILE.is_file() and os.environ.get(_IN_CLUSTER):
        return _NAMESPACE_FILE.read_text().strip()
    raise InputError(
        f"{caller.host} serves many users, and the spec names no namespace; expected kubeflow.namespace or "
        "KFP_NAMESPACE, the name of your profile"
    )


class _Session:
    """A Dex session: made at the first call, and again when it has run out."""

    def __init__(self, host: str, username: str, password: str, ca_cert: str | None, seconds: float) -> None:
        self._host, self._username, self._password = host, username, password
        self._ca_cert, self._seconds = ca_cert, seconds
        self._cookies: str | None = None

    def __call__(self, refused: bool) -> str:
        if self._cookies is None or refused:
            self._cookies = kubeflow_dex.login(
                self._host, self._username, self._password, ca_cert=self._ca_cert, seconds=self._seconds
            )
        return self._cookies


def _needs_host(host: str | None, setting: str) -> str:
    """Returns the host; kfp takes no token or cookie of its caller's where it finds the host by itself."""
    if not host:
        raise InputError(f"{setting} is set, and no host is; expected kubeflow.host in the spec or KFP_HOST")
    return host


def _cookies_of(path: str) -> Callable[[bool], str]:
    return lambda _refused: _text(path, "KFP_COOKIE_FILE")


def _file(path: str, setting: str) -> Path:
    if not Path(path).is_file():
        raise InputError(f"{setting}: there is no file {path}")
    return Path(path)


def _text(path: str, setting: str) -> str:
    """Returns a file's one line; its contents appear in no message."""
    try:
        text = _file(path, setting).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{setting}: cannot read {path} ({type(error).__name__})") from error
    if not text or len(text.splitlines()) != 1 or not text.isascii():
        form = "a token" if setting == "KFP_TOKEN_FILE" else "name=value; name=value"
        raise InputError(f"{setting}: expected one line, {form}, in {path}, found {len(text.splitlines())} lines")
    return text


def _timeout(text: str) -> float:
    if not text:
        return _DEFAULT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise InputError(f"KFP_TIMEOUT: expected seconds, above 0 and at most 3600, found {text!r}")
    return seconds


def _kube_context(wanted: str | None) -> str:
    """Returns the kube context to use, checked here since kfp falls back to localhost without a word."""
    from kubernetes.config import ConfigException, list_kube_config_contexts

    try:
        contexts, current = list_kube_config_contexts()
    except (ConfigException, OSError) as error:
        raise InputError(
            "no Kubeflow is known: expected kubeflow.host in the spec or KFP_HOST (a URL, also of a port-forward), a "
            "kube config (KUBECONFIG, KFP_KUBE_CONTEXT), or to run in its cluster"
        ) from error
    names = [str(context["name"]) for context in contexts]
    name = wanted or str(current["name"])
    if name not in names:
        raise InputError(f"KFP_KUBE_CONTEXT: there is no context {name!r}; there are {', '.join(names)}")
    return name
