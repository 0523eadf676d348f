"""One Endpoint of Vertex AI: read, changed with its etag, deployed to and undeployed from.

Vertex AI answers a stale etag with ABORTED (as AIP-154 has it). A deployed model's id is chosen before it is deployed,
so that whoever comes after a crash asks for the same one again, and finds it there, or under way.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from shipway.endpoints import vertex_client
from shipway.endpoints.protocol import ConflictError, NotReadyError
from shipway.endpoints.vertex_client import Vertex, passes_by
from shipway.endpoints.vertex_state import MODEL_LABEL, Facts, deployed_of, facts_of, generation_of
from shipway.errors import ShipwayError

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud.aiplatform_v1.types import DeployedModel, Endpoint
    from google.longrunning.operations_pb2 import Operation

# Seconds between two looks at an operation.
POLL_SECONDS = 5.0
# How often a change is tried again against somebody else's, or against an operation that is under way.
_TRIES = 8
_LOCATION = re.compile(r"\bLocation\b")

Decision = Callable[[Facts, "Endpoint"], tuple[Facts, Mapping[str, int]]]
"""What an Endpoint is to say and how its traffic is to be split, by deployed model; may raise."""


class StillRunningError(NotReadyError):
    """An operation has not ended in time; it goes on."""


class Resource:
    """An Endpoint, there or not.

    Args:
        vertex: Where it is asked for.
        id_: Its id.
        labels: What it is labelled with; one of that id with another model's label is somebody else's.
    """

    def __init__(self, vertex: Vertex, id_: str, labels: Mapping[str, str]) -> None:
        self._vertex = vertex
        self._labels = dict(labels)
        self.id = id_
        self.name = f"{vertex.parent}/endpoints/{id_}"

    def read(self) -> Endpoint | None:
        """Returns the Endpoint, None where there is none.

        Raises:
            ShipwayError: It is somebody else's, or Vertex AI refused, or did not answer.
        """
        from google.api_core.exceptions import Conflict, NotFound

        what = f"reading endpoint {self.id}"
        try:
            found = self._vertex.ask(what, self._vertex.endpoints.get_endpoint, {"name": self.name})
        except NotFound as error:
            if _LOCATION.search(str(error.message)):
                raise self._vertex.refusal(what, error) from error
            return None
        except Conflict as error:
            raise self._vertex.refusal(what, error) from error
        if any(found.labels.get(key) != value for key, value in self._labels.items()):
            raise ShipwayError(
                f"{what}: Vertex AI has an Endpoint of that id which is not this model's (label "
                f"{MODEL_LABEL}={found.labels.get(MODEL_LABEL) or '(none)'}, expected {self._labels[MODEL_LABEL]}); "
                f"delete or label it at {self._vertex.link(f'endpoints/{self.id}')}"
            )
        return found

    def ensure(self, settings: Mapping[str, Any]) -> Endpoint:
        """Returns the Endpoint, made first where there is none.

        Args:
            settings: What a new one gets beside id and labels: `display_name`, `encryption_spec`.
        """
        from google.api_core.exceptions import Conflict, NotFound

        found = self.read()
        if found is not None:
            return found
        what = f"making endpoint {self.id}"
        request = {
            "parent": self._vertex.parent,
            "endpoint": {**settings, "labels": self._labels},
            "endpoint_id": self.id,
        }
        operation = None
        try:
            operation = self._vertex.ask(what, self._vertex.endpoints.create_endpoint, request).operation
        except NotFound as error:
            raise self._vertex.refusal(what, error) from error
        except Conflict:
            # Another call made it, or this one did and its answer was lost.
            pass
        if operation is not None:
            self._follow(what, operation, time.monotonic() + vertex_client.DEADLINE * 4)
        found = self.read()
        if found is None:
            raise ShipwayError(f"{what}: Vertex AI has not made it yet; try again")
        return found

    def change(self, what: str, decide: Decision, expect: str | None = None) -> Endpoint:
        """Changes description and traffic split as one.

        Args:
            what: What is wanted, to begin an error message.
            decide: Says from what is there what is to be; asked again when somebody else was faster.
            expect: The generation that the change was decided upon.

        Raises:
            ConflictError: The state is another one.
            ShipwayError: Vertex AI refused, or did not answer.
        """
        from google.api_core.exceptions import GoogleAPICallError

        for attempt in range(_TRIES):
            endpoint = self.read()
            check_generation(what, endpoint, expect)
            if endpoint is None:
                raise ConflictError(f"{what}: the endpoint is gone; somebody deleted it")
            before = facts_of(endpoint)
            wanted, split = decide(before, endpoint)
            if wanted.is_same(before) and dict(split) == dict(endpoint.traffic_split):
                return endpoint
            written = wanted.written()
            try:
                return self._vertex.once(
                    self._vertex.endpoints.update_endpoint, self._update(endpoint, written.text(), split)
                )
            except GoogleAPICallError as error:
                if not (passes_by(error) or _is_overtaken(error)):
                    raise self._vertex.refusal(what, error) from error
                now = self.read()
                if now is not None and facts_of(now).writer == written.writer:
                    return now
                if attempt == _TRIES - 1:
                    raise self._gave_up(what, error) from error
            time.sleep(vertex_client.PAUSES[min(attempt, len(vertex_client.PAUSES) - 1)])
        raise AssertionError("unreachable")

    def deploy(self, what: str, deployed: Mapping[str, Any], split: Mapping[str, int], seconds: float) -> DeployedModel:
        """Deploys a model and waits until it answers; one of that id that is there, or under way, is waited for.

        Args:
            what: What is wanted, to begin an error message.
            deployed: The deployed model; its `id` is set.
            split: The traffic split then, as Vertex AI has it in this call ("0" is the new one); empty: as it is.
            seconds: How long it may take.

        Raises:
            NotReadyError: It failed, with Vertex AI's reason, or takes too long.
            ShipwayError: Vertex AI refused, or did not answer.
        """
        from google.api_core.exceptions import Conflict, NotFound

        deadline = time.monotonic() + seconds
        if (there := self.deployed(deployed["id"])) is not None:
            return there
        request = {"endpoint": self.name, "deployed_model": dict(deployed), "traffic_split": dict(split)}
        try:
            operation = self._vertex.ask(what, self._vertex.endpoints.deploy_model, request).operation
        except NotFound as error:
            raise self._vertex.refusal(what, error) from error
        except Conflict:
            # An earlier call of this or another process asked for the same; its operation is looked for.
            operation = self._under_way(what)
        failure: ShipwayError | None = None
        try:
            if operation is not None:
                self._follow(what, operation, deadline)
        except ShipwayError as error:
            failure = error
        if (there := self.deployed(deployed["id"])) is not None:
            return there
        raise failure or NotReadyError(f"{what}: Vertex AI ended it without an error, but it is not there; try again")

    def undeploy(self, what: str, id_: str, seconds: float) -> None:
        """Takes a deployed model away and waits for it; one that is not there is no fault."""
        from google.api_core.exceptions import Conflict, NotFound

        if self.deployed(id_) is None:
            return
        request = {"endpoint": self.name, "deployed_model_id": id_}
        try:
            operation = self._vertex.ask(what, self._vertex.endpoints.undeploy_model, request).operation
        except (NotFound, Conflict):
            operation = self._under_way(what)
        except ShipwayError:
            if self.deployed(id_) is not None:
                raise
            return
        if operation is not None:
            self._follow(what, operation, time.monotonic() + seconds)
        if self.deployed(id_) is not None:
            raise ShipwayError(f"{what}: Vertex AI still has it; try again")

    def delete(self, seconds: float) -> None:
        """Undeploys all that is there and deletes the Endpoint; one that is not there is no fault."""
        from google.api_core.exceptions import Conflict, NotFound

        endpoint = self.read()
        if endpoint is None:
            return
        if endpoint.traffic_split:
            self.change(f"ending endpoint {self.id}", lambda facts, _: (facts, {}))
        for found in endpoint.deployed_models:
            self.undeploy(f"undeploying {found.display_name} from {self.id}", found.id, seconds)
        what = f"deleting endpoint {self.id}"
        try:
            operation = self._vertex.ask(what, self._vertex.endpoints.delete_endpoint, {"name": self.name}).operation
            self._follow(what, operation, time.monotonic() + seconds)
        except NotFound:
            return
        except Conflict as error:
            raise self._vertex.refusal(what, error) from error

    def deployed(self, id_: str) -> DeployedModel | None:
        """Returns a deployed model, None where it is not there."""
        endpoint = self.read()
        return None if endpoint is None else deployed_of(endpoint, id_)

    def _update(self, endpoint: Endpoint, description: str, split: Mapping[str, int]) -> dict[str, Any]:
        changed = {
            "name": self.name,
            "description": description,
            "traffic_split": {name: percent for name, percent in split.items() if percent},
            "etag": endpoint.etag,
        }
        return {"endpoint": changed, "update_mask": {"paths": ["description", "traffic_split"]}}

    def _gave_up(self, what: str, error: GoogleAPICallError) -> ShipwayError:
        refusal = self._vertex.refusal(what, error)
        return ConflictError(f"{refusal}; somebody else keeps changing it") if _is_overtaken(error) else refusal

    def _under_way(self, what: str) -> Operation | None:
        """Returns an operation on the Endpoint that has not ended, None where there is none."""
        from google.api_core.exceptions import Conflict, NotFound

        try:
            listed = self._vertex.ask(what, self._vertex.endpoints.list_operations, {"name": self.name})
        except (NotFound, Conflict) as error:
            raise self._vertex.refusal(what, error) from error
        return next((found for found in listed.operations if not found.done), None)

    def _follow(self, what: str, operation: Operation, deadline: float) -> None:
        follow(self._vertex, self._vertex.endpoints, what, operation, deadline)


def follow(vertex: Vertex, client: Any, what: str, operation: Operation, deadline: float) -> Operation:
    """Waits until an operation has ended; whatever breaks off meanwhile, it is asked for again.

    Args:
        vertex: Who asks.
        client: The client of the service that the operation is of.
        what: What is wanted, to begin an error message.
        operation: The operation.
        deadline: When to give up, by the monotonic clock.

    Raises:
        NotReadyError: It failed or was cancelled, with Vertex AI's reason.
        StillRunningError: It has not ended in time.
    """
    from google.api_core import exceptions
    from google.api_core.exceptions import Conflict, NotFound

    exception_of: Any = exceptions.from_grpc_status

    while not operation.done:
        if time.monotonic() > deadline:
            raise StillRunningError(
                f"{what}: Vertex AI has not ended it in time ({operation.name}) and goes on with it; the same again "
                "waits for it, or give it longer (endpoint.vertex.ready_timeout)"
            )
        time.sleep(POLL_SECONDS)
        try:
            operation = vertex.ask(what, client.get_operation, {"name": operation.name})
        except (NotFound, Conflict) as error:
            raise vertex.refusal(what, error) from error
    if operation.HasField("error"):
        failure: GoogleAPICallError = exception_of(operation.error.code, operation.error.message)
        if operation.error.code == _CANCELLED:
            raise NotReadyError(f"{what}: somebody cancelled it ({operation.name})") from failure
        raise NotReadyError(str(vertex.refusal(what, failure))) from failure
    return operation


_CANCELLED = 1


def check_generation(what: str, endpoint: Endpoint | None, expect: str | None) -> None:
    """Refuses a change that was decided upon another state.

    Raises:
        ConflictError: It was.
    """
    found = generation_of(endpoint)
    if expect is not None and found != expect:
        raise ConflictError(
            f"{what}: somebody else has changed the endpoint meanwhile (expected state {expect or '(none)'}, found "
            f"{found or '(none)'}); look at its status and decide again"
        )


def _is_overtaken(error: GoogleAPICallError) -> bool:
    """Tells whether a change met another one, or an operation that is under way."""
    from google.api_core.exceptions import Aborted, FailedPrecondition

    said = str(error.message).lower()
    return isinstance(error, Aborted) or (
        isinstance(error, FailedPrecondition) and ("etag" in said or "operation" in said)
    )
