"""Reads and changes an endpoint's two objects on KServe, fenced against everybody else who does.

What is served, and each revision's share, is the InferenceService's spec alone. Beside it stands a Lease with the
controller's record and a serial number. Every change first replaces the Lease, then the InferenceService, each only if
it is still the one that was read; a change that leaves the InferenceService as it is touches its status instead. So
whoever was overtaken fails at one of the two, however long it was asleep in between.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shipway.endpoints import kserve_objects as objects
from shipway.endpoints.kserve_objects import Ledger, Object
from shipway.endpoints.kserve_state import Edit, Snapshot
from shipway.endpoints.protocol import ConflictError
from shipway.errors import InputError

if TYPE_CHECKING:
    from shipway.endpoints.kserve_api import Cluster

_ATTEMPTS = 10
_PAUSE_SECONDS = 0.2


class Store:
    """The objects of one endpoint.

    Args:
        name: The model's name, for messages.
        service: The InferenceService's name.
        mode: raw or serverless.
        cluster: Where they are.
    """

    def __init__(self, name: str, service: str, mode: str, cluster: Cluster) -> None:
        self.cluster = cluster
        self._name, self._service, self._mode = name, service, mode
        self._lease = f"shipway-{service}"
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"

    def forget(self) -> None:
        """Deletes the Lease, with the record."""
        self.cluster.delete_lease(self._lease)

    def read(self) -> Snapshot:
        """Reads the endpoint without its pods.

        Raises:
            InputError: There is an InferenceService of that name which is not ours.
        """
        lease = self.cluster.lease(self._lease)
        service = self.cluster.service(self._service)
        ledger, record = objects.read_ledger(lease)
        labels = (service or {}).get("metadata", {}).get("labels") or {}
        if service is not None and labels.get(objects.MANAGED_LABEL) != objects.MANAGER:
            raise InputError(
                f"InferenceService {self._service} in namespace {self.cluster.namespace} was not made by Shipway; "
                "delete it, or choose another `name` or endpoint.kserve.namespace in the spec"
            )
        return Snapshot(lease, service, ledger, record)

    def look(self) -> Snapshot:
        """Reads the endpoint with its pods."""
        seen = self.read()
        if seen.service is None:
            return seen
        found = self.cluster.pods(f"{objects.SERVICE_LABEL}={self._service}")
        return Snapshot(seen.lease, seen.service, seen.ledger, seen.record, found)

    def check(self, seen: Snapshot, expect: str | None) -> None:
        """Refuses a state that is not the one expected.

        Raises:
            ConflictError: It is another.
        """
        if expect is not None and seen.generation != expect:
            raise ConflictError(
                f"{self._name}: the endpoint is no longer as it was when this was decided (generation "
                f"{seen.generation}, expected {expect}); somebody else changes it"
            )

    def change(self, expect: str | None, edit: Callable[[Snapshot], Edit | None]) -> Snapshot:
        """Makes a change, once, upon the state it was decided for; see the module for how.

        Args:
            expect: The generation it was decided upon; None takes whatever there is, and tries again when overtaken.
            edit: Returns what to change, or None for nothing.

        Raises:
            ConflictError: The state is another, or another writer came first too often.
        """
        for _ in range(_ATTEMPTS):
            seen = self.look()
            self.check(seen, expect)
            wanted = edit(seen)
            if wanted is None:
                return seen
            try:
                return self._write(seen, wanted)
            except ConflictError:
                if expect is not None:
                    # A resource version may differ where the state does not: the next look tells.
                    continue
                time.sleep(_PAUSE_SECONDS)
        raise ConflictError(
            f"{self._name}: somebody else changed the endpoint each of {_ATTEMPTS} times; try again later"
        )

    def _write(self, seen: Snapshot, wanted: Edit) -> Snapshot:
        ledger = wanted.ledger.model_copy(update={"serial": seen.ledger.serial + 1})
        record = seen.record if wanted.record is None else wanted.record
        lease = self._write_lease(seen, ledger, record)
        if wanted.spec is None:
            self.cluster.delete_service(self._service)
        elif wanted.spec and seen.service is None:
            body = objects.inference_service(self._service, self.cluster.namespace, self._mode, wanted.spec)
            self.cluster.create_service(body)
        elif wanted.spec:
            self._replace(seen, ledger, wanted.spec)
        elif seen.service is not None:
            self.cluster.touch_service(self._service, ledger.serial)
        now = self.look()
        return now if wanted.spec is not None else Snapshot(lease, None, ledger, record)

    def _write_lease(self, seen: Snapshot, ledger: Ledger, record: str) -> Object:
        """Replaces the Lease, or recognizes that it was this call whose answer got lost."""
        body = objects.lease(self._lease, self.cluster.namespace, ledger, record, self._holder, seen.lease)
        try:
            return self.cluster.write_lease(body)
        except ConflictError:
            found = self.cluster.lease(self._lease)
            mine = (found or {}).get("spec", {}).get("holderIdentity") == self._holder
            if found is None or not mine or objects.read_ledger(found) != (ledger, record):
                raise
            return found

    def _replace(self, seen: Snapshot, ledger: Ledger, spec: Object) -> None:
        """Replaces the spec; where only KServe wrote its status meanwhile, again.

        Raises:
            ConflictError: Somebody else changed the endpoint.
        """
        before, found = seen.service or {}, seen.service
        for _ in range(_ATTEMPTS):
            if found is None or found["metadata"].get("generation") != before["metadata"].get("generation"):
                break
            try:
                self.cluster.replace_service({**found, "spec": spec})
                return
            except ConflictError:
                now = self.read()
                if (
                    now.ledger.serial != ledger.serial
                    or (now.lease or {}).get("spec", {}).get("holderIdentity") != self._holder
                ):
                    raise
                if now.spec == spec:
                    return
                found = now.service
        raise ConflictError(f"{self._name}: InferenceService {self._service} was changed by somebody else meanwhile")
