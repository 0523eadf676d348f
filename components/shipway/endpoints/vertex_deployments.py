"""The deployed models of a model's Vertex AI Endpoint: put there, shadowed, taken away.

Facts are written before something is deployed and dropped after it is gone. Whoever comes after a crash finds in them
what is under way. The servers are told what to mirror after the facts are written, and again by whoever comes next.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from shipway.endpoints.client import UnreachableError
from shipway.endpoints.control import Control, MirrorOrder, control_uri, read_control, write_control
from shipway.endpoints.protocol import NotReadyError
from shipway.endpoints.vertex_client import Vertex
from shipway.endpoints.vertex_resource import Resource, StillRunningError, check_generation
from shipway.endpoints.vertex_state import (
    Facts,
    RevisionFacts,
    deployed_for,
    endpoint_id,
    facts_of,
    labels_of,
    new_deployed_id,
    refuse_with_traffic,
    share_of,
)
from shipway.errors import InputError, ShipwayError
from shipway.spec.resources import duration_seconds

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.types import Endpoint as VertexResource

    from shipway.endpoints.vertex_models import Served
    from shipway.spec.rollout import EndpointSettings

ALL = 100
# What Vertex AI calls the model that is just being deployed, in a traffic split.
_NEW = "0"


class Deployments:
    """What is deployed of one model in one environment.

    Attributes:
        primary: The Endpoint that callers ask.
        control: URI of the control document; "" for none.
        seconds: How long a revision may take to become ready, or to go.
    """

    def __init__(self, name: str, settings: EndpointSettings, environment: str, vertex: Vertex) -> None:
        self._name = name
        self._settings = settings
        self._environment = environment
        self._vertex = vertex
        control = settings.endpoint.control
        self.control = control_uri(control, name, environment) if control else ""
        self.seconds = float(duration_seconds(settings.endpoint.vertex.ready_timeout))
        self.primary = self.resource()

    def resource(self, revision: str = "") -> Resource:
        """Returns the model's Endpoint, or the shadow endpoint of a revision."""
        id_ = endpoint_id(self._name, self._environment, revision)
        return Resource(self._vertex, id_, labels_of(self._name, self._environment, revision))

    def ensure(self, resource: Resource) -> VertexResource:
        """Returns an Endpoint, made first where there is none."""
        key = self._settings.vertex.encryption_key
        return resource.ensure(
            {"display_name": resource.id, **({"encryption_spec": {"kms_key_name": key}} if key else {})}
        )

    def existing(self, what: str, expect: str | None = None) -> VertexResource:
        """Returns the Endpoint, whose state is as expected.

        Raises:
            ConflictError: It is not.
            InputError: There is none.
        """
        found = self.primary.read()
        check_generation(what, found, expect)
        if found is None:
            raise InputError(f"{what}: nothing was ever staged there (no Endpoint {self.primary.id})")
        return found

    def put(self, what: str, revision: str, served: Served, model: str, expect: str | None) -> None:
        """Deploys a revision with no traffic; its facts are written first, so that a crash leaves them to go by."""
        release = served.release

        def decide(facts: Facts, endpoint: VertexResource) -> tuple[Facts, dict[str, int]]:
            known = facts.revisions.get(revision) or RevisionFacts(
                version=release.version, digest=release.digest, deployed=new_deployed_id()
            )
            changed = {"revisions": {**facts.revisions, revision: known}, "edges": facts.edges or list(served.edges)}
            return facts.model_copy(update=changed), dict(endpoint.traffic_split)

        self.ensure(self.primary)
        facts = facts_of(self.primary.change(what, decide, expect))
        deployed = self._deployed_model(revision, facts.revisions[revision].deployed, model)
        try:
            self.primary.deploy(what, deployed, {}, self.seconds)
        except (StillRunningError, UnreachableError):
            # It may yet get there: the same again goes on with it.
            raise
        except ShipwayError:
            # What failed is what to tell; facts that stay are no more than a revision that is not ready.
            with suppress(ShipwayError):
                self.forget(what, revision)
            raise

    def put_shadow(self, what: str, revision: str, expect: str | None = None) -> None:
        """Deploys a revision once more, alone on an Endpoint of its own."""

        def decide(facts: Facts, endpoint: VertexResource) -> tuple[Facts, dict[str, int]]:
            known = facts.revisions.get(revision)
            if known is None:
                raise self.unknown(what, revision, facts)
            known = known.model_copy(update={"shadow": known.shadow or new_deployed_id()})
            changed = {"revisions": {**facts.revisions, revision: known}}
            return facts.model_copy(update=changed), dict(endpoint.traffic_split)

        endpoint = self.primary.change(what, decide, expect)
        facts = facts_of(endpoint)
        original = deployed_for(endpoint, facts, revision)
        if original is None:
            raise NotReadyError(f"{what}: {revision} is not deployed yet; stage it first")
        shadow = self.resource(revision)
        self.ensure(shadow)
        model = f"{original.model.partition('@')[0]}@{original.model_version_id}"
        deployed = self._deployed_model(revision, facts.revisions[revision].shadow, model)
        try:
            shadow.deploy(f"{what} (shadow)", deployed, {_NEW: ALL}, self.seconds)
        except (StillRunningError, UnreachableError):
            raise
        except ShipwayError:
            with suppress(ShipwayError):
                self.drop_shadow(what, revision)
            raise

    def _deployed_model(self, revision: str, id_: str, model: str) -> dict[str, Any]:
        section, account = self._settings.endpoint.vertex, self._settings.vertex.service_account
        return {
            "id": id_,
            "model": model,
            "display_name": revision,
            "dedicated_resources": {
                "machine_spec": {"machine_type": section.machine_type},
                "min_replica_count": section.min_replicas,
                "max_replica_count": section.max_replicas,
            },
            **({"service_account": account} if account else {}),
        }

    def take_away(self, what: str, revision: str, expect: str | None = None) -> None:
        """Undeploys a revision and its shadow; a crash in between leaves it marked, and the same again goes on."""

        def leave(facts: Facts, endpoint: VertexResource) -> tuple[Facts, dict[str, int]]:
            refuse_with_traffic(what, endpoint, facts, revision)
            is_mirrored = facts.mirror is not None and facts.mirror[0] == revision
            changed: dict[str, Any] = {"mirror": None if is_mirrored else facts.mirror}
            if (known := facts.revisions.get(revision)) is not None:
                changed["revisions"] = {**facts.revisions, revision: known.model_copy(update={"leaving": True})}
            return facts.model_copy(update=changed), dict(endpoint.traffic_split)

        after = self.primary.change(what, leave, expect)
        facts = facts_of(after)
        self.tell(facts)
        deployed = deployed_for(after, facts, revision)
        if deployed is not None:
            self.primary.undeploy(what, deployed.id, self.seconds)
        self.resource(revision).delete(self.seconds)
        self.forget(what, revision)

    def forget(self, what: str, revision: str) -> None:
        """Drops a revision's facts; it is gone."""
        self.primary.change(what, lambda facts, endpoint: (facts.without(revision), dict(endpoint.traffic_split)))

    def drop_shadow(self, what: str, revision: str) -> None:
        """Takes the shadow of a revision away."""

        def decide(facts: Facts, endpoint: VertexResource) -> tuple[Facts, dict[str, int]]:
            known = facts.revisions.get(revision)
            if known is None:
                return facts, dict(endpoint.traffic_split)
            changed = {
                "revisions": {**facts.revisions, revision: known.model_copy(update={"shadow": ""})},
                "gone": {**facts.gone, known.shadow: revision},
            }
            return facts.model_copy(update=changed), dict(endpoint.traffic_split)

        known = facts_of(self.existing(what)).revisions.get(revision)
        if known is not None and known.shadow:
            self.resource(revision).delete(self.seconds)
            self.primary.change(what, decide)

    def is_candidate(self, revision: str) -> bool:
        """Tells whether a revision has less than all of the traffic while others have some."""
        endpoint = self.primary.read()
        if endpoint is None:
            return False
        return bool(endpoint.traffic_split) and share_of(endpoint, facts_of(endpoint), revision) < ALL

    def refuse_traffic(self, what: str, revision: str) -> None:
        """Refuses a revision that has traffic.

        Raises:
            InputError: It has.
        """
        endpoint = self.existing(what)
        refuse_with_traffic(what, endpoint, facts_of(endpoint), revision)

    def unknown(self, what: str, revision: str, facts: Facts) -> InputError:
        """Returns the error for a revision that is not there."""
        known = ", ".join(facts.revisions) or "none"
        return InputError(f"{what}: there is no revision {revision!r} on endpoint {self.primary.id}; it has {known}")

    def tell(self, facts: Facts) -> None:
        """Tells the servers what to mirror, where that is not what they were told last."""
        if not self.control:
            return
        order = None
        if facts.mirror is not None:
            revision, percent = facts.mirror
            url = self._vertex.url(self.resource(revision).name, "rawPredict")
            auth = "google" if url.startswith("https:") else "none"
            version = facts.revisions[revision].version
            order = MirrorOrder(revision=revision, url=url, percent=percent, auth=auth, version=version)
        if read_control(self.control).mirror != order:
            write_control(self.control, Control(mirror=order))
