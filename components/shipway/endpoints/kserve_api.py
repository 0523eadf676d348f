"""Calls to the Kubernetes API: a time limit on each, bounded retries, one clear line on failure."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from shipway.endpoints.client import Answer, UnreachableError
from shipway.endpoints.protocol import ConflictError, UnsupportedError
from shipway.errors import InputError, ShipwayError

if TYPE_CHECKING:
    from kubernetes.client import ApiException

    from shipway.endpoints.kserve_objects import Object

T = TypeVar("T")

_GROUP, _VERSION, _PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
_SECONDS = (5.0, 20.0)
_CONNECTS = 3
_PASSING = (429, 500, 502, 503, 504)
_LOG_LINES = 20
_LOG_BYTES = 8_192
_IN_CLUSTER = "KUBERNETES_SERVICE_HOST"


class Cluster:
    """One namespace of a Kubernetes cluster: the one that this pod runs in, else the kubeconfig's.

    Args:
        namespace: The namespace.

    Raises:
        InputError: Neither says where a cluster is.
    """

    def __init__(self, namespace: str) -> None:
        from kubernetes import client, config
        from urllib3 import Retry

        self.namespace = namespace
        self.inside = bool(os.environ.get(_IN_CLUSTER))
        configuration = client.Configuration()
        try:
            if self.inside:
                config.load_incluster_config(client_configuration=configuration)
            else:
                # The library reads the variable once, when it is imported.
                config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            raise InputError(
                f"no Kubernetes cluster to reach: this is no pod of one, and there is no usable kubeconfig ({error}); "
                "set KUBECONFIG, or log in to the cluster"
            ) from error
        # A change carries the version that it was made for, so that to send it twice is no harm.
        configuration.retries = Retry(
            total=_CONNECTS,
            backoff_factor=0.2,
            status_forcelist=_PASSING,
            allowed_methods=("GET", "PUT", "DELETE"),
            raise_on_status=False,
        )
        self.host = configuration.host
        api = client.ApiClient(configuration)
        self._custom, self._core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._leases = client.CoordinationV1Api(api)
        self._api = api

    def service(self, name: str) -> Object | None:
        """Returns an InferenceService, or None.

        Raises:
            UnsupportedError: The cluster knows no such kind.
        """
        found = self._find(
            f"reading InferenceService {name}", lambda: self._custom.get_namespaced_custom_object(**self._at(name))
        )
        if found is None:
            self._check_kind()
        return found

    def create_service(self, body: Object) -> Object:
        """Makes an InferenceService.

        Raises:
            ConflictError: There is one of that name.
            InputError: KServe refuses it.
        """
        name = body["metadata"]["name"]
        place = {key: value for key, value in self._at(name).items() if key != "name"}
        return self._ask(
            f"creating InferenceService {name}",
            lambda: self._custom.create_namespaced_custom_object(**place, body=body),
        )

    def replace_service(self, body: Object) -> Object:
        """Replaces an InferenceService that is still the one that was read.

        Raises:
            ConflictError: It is not.
            InputError: KServe refuses it.
        """
        name = body["metadata"]["name"]
        what = f"changing InferenceService {name}"
        found = self._find(what, lambda: self._custom.replace_namespaced_custom_object(**self._at(name), body=body))
        if found is None:
            raise ConflictError(f"{what}: it was deleted meanwhile")
        return dict(found)

    def touch_service(self, name: str, serial: int) -> None:
        """Makes every change of an InferenceService fail that was decided upon before; its pods do not notice."""
        body = {"status": {"annotations": {"shipway.dev/serial": str(serial)}}}
        self._find(
            f"noting the change in the status of InferenceService {name}",
            lambda: self._custom.patch_namespaced_custom_object_status(**self._at(name), body=body),
        )

    def delete_service(self, name: str) -> None:
        """Ends an InferenceService with its pods; one that is not there is no fault."""
        self._find(
            f"deleting InferenceService {name}",
            lambda: self._custom.delete_namespaced_custom_object(**self._at(name), propagation_policy="Foreground"),
        )

    def lease(self, name: str) -> Object | None:
        """Returns a Lease, or None."""
        return self._find(f"reading Lease {name}", lambda: self._plain(self._leases.read_namespaced_lease, name))

    def write_lease(self, body: Object) -> Object:
        """Makes a Lease, or replaces the one that was read.

        Raises:
            ConflictError: There is another one by now.
        """
        name = body["metadata"]["name"]
        if "resourceVersion" in body["metadata"]:
            return self._ask(
                f"changing Lease {name}", lambda: self._plain(self._leases.replace_namespaced_lease, name, body=body)
            )
        return self._ask(f"creating Lease {name}", lambda: self._plain(self._leases.create_namespaced_lease, body=body))

    def delete_lease(self, name: str) -> None:
        """Deletes a Lease; one that is not there is no fault."""
        self._find(f"deleting Lease {name}", lambda: self._plain(self._leases.delete_namespaced_lease, name))

    def pods(self, selector: str) -> list[Object]:
        """Returns the pods with these labels."""
        found = self._ask(
            f"listing the pods with {selector}",
            lambda: self._plain(self._core.list_namespaced_pod, label_selector=selector),
        )
        return list(found.get("items") or [])

    def kubernetes_service(self, name: str) -> Object | None:
        """Returns a Service, or None."""
        return self._find(f"reading Service {name}", lambda: self._plain(self._core.read_namespaced_service, name))

    def pod_log(self, pod: str, container: str, previous: bool) -> str:
        """Returns the end of a container's log; "" where there is none to be had."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            found = self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                previous=previous,
                tail_lines=_LOG_LINES,
                limit_bytes=_LOG_BYTES,
                _preload_content=False,
                _request_timeout=_SECONDS,
            )
            return bytes(found.data).decode(errors="replace")
        except (ApiException, HTTPError):
            # What the pod's status says is reason enough; the log would only have said more.
            return ""

    def proxied(self, service: str, port: int, path: str, body: bytes, seconds: float) -> Answer:
        """Posts JSON to a Service through the API server, from where its own address cannot be reached.

        Raises:
            UnreachableError: The API server, or the Service behind it, did not answer.
        """
        from urllib3.exceptions import HTTPError

        what = f"POST {service}:{port}/{path} through {self.host}"
        place = f"/api/v1/namespaces/{self.namespace}/services/{service}:{port}/proxy/{path}"
        headers = {"content-type": "application/json", "accept": "application/json"}
        self._api.update_params_for_auth(headers, [], ["BearerToken"])
        try:
            found = self._api.rest_client.pool_manager.request(
                "POST", self.host + place, body=body, headers=headers, timeout=seconds, retries=False
            )
        except HTTPError as error:
            raise UnreachableError(f"{what}: {_said(error)}") from error
        if found.status in (502, 503) and b'"kind":"Status"' in found.data.replace(b" ", b""):
            raise UnreachableError(f"{what}: {_message(found.data)}")
        return Answer(found.status, {name.lower(): value for name, value in found.headers.items()}, found.data)

    def _at(self, name: str) -> dict[str, Any]:
        return {
            "group": _GROUP,
            "version": _VERSION,
            "namespace": self.namespace,
            "plural": _PLURAL,
            "name": name,
            "_request_timeout": _SECONDS,
        }

    def _plain(self, call: Callable[..., Any], *arguments: str, **options: Any) -> Object:
        """Calls the typed API and returns plain JSON, as the objects are kept here."""
        found = call(*arguments, self.namespace, **options, _preload_content=False, _request_timeout=_SECONDS)
        result: Object = json.loads(found.data)
        return result

    def _check_kind(self) -> None:
        """Tells a missing object from a cluster without KServe.

        Raises:
            UnsupportedError: The cluster knows no such kind.
        """
        place = {key: value for key, value in self._at("").items() if key != "name"}
        if self._find("", lambda: self._custom.list_namespaced_custom_object(**place, limit=1)) is None:
            raise UnsupportedError(
                f"{self.host} knows no InferenceService ({_GROUP}/{_VERSION}): install KServe there, or choose another "
                "endpoint.kind in the spec"
            )

    def _find(self, what: str, call: Callable[[], T]) -> T | None:
        try:
            return self._ask(what, call)
        except _AbsentError:
            return None

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        """Makes a call.

        Raises:
            ShipwayError: It failed.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call()
        except ApiException as error:
            if error.status == 404:
                raise _AbsentError(f"{what}: {_message(error.body)}") from error
            raise self._explained(what, error) from error
        except HTTPError as error:
            raise ShipwayError(
                f"{what}: no answer from Kubernetes at {self.host} ({_said(error)}); nothing is known to have changed, "
                "and it can be tried again"
            ) from error

    def _explained(self, what: str, error: ApiException) -> ShipwayError:
        said = _message(error.body)
        where = f"namespace {self.namespace} at {self.host}"
        match error.status:
            case 401:
                return InputError(f"{what}: {where} refuses the credentials; log in anew, or mount a token ({said})")
            case 403 if "denied the request" not in said:
                return InputError(
                    f"{what}: not allowed in {where} ({said}); run as the service account shipway-deployer "
                    "(kubeflow.service_account in the spec; manifests/base/access/deployer.yaml)"
                )
            case 409:
                return ConflictError(f"{what}: {said}")
            case 400 | 403 | 413 | 422:
                return InputError(f"{what}: {where} refuses it: {said}")
        return ShipwayError(f"{what}: {where} answers {error.status}: {said}")


class _AbsentError(ShipwayError):
    """There is no such object."""


def _message(body: object) -> str:
    """Returns the sentence in the API server's answer."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        found = json.loads(text)
    except ValueError:
        return text[:300]
    return str(found.get("message") or text)[:600] if isinstance(found, Mapping) else text[:300]


def _said(error: Exception) -> str:
    """Returns what a library of HTTP says, without its wrappings."""
    reason = getattr(error, "reason", None)
    return _said(reason) if isinstance(reason, Exception) else str(error).rpartition(">: ")[2] or type(error).__name__
