"""The local endpoint: one server process a model name, which outlives the run that started it.

Its files, all below `<state folder>/endpoints`, which nobody else may read:

    NAME.json     what is meant to be served, what was served before it, and the port (written atomically)
    NAME.server   the server's claim: locked while the process lives, with its pid and port inside (see `claim`)
    NAME.token    the bearer token for the server's administration
    NAME.lock     held by whoever deploys, so that two deploys take turns
    NAME.log      what the server has to say
    packages/     copies of the served packages, by digest

What runs is always asked of the claim and of the server itself, never of NAME.json, which only says what was meant. It
is written before the server is touched, so that whoever comes after a `kill -9` at any point can go on from there.
"""

import contextlib
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from shipway.endpoints.claim import Claimant, ClaimHeldError, claimant, is_held
from shipway.endpoints.client import Answer, UnreachableError, call, json_bytes
from shipway.endpoints.packages import check_blessed, local_package, package_folder
from shipway.endpoints.process import start_process
from shipway.endpoints.protocol import EndpointStatus
from shipway.errors import DigestMismatchError, InputError, ShipwayError
from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import Deployment, Release
from shipway.lineage.files import write_bytes
from shipway.lineage.locks import exclusive
from shipway.lineage.project import state_folder

PORT_VARIABLE = "SHIPWAY_STAGING_PORT"
SERVER_COMMAND = (sys.executable, "-P", "-m", "shipway.serving")

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_HOST = "127.0.0.1"
_HEALTH_SECONDS = 5.0
_LOAD_SECONDS = 120.0
_LOCK_SECONDS = 300.0
_PRIVATE = 0o600
_GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.05
_LOG_LINES = 15
_EXITS: dict[int, type[ShipwayError]] = {kind.exit_code: kind for kind in (InputError, ClaimHeldError)}


class ServedRevision(BaseModel):
    """A version that an endpoint serves, served or is about to serve.

    Attributes:
        version: The registry's version.
        digest: The digest of its package.
        package: The folder with the copy of its package.
        verified: Whether it passed its checks once it was deployed.
    """

    version: str
    digest: str
    package: str
    verified: bool = False

    def is_same(self, version: str, digest: str) -> bool:
        """Tells whether this is the version with that digest."""
        return (self.version, self.digest) == (version, digest)


class EndpointState(BaseModel):
    """What is meant to be served.

    Attributes:
        port: The port of the latest server; 0 before the first.
        current: What is meant to be served.
        previous: What to come back to when `current` turns out bad.
    """

    schema_version: int = 1
    port: int = 0
    current: ServedRevision | None = None
    previous: ServedRevision | None = None

    def moved_to(self, revision: ServedRevision) -> "EndpointState":
        """Returns the state in which `revision` is meant to be served.

        What to come back to is the current revision, unless that was never verified and the one before it was.
        """
        current, previous = self.current, self.previous
        if current is not None and current.is_same(revision.version, revision.digest):
            return self.model_copy(update={"current": revision.model_copy(update={"verified": current.verified})})
        back = previous if current is None or (previous and previous.verified and not current.verified) else current
        if back is not None and back.is_same(revision.version, revision.digest):
            revision, back = back, None
        return self.model_copy(update={"current": revision, "previous": back})


class LocalEndpoint:
    """Serves one model from a process of this machine.

    Args:
        name: The model's name.
        state: The state folder; default: this project's.
        command: What starts a server; its options are appended.
        start_seconds: How long a server may take to become ready.

    Raises:
        InputError: The name cannot be a file's.
    """

    def __init__(
        self,
        name: str,
        state: Path | None = None,
        *,
        command: Sequence[str] = SERVER_COMMAND,
        start_seconds: float = 120.0,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise InputError(f"endpoint {name!r}: expected lower-case letters, digits, dashes and underscores")
        self.name = name
        self._state = (state or state_folder()).absolute()
        self._folder = self._state / "endpoints"
        self._command = list(command)
        self._start_seconds = start_seconds
        self._claim = self._file("server")

    def status(self) -> EndpointStatus:
        """Returns what is served now, as the server itself says."""
        holder = claimant(self._claim)
        if holder is None:
            return EndpointStatus(self.name)
        url = _url(holder)
        try:
            answer = call("GET", f"{url}/v2/models/{self.name}/ready", seconds=_HEALTH_SECONDS)
        except UnreachableError:
            return EndpointStatus(self.name, url, pid=holder.pid)
        version, digest = (answer.headers.get(f"x-model-{what}", "") for what in ("version", "digest"))
        return EndpointStatus(self.name, url, version, digest, answer.status == 200, holder.pid)

    def stage(self, release: Release) -> Deployment:
        """Serves a release; a living server swaps it in without dropping a request, a dead one is started.

        Raises:
            NotBlessedError: No blessing names the release's digest.
            DigestMismatchError: The package's bytes are not the release's.
            InputError: There is no package, or the port wanted is taken.
            ShipwayError: The release cannot be served; what was served before still is.
        """
        check_blessed(release)
        with self._locked():
            package = local_package(release, self._state)
            wanted = ServedRevision(version=release.version, digest=release.digest, package=str(package))
            live = self.status()
            before = self._known(live)
            after = before.moved_to(wanted)
            changed = not (live.ready and wanted.is_same(live.version, live.digest))
            self._write(after)
            if changed:
                try:
                    self._serve(wanted)
                except ShipwayError:
                    self._write(before)
                    self._revive(before)
                    raise
                live = self.status()
        back = after.previous
        return Deployment(
            name=self.name,
            endpoint="local",
            url=live.url,
            version=release.version,
            digest=release.digest,
            changed=changed,
            previous_version=back.version if back else "",
            previous_digest=back.digest if back else "",
            previous_package=back.package if back else "",
        )

    def confirm(self, deployment: Deployment) -> None:
        """Notes that a deployment passed its checks, so that a later one may come back to it."""
        with self._locked():
            state = self._read()
            current = state.current
            if current and current.is_same(deployment.version, deployment.digest) and not current.verified:
                self._write(state.model_copy(update={"current": current.model_copy(update={"verified": True})}))

    def restore(self, deployment: Deployment) -> EndpointStatus:
        """Takes a deployment back: serves what was served before it, or stops where nothing was.

        Where something else has been deployed since, that stays.

        Raises:
            ShipwayError: The earlier version cannot be served.
        """
        with self._locked():
            live, state = self.status(), self._read()
            meant = state.current is not None and state.current.is_same(deployment.version, deployment.digest)
            served = (live.version, live.digest) == (deployment.version, deployment.digest)
            if live.ready and not meant and not served:
                return live
            if not deployment.previous_digest:
                self._end()
                self._write(state.model_copy(update={"current": None, "previous": None}))
                return EndpointStatus(self.name)
            earlier = ServedRevision(
                version=deployment.previous_version,
                digest=deployment.previous_digest,
                package=deployment.previous_package,
                verified=True,
            )
            self._write(state.model_copy(update={"current": earlier, "previous": None}))
            self._serve(earlier)
            return self.status()

    def stop(self) -> EndpointStatus:
        """Ends the server and returns what it served; its port is kept for the next one."""
        with self._locked():
            live = self.status()
            self._end()
            self._write(self._read().model_copy(update={"current": None, "previous": None}))
            return live

    def _serve(self, revision: ServedRevision) -> None:
        """Makes the server serve a revision: through its administration while it answers, else by a new process."""
        holder = claimant(self._claim)
        if holder is None:
            try:
                self._start(revision)
                return
            except ClaimHeldError:
                # A server that a killed deploy had started came first; it will do.
                holder = claimant(self._claim)
                if holder is None:
                    raise
        try:
            answer = self._load(holder, revision)
        except UnreachableError:
            answer = None
        if answer is None or answer.status in (401, 403, 404):
            # It hangs, or is not the server that this state folder's token and name belong to: nothing to swap in.
            self._end(patience=0.0)
            self._start(revision)
        elif answer.status == 409:
            raise DigestMismatchError(f"{self.name} version {revision.version}: {answer.reason()}")
        elif answer.status != 200:
            raise ShipwayError(f"{self.name} version {revision.version} cannot be served: {answer.reason()}")

    def _load(self, holder: Claimant, revision: ServedRevision) -> Answer | None:
        """Asks a server to swap; None where it is another one than the claim's."""
        url = _url(holder)
        identity = call("GET", f"{url}/v2", seconds=_HEALTH_SECONDS).json()
        if not isinstance(identity, dict) or identity.get("instance") != holder.instance:
            return None
        order = {"path": revision.package, "version": revision.version, "digest": revision.digest}
        return call(
            "POST",
            f"{url}/v2/repository/models/{self.name}/load",
            json_bytes(order),
            {"authorization": f"Bearer {self._token()}"},
            _LOAD_SECONDS,
        )

    def _start(self, revision: ServedRevision) -> None:
        """Starts a server and waits until it is ready.

        Raises:
            ShipwayError: It ended, or did not become ready in time; the message has the end of its log.
        """
        state = self._read()
        self._token()
        port = os.environ.get(PORT_VARIABLE, "") or "0"
        if not port.isdigit():
            raise InputError(f"{PORT_VARIABLE}: expected a port, found {port!r}")
        instance = secrets.token_hex(8)
        arguments = [
            *("--package", revision.package, "--name", self.name, "--version", revision.version),
            *("--digest", revision.digest, "--host", _HOST, "--port", port, "--prefer-port", str(state.port)),
            *("--token-file", str(self._file("token")), "--state-file", str(self._claim)),
            *("--instance", instance),
        ]
        log = self._file("log")
        process = start_process(self._command, arguments, self._folder, log)
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            code = process.returncode
            if code is not None:
                kind = _EXITS.get(code, ShipwayError)
                raise kind(
                    f"{self.name} version {revision.version}: the server ended at once (exit {code}){_tail(log)}"
                )
            holder = claimant(self._claim)
            live = self.status() if holder is not None and holder.instance == instance else None
            if live is not None and live.ready:
                self._write(self._read().model_copy(update={"port": int(live.url.rpartition(":")[2])}))
                return
            time.sleep(_POLL_SECONDS)
        process.kill()
        raise ShipwayError(
            f"{self.name} version {revision.version}: the server was not ready after {self._start_seconds:g} s"
            f"{_tail(log)}"
        )

    def _revive(self, state: EndpointState) -> None:
        """Starts what was served before a failed deploy, where that deploy's attempt found its server dead."""
        if state.current is not None and claimant(self._claim) is None and Path(state.current.package).is_dir():
            # The failed deploy is what the caller has to hear of.
            with contextlib.suppress(ShipwayError):
                self._start(state.current)

    def _end(self, patience: float | None = None) -> None:
        """Ends the server, if one lives: by SIGTERM, and by SIGKILL when that takes longer than `patience` seconds."""
        patience = _GRACE_SECONDS if patience is None else patience
        holder = claimant(self._claim)
        if holder is None:
            return
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, _GRACE_SECONDS)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.pid, number)
            deadline = time.monotonic() + seconds
            while is_held(self._claim):
                if time.monotonic() >= deadline:
                    break
                time.sleep(_POLL_SECONDS)
            else:
                return
        raise ShipwayError(f"{self.name}: the server process {holder.pid} does not end")

    def _known(self, live: EndpointStatus) -> EndpointState:
        """Returns the state; where it was lost, what the living server says stands in for it."""
        state = self._read()
        if state.current is None and live.ready:
            package = package_folder(live.digest, self._state)
            if package.is_dir() and digest_tree(package) == live.digest:
                found = ServedRevision(version=live.version, digest=live.digest, package=str(package))
                return state.model_copy(update={"current": found})
        return state

    def _token(self) -> str:
        path = self._file("token")
        if path.is_file() and (token := path.read_text().strip()):
            return token
        token = secrets.token_urlsafe(32)
        write_bytes(path, token.encode(), _PRIVATE)
        return token

    def _read(self) -> EndpointState:
        try:
            return EndpointState.model_validate_json(self._file("json").read_text())
        except (OSError, ValidationError):
            # Only says what was meant; without it, the server is asked, or started anew.
            return EndpointState()

    def _write(self, state: EndpointState) -> None:
        write_bytes(self._file("json"), (state.model_dump_json(indent=2) + "\n").encode(), _PRIVATE)

    def _file(self, kind: str) -> Path:
        return self._folder / f"{self.name}.{kind}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o700)
        except OSError as error:
            raise InputError(f"{self._folder}: cannot keep the endpoint's state there: {error.strerror}") from error
        with exclusive(self._file("lock"), _LOCK_SECONDS, f"endpoint {self.name}"):
            yield


def list_endpoints(state: Path | None = None) -> list[EndpointStatus]:
    """Returns the endpoints of a state folder that have a server process, by name."""
    found = [LocalEndpoint(name, state).status() for name in _names(state)]
    return [status for status in found if status.pid]


def stop_all(state: Path | None = None) -> list[EndpointStatus]:
    """Ends every server of a state folder and returns what each served, by name."""
    return [LocalEndpoint(status.name, state).stop() for status in list_endpoints(state)]


def _names(state: Path | None) -> list[str]:
    folder = (state or state_folder()) / "endpoints"
    return sorted(
        {path.stem for kind in ("json", "server") for path in folder.glob(f"*.{kind}") if _NAME.fullmatch(path.stem)}
    )


def _url(holder: Claimant) -> str:
    return f"http://{holder.host}:{holder.port}"


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        lines = []
    return "; its log:\n" + "\n".join(f"  {line}" for line in lines) if lines else "; its log is empty"
