"""The server process of a local endpoint: starting it, ending it, and asking its administration."""

import contextlib
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from shipway.endpoints.claim import Claimant, ClaimHeldError, claimant, is_held
from shipway.endpoints.client import Answer, UnreachableError, call, json_bytes
from shipway.endpoints.local_state import EndpointFiles, EndpointState, MeantRevision
from shipway.endpoints.packages import local_package
from shipway.endpoints.process import start_process
from shipway.endpoints.protocol import NotReadyError
from shipway.errors import DigestMismatchError, InputError, NotBlessedError, ShipwayError
from shipway.lineage.project import PROJECT_VARIABLE, state_folder
from shipway.spec.rollout import EndpointSection

log = logging.getLogger("shipway.endpoints")

SERVER_COMMAND = (sys.executable, "-P", "-m", "shipway.serving")

LOADING = "it is being loaded"
"""The server's reason for a revision that it has not come to yet."""

_HOST = "127.0.0.1"
_HEALTH_SECONDS = 5.0
_GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.05
_LOG_LINES = 15
_EXITS: dict[int, type[ShipwayError]] = {kind.exit_code: kind for kind in (InputError, NotBlessedError, ClaimHeldError)}
_REFUSALS: dict[int, type[ShipwayError]] = {
    400: InputError,
    403: NotBlessedError,
    404: InputError,
    409: NotReadyError,
    422: NotReadyError,
}


class ServedRevision(BaseModel):
    """A revision, as the server tells it; the attributes are those of `RevisionStatus`."""

    id: str
    version: str
    digest: str
    share: int = 0
    ready: bool = False
    mirror: int = 0
    reason: str = ""
    isolated: bool = False

    def is_meant(self, meant: MeantRevision) -> bool:
        """Tells whether this is what is meant to be there."""
        release = meant.release
        same = (self.version, self.digest) == (release.version, release.digest)
        # What has moved into the server's own process stays there.
        return same and (meant.isolated or not self.isolated)


class Table(BaseModel):
    """What a server serves, as it tells itself."""

    name: str
    instance: str = ""
    revisions: list[ServedRevision] = Field(default_factory=list)
    edges: list[float] = Field(default_factory=list)

    def revision(self, revision: str) -> ServedRevision | None:
        """Returns a revision by id."""
        return next((found for found in self.revisions if found.id == revision), None)

    def has_traffic_of(self, state: EndpointState) -> bool:
        """Tells whether shares and mirror are those meant."""
        shares = {found.id: found.share for found in self.revisions if found.share}
        mirrored = {found.id: found.mirror for found in self.revisions if found.mirror}
        meant = {state.mirror.revision: state.mirror.percent} if state.mirror else {}
        return (shares, mirrored) == (state.shares, meant)


class LocalServer:
    """The server process of one endpoint, which may be living or not.

    Args:
        files: The endpoint's files.
        command: What starts a server; its options are appended.
        seconds: How long a server may take to become ready, and a revision to be loaded.
    """

    def __init__(self, files: EndpointFiles, command: Sequence[str], seconds: float) -> None:
        self._files = files
        self._command = list(command)
        self._seconds = seconds

    def holder(self) -> Claimant | None:
        """Returns the living process; None where there is none."""
        return claimant(self._files.claim)

    def url(self, holder: Claimant) -> str:
        """Returns where a process answers."""
        return f"http://{holder.host}:{holder.port}"

    def table(self, holder: Claimant) -> Table | None:
        """Returns what a living process serves; None where it hangs, or is not this endpoint's."""
        if not self._files.token_file.is_file():
            return None
        try:
            answer = self._ask("GET", holder, "", seconds=_HEALTH_SECONDS)
            table = Table.model_validate_json(answer.body) if answer.status == 200 else None
        except (UnreachableError, ValidationError):
            return None
        return table if table is not None and table.instance == holder.instance else None

    def ask(self, method: str, path: str, body: object | None = None) -> Answer:
        """Sends a request to the living process's administration, and returns its answer whatever its status.

        Args:
            method: The HTTP method.
            path: What comes after the model's name.
            body: JSON, or None for none.

        Raises:
            UnreachableError: Nobody answers.
        """
        holder = self.holder()
        if holder is None:
            raise UnreachableError(f"{self._files.what}: no server is running")
        return self._ask(method, holder, path, body, self._seconds)

    def order(self, method: str, path: str, body: object | None, what: str) -> None:
        """Has the administration do something.

        Args:
            method: The HTTP method.
            path: What comes after the model's name.
            body: JSON, or None for none.
            what: What it is about, for messages.

        Raises:
            UnreachableError: Nobody answers.
            ShipwayError: It refused; the message has its reason.
        """
        answer = self.ask(method, path, body)
        if answer.status != 200:
            raise _REFUSALS.get(answer.status, ShipwayError)(f"{what}: {answer.reason()}")

    def put(self, revision: MeantRevision) -> None:
        """Has the server load a revision, and waits until it is ready.

        Raises:
            NotBlessedError: The server found no blessing of it.
            DigestMismatchError: The bytes are not the release's.
            NotReadyError: It cannot be loaded.
        """
        what = f"{self._files.name} version {revision.release.version}"
        answer = self.ask("PUT", f"/revisions/{quote(revision.id)}", revision.order())
        if answer.status == 409:
            raise DigestMismatchError(f"{what}: {answer.reason()}")
        if answer.status != 200:
            raise _REFUSALS.get(answer.status, ShipwayError)(f"{what} cannot be served: {answer.reason()}")

    def start(self, state: EndpointState) -> EndpointState:
        """Starts a server with what is meant, and waits until every revision with a share is ready.

        Returns:
            The state, with what became of the start.

        Raises:
            ClaimHeldError: Another server came first.
            ShipwayError: It ended, or did not become ready in time; the message has the end of its log.
        """
        instance = secrets.token_hex(8)
        self._files.token()
        self._make_copies(state)
        self._files.write_table(state)
        arguments = [
            *("--table", str(self._files.table), "--name", self._files.name, "--host", _HOST, "--port", self._port()),
            *("--prefer-port", str(state.port), "--token-file", str(self._files.token_file)),
            *("--state-file", str(self._files.claim), "--instance", instance, *state.options),
        ]
        variables = {PROJECT_VARIABLE: state.project} if state.project else {}
        process = start_process(self._command, arguments, self._files.folder, self._files.log, variables)
        deadline = time.monotonic() + self._seconds
        while time.monotonic() < deadline:
            if process.returncode is not None:
                kind = _EXITS.get(process.returncode, ShipwayError)
                raise kind(
                    f"{self._files.what}: the server ended at once (exit {process.returncode}){_tail(self._files.log)}"
                )
            holder = self.holder()
            if holder is not None and holder.instance == instance and self._is_ready(holder, state):
                return state.model_copy(update={"port": holder.port, "started": state.options})
            time.sleep(_POLL_SECONDS)
        process.kill()
        raise NotReadyError(
            f"{self._files.what}: the server was not ready after {self._seconds:g} s{_tail(self._files.log)}"
        )

    def wait(self, holder: Claimant, state: EndpointState) -> None:
        """Waits until a server that somebody else started is ready, or time is up."""
        deadline = time.monotonic() + self._seconds
        while is_held(self._files.claim) and not self._is_ready(holder, state) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def end(self, patience: float | None = None) -> None:
        """Ends the server, if one lives: by SIGTERM, and by SIGKILL when that takes longer than `patience` seconds.

        Raises:
            ShipwayError: It does not end.
        """
        holder = self.holder()
        if holder is None:
            return
        for number, seconds in (
            (signal.SIGTERM, _GRACE_SECONDS if patience is None else patience),
            (signal.SIGKILL, _GRACE_SECONDS),
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.pid, number)
            deadline = time.monotonic() + seconds
            while is_held(self._files.claim):
                if time.monotonic() >= deadline:
                    break
                time.sleep(_POLL_SECONDS)
            else:
                return
        raise ShipwayError(f"{self._files.what}: the server process {holder.pid} does not end")

    def _is_ready(self, holder: Claimant, state: EndpointState) -> bool:
        table = self.table(holder)
        if table is None:
            return False
        rows = {found.id: found for found in table.revisions}
        # A server comes to what it mirrors to last, and sets the traffic that it was started with once more then.
        loading = state.mirror is not None and any(row.reason == LOADING for row in rows.values())
        return not loading and all(revision in rows and rows[revision].ready for revision in state.shares)

    def _ask(
        self, method: str, holder: Claimant, path: str, body: object | None = None, seconds: float = 10.0
    ) -> Answer:
        return call(
            method,
            f"{self.url(holder)}/shipway/v1/models/{self._files.name}{path}",
            None if body is None else json_bytes(body),
            {"authorization": f"Bearer {self._files.token()}"},
            seconds,
        )

    def _make_copies(self, state: EndpointState) -> None:
        """Makes the copies anew that were damaged or lost since; the server tells of those that cannot be had."""
        for revision in state.revisions:
            try:
                local_package(revision.release, self._files.state)
            except ShipwayError as error:
                log.warning("%s: %s", self._files.what, error)

    def _port(self) -> str:
        variable = f"SHIPWAY_{self._files.environment.upper()}_PORT"
        port = os.environ.get(variable, "") or "0"
        if not port.isdigit():
            raise InputError(f"{variable}: expected a port, found {port!r}")
        return port


def server_options(section: EndpointSection, files: EndpointFiles) -> list[str]:
    """Returns the server's options that a spec's section asks for.

    Args:
        section: The section.
        files: The endpoint's files; production keeps its prediction log beside them, unless the section says where.
    """
    options = ["--sticky", section.sticky] if section.sticky else []
    if section.flag and section.flag_provider:
        options += ["--flag", section.flag, "--flag-provider", section.flag_provider]
        for attribute in section.flag_attributes:
            options += ["--flag-attribute", attribute]
    if files.environment == "production" and section.log.share:
        uri = section.log.uri or str(predictions_folder(files.name, files.state))
        options += ["--log-uri", uri, "--log-share", str(section.log.share), "--log-keep", section.log.keep]
    return options


def predictions_folder(name: str, state: Path | None = None) -> Path:
    """Returns where a production endpoint of this machine keeps its prediction log."""
    return (state or state_folder()).absolute() / "predictions" / name


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        lines = []
    return "; its log:\n" + "\n".join(f"  {line}" for line in lines) if lines else "; its log is empty"
