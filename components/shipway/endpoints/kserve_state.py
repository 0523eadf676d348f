"""What is known of an endpoint on KServe at one moment, and what a change makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shipway.endpoints.kserve_objects import Ledger, Object
from shipway.spec import EndpointSettings


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An endpoint's objects as they were read.

    Attributes:
        lease: The Lease with the ledger; None before the first change.
        service: The InferenceService; None while nothing is served.
        ledger: What the Lease says.
        record: The controller's record.
        pods: The pods of all revisions; empty where nobody asked for them.
    """

    lease: Object | None
    service: Object | None
    ledger: Ledger
    record: str
    pods: Sequence[Object] = ()

    @property
    def generation(self) -> str:
        """Changes with every change of ours, and with every change of the InferenceService's spec by anybody.

        The resource versions will not do: they change whenever KServe writes the status.
        """
        if self.lease is None and self.service is None:
            return ""
        metadata = self.service["metadata"] if self.service else {}
        return f"{self.ledger.serial}.{metadata.get('generation', 0)}.{str(metadata.get('uid', ''))[:8]}"

    @property
    def spec(self) -> Object:
        """The InferenceService's spec; empty while there is none."""
        return (self.service or {}).get("spec") or {}

    @property
    def status(self) -> Object:
        """The InferenceService's status; empty while there is none."""
        return (self.service or {}).get("status") or {}

    @property
    def observed(self) -> bool:
        """Whether KServe's controller has seen the latest spec; true where it does not tell."""
        if self.service is None:
            return True
        generation = int(self.service["metadata"].get("generation") or 0)
        return int(self.status.get("observedGeneration") or generation) >= generation


@dataclass(frozen=True, slots=True)
class Edit:
    """What a change makes of an endpoint.

    Attributes:
        ledger: The new ledger; its serial is set when it is written.
        spec: The InferenceService's new spec; None takes it away; an empty one leaves it as it is.
        record: The new record; None leaves it.
    """

    ledger: Ledger
    spec: Object | None = field(default_factory=dict)
    record: str | None = None


class Mode(Protocol):
    """How one of KServe's two ways of canaries says what Shipway means. Nothing here does I/O."""

    settings: EndpointSettings

    def revisions(self, seen: Snapshot) -> list[str]:
        """Returns the ids of the revisions that are there."""

    def shares(self, seen: Snapshot) -> dict[str, int]:
        """Returns each revision's share of the traffic, percent."""

    def ready(self, seen: Snapshot, revision: str) -> bool:
        """Tells whether KServe itself calls a revision ready and would send it requests."""

    def idle(self, seen: Snapshot, revision: str) -> bool:
        """Tells whether a revision without pods answers all the same, by being started when it is asked."""

    def staged(self, seen: Snapshot, revision: str, predictor: Object) -> Edit:
        """Returns what puts a revision there, the others left as they are.

        Raises:
            UnsupportedError: It cannot stand beside those that are there.
        """

    def shifted(self, seen: Snapshot, shares: Mapping[str, int]) -> Edit:
        """Returns what gives every revision its share."""

    def retired(self, seen: Snapshot, revision: str) -> Edit:
        """Returns what takes a revision without traffic away."""

    def awaited(self, seen: Snapshot) -> str:
        """Returns what KServe has yet to do until the shares hold; "" for nothing."""

    def address(self, seen: Snapshot, revision: str) -> str:
        """Returns the URL of a revision where KServe's status has one; "" where its Service has to be asked."""


def condition(seen: Snapshot, kind: str) -> Object:
    """Returns one of the InferenceService's conditions; an empty one where it is not told."""
    found: Sequence[Object] = seen.status.get("conditions") or []
    return next((one for one in found if one.get("type") == kind), {})


def complaints(seen: Snapshot) -> str:
    """Returns what KServe says of an InferenceService that is not ready, in one sentence; "" for nothing."""
    failure = (seen.status.get("modelStatus") or {}).get("lastFailureInfo") or {}
    if failure.get("message"):
        return f"KServe says: {failure.get('reason', '')}: {failure['message']}"
    found: Sequence[Object] = seen.status.get("conditions") or []
    said = [
        f"{one['type']}: {one.get('message') or one.get('reason')}"
        for one in found
        if one.get("status") != "True" and (one.get("message") or one.get("reason"))
    ]
    return f"KServe says: {'; '.join(said)}" if said else ""
