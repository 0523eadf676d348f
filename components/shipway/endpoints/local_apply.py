"""Making the server of a local endpoint serve what is meant, from whatever state a killed process left it in."""

import logging
from collections.abc import Iterable
from urllib.parse import quote

from shipway.endpoints.claim import ClaimHeldError
from shipway.endpoints.client import UnreachableError
from shipway.endpoints.local_server import LOADING, LocalServer, Table
from shipway.endpoints.local_state import EndpointFiles, EndpointState
from shipway.endpoints.protocol import NotReadyError
from shipway.errors import ShipwayError

log = logging.getLogger("shipway.endpoints")


class Reconciler:
    """Brings a server to what is meant. Its caller holds the endpoint's lock.

    Args:
        files: The endpoint's files.
        server: Its server process.
    """

    def __init__(self, files: EndpointFiles, server: LocalServer) -> None:
        self._files = files
        self._server = server

    def table(self) -> Table | None:
        """Returns what a living server serves; None where it is dead, hangs, or is not this endpoint's."""
        holder = self._server.holder()
        return self._server.table(holder) if holder is not None else None

    def living(self, state: EndpointState) -> tuple[EndpointState, Table]:
        """Makes sure that a server is living and answers; starts one with what is meant where there is none.

        Returns:
            The state, and what the server serves.

        Raises:
            ShipwayError: It cannot be started, or serves what nobody knows of.
        """
        table = self.table()
        if table is None:
            self._server.end(patience=0.0)
            try:
                state = self._server.start(state)
            except ClaimHeldError:
                # A server that a killed change had started came first; it will do.
                if (holder := self._server.holder()) is None:
                    raise
                self._server.wait(holder, state)
            self._files.write(state)
            table = self.table()
        if table is None:
            raise UnreachableError(f"{self._files.what}: the server was started, and does not answer any more")
        if table.revisions and not state.revisions:
            raise ShipwayError(
                f"{self._files.what}: its state file is lost while a server serves "
                f"{', '.join(row.id for row in table.revisions)}; put the file back, or end the endpoint with "
                "`shipway down` and deploy anew"
            )
        return state, table

    def check_ready(self, state: EndpointState, revisions: Iterable[str]) -> None:
        """Refuses revisions that a living server has, but not ready; one that it lacks or is loading is waited for.

        Raises:
            NotReadyError: One of them is not ready.
        """
        table = self.table()
        for meant in filter(None, map(state.revision, revisions if table is not None else ())):
            row = table.revision(meant.id) if table is not None else None
            if row is None or (not row.ready and row.reason == LOADING):
                self._server.put(meant)
            elif not row.ready:
                raise NotReadyError(f"{self._files.what}: revision {meant.id} is not ready: {row.reason}")

    def attempt(self, before: EndpointState, after: EndpointState, anew: str = "") -> None:
        """Means another state and has the server serve it; where that fails, nothing has changed.

        Args:
            before: What was meant.
            after: What is meant now.
            anew: A revision that is put there also where the server has it, but not ready.
        """
        if after is not before:
            self._files.write(after)
        try:
            try:
                self._apply(after, anew)
            except UnreachableError:
                # It died or hangs; another one is started with what is meant now.
                after, _ = self.living(after)
                self._apply(after, anew)
        except ShipwayError:
            self._undo(before)
            raise

    def _apply(self, state: EndpointState, anew: str = "") -> None:
        """Has a living server serve what is meant, by as few orders as it takes."""
        table = self.table()
        if table is None:
            raise UnreachableError(f"{self._files.what}: the server does not answer")
        for meant in state.revisions:
            row = table.revision(meant.id)
            needed = meant.id in state.shares or meant.id == anew or (row is not None and len(state.revisions) == 1)
            if needed and (row is None or not row.is_meant(meant) or (meant.id == anew and not row.ready)):
                self._server.put(meant)
        if not table.has_traffic_of(state) and state.shares:
            target = table.revision(state.mirror.revision) if state.mirror is not None else None
            # Traffic moves whatever has become of a revision that is only mirrored to.
            mirrored = state if target is not None and target.ready else state.model_copy(update={"mirror": None})
            self._server.order("PUT", "/traffic", mirrored.traffic(), self._files.what)
        for row in table.revisions:
            if state.revision(row.id) is None:
                self._server.order("DELETE", f"/revisions/{quote(row.id)}", None, self._files.what)

    def _undo(self, before: EndpointState) -> None:
        """Comes back to what was meant before a change that failed; that failure is what the caller has to hear of."""
        try:
            self._files.write(before)
            if before.revisions:
                self.living(before)
                self._apply(before)
            else:
                self._server.end()
        except ShipwayError as error:
            log.warning("%s: after a change that failed: %s", self._files.what, error)
