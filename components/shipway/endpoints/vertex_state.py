"""What Shipway keeps with a Vertex AI Endpoint: its ids, its labels, and the facts in its description.

The description is JSON: the revisions with the ids of their deployed models, the mirror, and the controller's record.
It is only ever changed together with the etag that it was read with, so that it and the traffic split are one state.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, ValidationError

from shipway.errors import InputError, ShipwayError

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.types import DeployedModel, Endpoint

MODEL_LABEL, ENVIRONMENT_LABEL, REVISION_LABEL = "shipway-model", "shipway-environment", "shipway-revision"
_ID_LENGTH = 63
_KEPT_GONE = 20


class RevisionFacts(BaseModel):
    """A revision as it was staged.

    Attributes:
        version: The registry's version.
        digest: The digest of its package.
        deployed: The id of its deployed model, chosen before it is deployed.
        shadow: The id of its deployed model on the shadow endpoint; "" without one.
        leaving: Whether it is being retired.
    """

    version: str
    digest: str
    deployed: str
    shadow: str = ""
    leaving: bool = False


class Facts(BaseModel):
    """What the description says.

    Attributes:
        count: How often it was written; makes each state another one.
        writer: Who wrote it last, to know one's own write after its answer was lost.
        record: The controller's record.
        edges: Inner edges of the prediction histogram.
        revisions: The revisions by id.
        mirror: The revision that is mirrored to, with its percent; None for none.
        gone: Deployed models that are gone -> the revision that they were, for its metrics; the latest few.
    """

    shipway: int = 1
    count: int = 0
    writer: str = ""
    record: str = ""
    edges: list[float] = Field(default_factory=list)
    revisions: dict[str, RevisionFacts] = Field(default_factory=dict)
    mirror: tuple[str, int] | None = None
    gone: dict[str, str] = Field(default_factory=dict)

    def without(self, revision: str) -> Facts:
        """Returns the facts without a revision; its deployed models are remembered as gone."""
        found = self.revisions.get(revision)
        if found is None:
            return self
        ids = {one: revision for one in (found.deployed, found.shadow) if one}
        gone = dict([*self.gone.items(), *ids.items()][-_KEPT_GONE:])
        left = {name: one for name, one in self.revisions.items() if name != revision}
        mirror = None if self.mirror and self.mirror[0] == revision else self.mirror
        return self.model_copy(update={"revisions": left, "gone": gone, "mirror": mirror})

    def written(self) -> Facts:
        """Returns the facts as the next to be written, like no others before."""
        return self.model_copy(update={"count": self.count + 1, "writer": secrets.token_hex(4)})

    def is_same(self, other: Facts) -> bool:
        """Tells whether both say the same, whoever wrote them."""
        return self.model_dump(exclude={"count", "writer"}) == other.model_dump(exclude={"count", "writer"})

    def text(self) -> str:
        """Returns the description."""
        return json.dumps(self.model_dump(exclude_defaults=True) | {"shipway": 1}, ensure_ascii=False)


def facts_of(endpoint: Endpoint) -> Facts:
    """Reads an Endpoint's description.

    Raises:
        ShipwayError: Somebody else wrote it.
    """
    if not endpoint.description:
        return Facts()
    try:
        return Facts.model_validate_json(endpoint.description)
    except ValidationError as error:
        raise ShipwayError(
            f"Vertex AI endpoint {endpoint.name}: its description is not Shipway's any more, so that nobody knows its "
            f"revisions ({error.errors()[0]['msg']}); put back what it was (Cloud Audit Logs have it), or delete the "
            "Endpoint and deploy anew"
        ) from error


def generation_of(endpoint: Endpoint | None) -> str:
    """Returns what changes with every change of revisions, shares, mirror or record; "" where nothing was ever done.

    It is made of these alone, not the etag, which may change for reasons that are nobody's decision (a replica more).
    """
    if endpoint is None or not (endpoint.description or endpoint.deployed_models):
        return ""
    state = [
        endpoint.description,
        sorted(endpoint.traffic_split.items()),
        sorted(found.id for found in endpoint.deployed_models),
    ]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]


def deployed_ids(facts: Facts) -> dict[str, str]:
    """Returns which revision each deployed model is or was."""
    now = {id_: name for name, one in facts.revisions.items() for id_ in (one.deployed, one.shadow) if id_}
    return facts.gone | now


def deployed_for(endpoint: Endpoint | None, facts: Facts, revision: str) -> DeployedModel | None:
    """Returns a revision's deployed model: by the id in the facts, else by its name; None where it is not there."""
    if endpoint is None:
        return None
    known = facts.revisions.get(revision)
    if known is not None:
        return deployed_of(endpoint, known.deployed)
    own = deployed_ids(facts)
    strangers = (one for one in endpoint.deployed_models if own.get(one.id, revision) == revision)
    return next((one for one in strangers if revision in (one.display_name, one.id)), None)


def refuse_with_traffic(what: str, endpoint: Endpoint, facts: Facts, revision: str) -> None:
    """Refuses a revision that has traffic.

    Raises:
        InputError: It has.
    """
    share = share_of(endpoint, facts, revision)
    if share:
        raise InputError(f"{what}: {revision} has {share} % of the traffic; shift it elsewhere first")


def deployed_of(endpoint: Endpoint, id_: str) -> DeployedModel | None:
    """Returns a deployed model of an Endpoint by id, None where it is not there."""
    return next((found for found in endpoint.deployed_models if found.id == id_), None)


def share_of(endpoint: Endpoint, facts: Facts, revision: str) -> int:
    """Returns a revision's percent of the traffic."""
    deployed = deployed_for(endpoint, facts, revision)
    return endpoint.traffic_split.get(deployed.id, 0) if deployed is not None else 0


def unready(deployed: DeployedModel | None, facts: RevisionFacts | None) -> str:
    """Returns why a revision does not answer, "" when it does."""
    if facts is not None and facts.leaving:
        return "it is being taken away"
    if deployed is None:
        return "it is not deployed yet, or the deployment has failed"
    if deployed.status.message and not deployed.status.available_replica_count:
        return f"none of its replicas is available: {' '.join(deployed.status.message.split())}"
    return ""


def new_deployed_id() -> str:
    """Returns an id for a deployed model: ten digits, as Vertex AI asks for."""
    return str(secrets.randbelow(9 * 10**9) + 10**9)


def model_id(name: str) -> str:
    """Returns the id of a model in Vertex AI's registry."""
    return bounded(f"shipway-{name}")


def endpoint_id(name: str, environment: str, revision: str = "") -> str:
    """Returns the id of the model's Endpoint, or of the shadow endpoint of one of its revisions."""
    parts = ("shipway", name, environment, revision, "shadow" if revision else "")
    return bounded("-".join(part for part in parts if part))


def labels_of(name: str, environment: str, revision: str = "") -> dict[str, str]:
    """Returns the labels of an Endpoint: lower case, at most 63 characters each."""
    labels = {MODEL_LABEL: name, ENVIRONMENT_LABEL: bounded(environment)}
    return labels | ({REVISION_LABEL: bounded(revision)} if revision else {})


def bounded(text: str) -> str:
    """Returns an id that Vertex AI takes: lower-case letters, digits and dashes, at most 63; others become a hash."""
    plain = "".join(one if one.isascii() and (one.islower() or one.isdigit()) else "-" for one in text.lower())
    if plain == text and len(plain) <= _ID_LENGTH:
        return plain
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{plain[: _ID_LENGTH - 9].strip('-')}-{mark}"
