"""The local endpoint: one server process a model name and environment, which outlives the run that started it.

`local_state` has its files. What runs is always asked of the claim and of the server itself; the state file says what
is meant. It is written before the server is touched, so that whoever comes after a `kill -9` at any point can go on
from there: every change begins by making the server serve what is meant, a dead one by starting it anew.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from shipway.endpoints.client import Answer
from shipway.endpoints.local_apply import Reconciler
from shipway.endpoints.local_server import SERVER_COMMAND, LocalServer, ServedRevision, Table, server_options
from shipway.endpoints.local_state import (
    EndpointFiles,
    EndpointState,
    MeantMirror,
    MeantRevision,
    checked_shares,
    endpoint_names,
    used_digests,
)
from shipway.endpoints.packages import check_blessed, local_package, remove_unused
from shipway.endpoints.protocol import (
    ConflictError,
    EndpointStatus,
    RevisionStatus,
    revision_id,
)
from shipway.endpoints.window import Window
from shipway.errors import InputError, ShipwayError
from shipway.lineage.documents import Release
from shipway.lineage.project import project_folder, state_folder
from shipway.spec.rollout import EndpointSection

log = logging.getLogger("shipway.endpoints")

RECORD_BYTES = 32 * 1024
_WINDOWS: TypeAdapter[dict[str, Window]] = TypeAdapter(dict[str, Window])


class LocalEndpoint:
    """Serves one model from processes of this machine.

    Args:
        name: The model's name.
        state: The state folder; default: this project's.
        environment: `staging` or `production`; each has its own server and port.
        section: The spec's section `endpoint`; what it says of the server holds from the next start of one.
        command: What starts a server; its options are appended.
        seconds: How long a server may take to become ready, and a revision to be loaded.

    Raises:
        InputError: The name cannot be a file's, or there is no such environment.
    """

    def __init__(
        self,
        name: str,
        state: Path | None = None,
        *,
        environment: str = "staging",
        section: EndpointSection | None = None,
        command: Sequence[str] = SERVER_COMMAND,
        seconds: float = 120.0,
    ) -> None:
        self._state = (state or state_folder()).absolute()
        self._section = section
        self._files = EndpointFiles(name, environment, self._state)
        self._server = LocalServer(self._files, command, seconds)
        self._bring = Reconciler(self._files, self._server)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._files.name

    @property
    def lag_seconds(self) -> float:
        """The server is asked itself."""
        return 0.0

    def status(self) -> EndpointStatus:
        """Returns what is served now: shares and readiness as the server says, the rest as meant."""
        state, holder = self._files.read(), self._server.holder()
        table = self._server.table(holder) if holder is not None else None
        if holder is None:
            reason = "no server is running; the next change of the endpoint starts one"
        elif table is None:
            reason = f"the server process {holder.pid} does not answer; the next change of the endpoint replaces it"
        else:
            reason = "the server has not loaded it; the next change of the endpoint has it do so"
        rows = table.revisions if table is not None else []
        meant = {found.id for found in state.revisions}
        # Without a state file, whatever a living server tells is all there is to know.
        orphans = [] if meant else [_told(row) for row in rows]
        return EndpointStatus(
            name=self.name,
            url=self._server.url(holder) if holder is not None else "",
            revisions=(*(_status(found, state, table, reason) for found in state.revisions), *orphans),
            pid=holder.pid if holder is not None else 0,
            generation=state.generation,
            record=state.record,
            edges=tuple(table.edges) if table is not None else (),
        )

    def stage(
        self,
        release: Release,
        revision: str = "",
        *,
        edges: Sequence[float] = (),
        expect: str | None = None,
    ) -> EndpointStatus:
        """Puts a revision there with no traffic, in a process of its own unless it is the only one.

        Raises:
            NotBlessedError: No blessing names the release's digest.
            DigestMismatchError: The package's bytes are not the release's.
            InputError: There is no package, the port wanted is taken, or the revision is another and has traffic.
            NotReadyError: The release cannot be served; what was served before still is.
            ConflictError: The state is no longer the one expected.
        """
        check_blessed(release)
        wanted = revision or revision_id(release.version, release.digest)
        with self._change(expect) as read:
            known = read.revision(wanted)
            same = known is not None and (known.release.version, known.release.digest) == (
                release.version,
                release.digest,
            )
            if not same and wanted in read.shares:
                raise InputError(
                    f"{self._files.what}: revision {wanted} has traffic and is another version; take its traffic first"
                )
            package = local_package(release, self._state)
            before, table = self._bring.living(self._with_options(read))
            row = table.revision(wanted)
            if same and row is not None and row.ready:
                return self.status()
            others = any(found.id != wanted for found in before.revisions)
            isolated = others and (self._section is None or self._section.isolation == "process")
            meant = MeantRevision(
                id=wanted, release=release, package=str(package), isolated=isolated, edges=list(edges)
            )
            self._bring.attempt(before, before.with_revision(meant), anew=wanted)
            return self.status()

    def shift(self, shares: Mapping[str, int], *, expect: str | None = None) -> EndpointStatus:
        """Gives revisions their shares of the traffic, all at once; a dead server is started again first.

        Raises:
            InputError: A revision is not there, or the shares do not add up to 100; nothing has changed.
            NotReadyError: A revision with a share is not ready; nothing has changed.
            ConflictError: The state is no longer the one expected.
        """
        with self._change(expect) as read:
            wanted = checked_shares(dict(shares), [found.id for found in read.revisions], self._files.what)
            # A dead server is started with the new shares: what held it up may be what is losing its share.
            self._bring.check_ready(read, wanted)
            self._bring.attempt(read, read if wanted == read.shares else read.with_shares(wanted))
            return self.status()

    def mirror(self, revision: str, percent: int, *, expect: str | None = None) -> EndpointStatus:
        """Mirrors a share of the requests to a revision; 0 switches that off.

        Raises:
            InputError: The revision is not there, or has traffic of its own.
            NotReadyError: The revision does not answer.
            ConflictError: The state is no longer the one expected.
        """
        if not 0 <= percent <= 100:
            raise InputError(f"{self._files.what}: cannot mirror {percent} % of the requests, expected 0 to 100")
        with self._change(expect) as read:
            if read.revision(revision) is None and percent:
                raise InputError(f"{self._files.what}: no revision {revision} to mirror to")
            if revision in read.shares and percent:
                raise InputError(f"{self._files.what}: revision {revision} has traffic; it cannot be mirrored to")
            before, _ = self._bring.living(read)
            if percent:
                self._bring.check_ready(before, [revision])
            meant = MeantMirror(revision=revision, percent=percent) if percent else None
            off = meant is None and before.mirror is not None and before.mirror.revision != revision
            after = before if off or meant == before.mirror else before.changed(mirror=meant)
            self._bring.attempt(before, after)
            return self.status()

    def retire(self, revision: str, *, expect: str | None = None) -> EndpointStatus:
        """Takes a revision away; the last one left moves into the server's own process.

        Raises:
            InputError: It has traffic.
            ConflictError: The state is no longer the one expected.
        """
        with self._change(expect) as read:
            if revision in read.shares:
                raise InputError(
                    f"{self._files.what}: revision {revision} has {read.shares[revision]} % of the traffic; "
                    "shift it away first"
                )
            if read.revision(revision) is not None:
                before, _ = self._bring.living(read)
                self._bring.attempt(before, before.without(revision))
                self._collect()
            return self.status()

    def write_record(self, record: str, *, expect: str | None = None) -> EndpointStatus:
        """Keeps a text for whoever controls the endpoint, and starts a dead server again.

        Raises:
            InputError: It is too long.
            ConflictError: The state is no longer the one expected.
        """
        if len(record.encode()) > RECORD_BYTES:
            raise InputError(
                f"{self._files.what}: the record has {len(record.encode())} bytes, expected 32 KiB at most"
            )
        with self._change(expect) as read:
            state = read if record == read.record else read.changed(record=record)
            if state is not read:
                self._files.write(state)
            if state.shares and self._server.holder() is None:
                # The record is kept whatever becomes of this; the status says what does not run.
                try:
                    self._bring.living(state)
                except ShipwayError as error:
                    log.warning("%s", error)
            return self.status()

    def predict(self, revision: str, rows: Sequence[Mapping[str, Any]]) -> Answer:
        """Asks one revision for predictions, whatever its share.

        Raises:
            UnreachableError: Nobody answered.
        """
        return self._server.ask("POST", f"/revisions/{quote(revision)}/predict", {"instances": list(rows)})

    def windows(self, since: float, until: float) -> dict[str, Window]:
        """Returns what each revision did, as far as the living server process saw it.

        Raises:
            UnreachableError: Nobody answered.
            ShipwayError: The server does not tell.
        """
        answer = self._server.ask("GET", f"/windows?since={since!r}&until={until!r}")
        try:
            if answer.status != 200:
                raise ShipwayError(f"{self._files.what}: no windows to be had: {answer.reason()}")
            found = _WINDOWS.validate_python(answer.json()["windows"])
        except (ValidationError, KeyError, TypeError) as error:
            raise ShipwayError(f"{self._files.what}: not windows: {answer.body[:200]!r}") from error
        meant = {entry.id for entry in self._files.read().revisions}
        zeros = {revision: Window(revision=revision, since=since, until=until) for revision in meant}
        return {revision: found.get(revision, zeros[revision]) for revision in sorted(meant)}

    def stop(self) -> EndpointStatus:
        """Ends the server and forgets its revisions; returns what it served. Its port is kept for the next one."""
        with self._files.locked():
            try:
                state, live = self._files.read(), self.status()
            except ShipwayError as error:
                # A state file that cannot be read is no reason to leave a server behind.
                log.warning("%s", error)
                holder = self._server.holder()
                url, pid = (self._server.url(holder), holder.pid) if holder is not None else ("", 0)
                state, live = EndpointState(), EndpointStatus(self.name, url, pid=pid)
            self._server.end()
            if state.revisions or state.record:
                state = state.changed(revisions=[], shares={}, mirror=None, record="")
            self._files.write(state)
            return live

    @contextlib.contextmanager
    def _change(self, expect: str | None) -> Iterator[EndpointState]:
        """Holds the lock and gives the state, once that is the one expected."""
        with self._files.locked():
            state = self._files.read()
            if expect is not None and expect != state.generation:
                raise ConflictError(
                    f"{self._files.what} has changed since this was decided: its generation is {state.generation}, "
                    f"expected {expect}; look at its status and decide anew"
                )
            yield state

    def _with_options(self, state: EndpointState) -> EndpointState:
        """Returns the state with the server's options; says so where a living server has others."""
        if self._section is None:
            return state
        options = server_options(self._section, self._files)
        project = str(project_folder().absolute()) if self._section.flag_provider else ""
        if self._server.holder() is not None and options != state.started:
            log.warning(
                "%s: the spec's section endpoint has changed; it holds when the server is started next "
                "(`shipway down` ends it)",
                self._files.what,
            )
        if (options, project) == (state.options, state.project):
            return state
        noted = state.model_copy(update={"options": options, "project": project})
        self._files.write(noted)
        return noted

    def _collect(self) -> None:
        """Removes the copies of packages that no endpoint of the state folder is meant to serve."""
        files = [EndpointFiles(name, environment, self._state) for name, environment in endpoint_names(self._state)]
        try:
            remove_unused(used_digests(files), self._state)
        except (ShipwayError, OSError) as error:
            log.warning("copies of packages are left where they are: %s", error)


def stop_all(state: Path | None = None) -> list[tuple[str, EndpointStatus]]:
    """Ends every endpoint of a state folder; returns the environment of each that served, and what it served."""
    folder = (state or state_folder()).absolute()
    stopped = [
        (environment, LocalEndpoint(name, folder, environment=environment).stop())
        for name, environment in endpoint_names(folder)
    ]
    return [(environment, status) for environment, status in stopped if status.pid or status.revisions]


def _status(meant: MeantRevision, state: EndpointState, table: Table | None, reason: str) -> RevisionStatus:
    if table is not None and (row := table.revision(meant.id)) is not None:
        return _told(row)
    mirror = state.mirror.percent if state.mirror is not None and state.mirror.revision == meant.id else 0
    release, share = meant.release, state.shares.get(meant.id, 0)
    return RevisionStatus(meant.id, release.version, release.digest, share, False, mirror, reason)


def _told(row: ServedRevision) -> RevisionStatus:
    return RevisionStatus(row.id, row.version, row.digest, row.share, row.ready, row.mirror, row.reason)
